"""The report: a run as one HTML page that needs nothing else. page.html, page.css and page.js are its parts.

Everything from data is escaped by Jinja, and the page forbids itself the network and foreign scripts (its
Content-Security-Policy), so that a row cannot do more than be read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import jinja2

from dgbatch.errors import DgbatchError, OutputError, of_os_error
from dgbatch.runner.layout import REPORT
from dgbatch.runner.pages import plots
from dgbatch.runner.pages.figures import Figures, figures
from dgbatch.runner.pages.film import film_html, films
from dgbatch.runner.pages.recipe import recipe
from dgbatch.runner.storage.folder import PARTIAL
from dgbatch.runner.terminal.plain import clock, rate
from dgbatch.runner.verify import Verification

if TYPE_CHECKING:
    from datetime import datetime

    from jinja2.runtime import Context

    from dgbatch.runner.run_folder import Run

HERE = Path(__file__).parent
MARK = '<meta name="generator" content="dgbatch report">'  # by which we know a page of ours
HEAD_BYTES = 400  # of a page, in which the mark stands
DULL = {"worker_ready", "worker_stats", "shard_cut", "finalizing", "metrics"}  # events that the page tells otherwise
MOST_EVENTS = 60


@dataclass(frozen=True, slots=True)
class Written:
    """A page and where it lies."""

    path: str
    bytes: int
    figures: Figures


def write_report(
    run: Run, out: str | None = None, price_per_gpu_hour: float | None = None, now: datetime | None = None
) -> Written:
    """Write the page into the run, or to this file. Raises OutputError where it cannot be, or a file is not ours."""
    if out is not None:
        refuse_foreign("--out", out, MARK, "report")
    try:
        found = figures(run, price_per_gpu_hour, now)
        page = render(run, found).encode("utf-8", "replace")  # the name of a file may be no text
    except OSError as error:
        raise of_os_error(error, f"{run.path}: cannot be read", "Check its permissions.") from error
    if out is None:
        path = str(run.folder.at(REPORT))
        try:
            run.folder.put(REPORT, page)
        except OSError as error:
            raise of_os_error(error, f"{path}: cannot be written", "Name another file with --out.") from error
    else:
        path = out
        _put(out, page)
    return Written(path, len(page), found)


def report_at_the_end(run: Run) -> str:
    """Write the page of a run that is complete, and say where; nothing, and an event, where that fails."""
    try:
        return write_report(run).path
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  # the dataset is whole without it
        with suppress(DgbatchError):
            run.event("report_failed", reason=f"{type(error).__name__}: {error}")
        return ""


def render(run: Run, found: Figures) -> str:
    """The page."""
    return _template().render(
        hide=run.spec.hide,
        run=run,
        info=run.info,
        found=found,
        status=found.status,
        tally=found.status.tally,
        recipe=recipe(run, found.events),
        proof=_proof(found),
        happened=_happened(found),
        plots=_plots(found),
        phases=_phases(found),
        told=[life for life in found.lives if life.phases],
        most_workers=plots.MOST_WORKERS,
        engine=_engine(found),
        films=film_html(films(run)),
        library=plots.library(),
        style=(HERE / "page.css").read_text(encoding="utf-8"),
        script=(HERE / "page.js").read_text(encoding="utf-8"),
        mark=MARK,
    )


def _plots(found: Figures) -> dict[str, plots.Plot]:
    """By the id of the element that each is drawn in."""
    made: dict[str, plots.Plot] = {}
    if found.throughput is not None:
        made["tokens-per-s"] = plots.over_time(found.throughput, found.throughput.tokens_per_s, "tokens/s")
        made["rows-per-s"] = plots.over_time(found.throughput, found.throughput.rows_per_s, "rows/s")
    if any(life.phases for life in found.lives):
        made["phases"] = plots.phases(found.lives)
    rows = found.distributions
    for name, distribution, axis, noun in (
        ("steps-per-canvas", rows.steps_per_canvas, "denoising steps", "canvases"),
        ("tokens-per-forward", rows.tokens_per_forward, "tokens per forward", "rows"),
        ("prompt-tokens", rows.prompt_tokens, "prompt tokens", "rows"),
        ("tokens", rows.tokens, "generated tokens", "rows"),
        ("seconds", rows.seconds, "seconds", "rows"),
    ):
        if distribution is not None:
            made[name] = plots.bars(distribution, axis, noun)
    return made


def _phases(found: Figures) -> list[tuple[str, str, float, float]]:
    """(phase, its colour, seconds, share) over all workers that told of their time."""
    total = sum(sum(life.phases.values()) for life in found.lives) or 1.0
    seconds = [
        (phase, sum(life.phases.get(phase, 0.0) for life in found.lives)) for phase in plots.known_phases(found.lives)
    ]
    return [(phase.replace("_", " "), plots.colour(phase), took, took / total) for phase, took in seconds]


def _engine(found: Figures) -> list[str]:
    """What else the workers' stats say, over all of them."""
    stats = [life.stats for life in found.lives if life.stats]

    def total(name: str) -> int:
        return sum(int(each.get(name) or 0) for each in stats)

    said = []
    if total("passes"):
        said.append(f"{total('tiles') / total('passes'):.1f} tiles in a pass")
    if total("shared_tokens"):
        said.append(f"{total('shared_tokens'):,} prompt tokens found in the prefix cache")
    if peak := max((int(each.get("peak_bytes") or 0) for each in stats), default=0):
        said.append(f"peak memory {peak / 2**30:.1f} GiB")
    if ratios := [float(each["roofline"]) for each in stats if each.get("roofline")]:
        said.append(f"{share(sum(ratios), len(ratios))} of the device's limit while denoising")
    return said


def _proof(found: Figures) -> tuple[str, str]:
    """(holds, fails or open; the sentence): what verify said when the run was completed."""
    if found.status.state != "completed":
        reason = found.status.reason
        return ("fails", reason) if "does not hold" in reason else ("open", "")
    told = next((event for event in reversed(found.events) if event.get("verified")), None)
    if told is None:
        return "holds", ""
    known = Verification.__dataclass_fields__
    proof = Verification(**{name: value for name, value in told["verified"].items() if name in known})
    return ("holds" if proof.holds else "fails"), str(proof)


def _happened(found: Figures) -> list[Mapping[str, Any]]:
    """The latest events that are worth a line, oldest first."""
    return [event for event in found.events if event.get("kind") not in DULL][-MOST_EVENTS:]


def refuse_foreign(option: str, path: str, mark: str, kind: str) -> None:
    """OutputError for a URI, and for a file that is there without this mark: it may be somebody's only copy."""
    if "://" in path:
        raise OutputError(f"{option} {path}: a page is written to a disk, not into a store. Give a path.")
    try:
        with open(path, "rb") as file:
            if mark.encode() in file.read(HEAD_BYTES):
                return
    except FileNotFoundError:
        return
    except OSError as error:
        raise of_os_error(error, f"{option} {path}: cannot be written", "Choose another name.") from error
    raise OutputError(f"{option} {path}: exists and is no {kind} of dgbatch. Remove it, or choose another name.")


def _put(out: str, page: bytes) -> None:
    """All of it under this name, or none."""
    target = Path(out).absolute()
    partial = target.parent / f".{target.name}.{uuid4().hex}{PARTIAL}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(page)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise of_os_error(error, f"--out {out}: cannot be written", "Choose another name.") from error


@jinja2.pass_context
def _printed(context: Context, value: Any) -> Any:
    """What stands in the page for a value: ${NAME} in place of secrets, whatever they got into."""
    return context["hide"](value) if type(value) is str else value


@cache
def _template() -> jinja2.Template:
    parts = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        finalize=_printed,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for words in (number, share, clock, rate, when, hours, duration):
        parts.filters[words.__name__] = words
    return parts.get_template("page.html")


def number(value: Any) -> str:
    """1,234; 1.23; 12.0 of 11.98; a dash for nothing."""
    if value is None:
        return "–"
    if isinstance(value, float) and not value.is_integer():
        return f"{value:#.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,.0f}" if isinstance(value, (int, float)) else str(value)


def share(part: float, whole: float) -> str:
    """98.7 %; nothing is rounded up to all of it, nor down to none."""
    if not whole:
        return "–"
    ratio = 100 * part / whole
    if 0 < ratio < 0.1:
        return "< 0.1 %"
    return "> 99.9 %" if 99.95 <= ratio < 100 else f"{ratio:.1f} %".replace(".0 %", " %")


def hours(value: float) -> str:
    """Enough digits to reckon with."""
    return f"{value:,.2f}" if value >= 1 else f"{value:.2g}" if value else "0"


def duration(seconds: float) -> str:
    """12.3 s; from a hundred on as a clock."""
    return f"{seconds:.1f} s" if seconds < 100 else clock(seconds)


def when(at: str | datetime) -> str:
    """2026-11-21 17:03:12 UTC, of a time as events have it."""
    return f"{str(at)[:19].replace('T', ' ')} UTC"
