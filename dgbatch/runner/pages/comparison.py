"""Two runs side by side: settings, model, quality, speed and rows. What `dgbatch diff` shows, as plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from dgbatch.runner.difference import DIGITS, input_difference
from dgbatch.runner.fingerprint import changed_fields
from dgbatch.runner.pages.row_difference import EXAMPLES, Quality, RowDifference, row_difference
from dgbatch.runner.status import Status, status_of

if TYPE_CHECKING:
    from dgbatch.runner.run_folder import Run

Kind = Literal["count", "share", "number"]
Setting = tuple[str, Any, Any]  # name, in A, in B; None: not set
AT_WORK = ("validating", "in_progress", "finalizing")


@dataclass(frozen=True, slots=True)
class Measure:
    """One number of both runs. A share is in 0..1; None: not known, or the run has no such thing."""

    name: str
    a: float | None
    b: float | None
    kind: Kind = "number"
    better: Literal[-1, 0, 1] = 0  # more is worse, neither, better

    @property
    def change(self) -> float | None:
        """Of a share in points of a hundred, of all else in hundredths of A."""
        if self.a is None or self.b is None:
            return None
        if self.kind == "share":
            return 100 * (self.b - self.a)
        return 100 * (self.b / self.a - 1) if self.a else None

    @property
    def verdict(self) -> Literal["better", "worse", ""]:
        if self.a is None or self.b is None or self.a == self.b or not self.better:
            return ""
        return "better" if (self.b > self.a) == (self.better > 0) else "worse"


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two runs."""

    path: str
    name: str
    created_at: str
    status: Status

    @property
    def caution(self) -> str:
        """What is to be known of a run that is not complete; nothing of one that is."""
        status, rows = self.status, f"{self.status.tally.rows:,} of {self.status.expected:,} rows are committed"
        if status.state == "completed":
            return ""
        if status.state in AT_WORK:
            return f"is at work: {rows}, and only they are compared"
        return f"is not complete ({status.state}): {rows}, and only they are compared"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of run A with run B."""

    a: Side
    b: Side
    deciding: tuple[Setting, ...]  # settings that differ and decide rows or tokens
    other: tuple[Setting, ...]  # that differ and decide neither
    input: tuple[str, ...]  # lines on input files that differ
    model: tuple[Setting, ...]  # checkpoint, device and versions, where they differ
    quality: tuple[Measure, ...]
    speed: tuple[Measure, ...]
    rows: RowDifference

    @property
    def nothing_in_common(self) -> str:
        """Why no row can be compared; nothing where some can."""
        rows = self.rows
        if rows.both:
            return ""
        for side, completed in ((self.a, rows.only_a), (self.b, rows.only_b)):
            if not completed:
                return f"{side.path} has no completed rows yet, so no row can be compared."
        return (
            f"No id is in both runs, so no row can be compared: A has rows like {rows.ids[0]!r}, B like "
            f"{rows.ids[1]!r}. Rows are matched by the column that input.id names, and their sample."
        )

    def to_json(self) -> dict[str, Any]:
        sides = {
            name: {"run": side.path, "name": side.name, "created_at": side.created_at, **side.status.to_json()}
            for name, side in (("a", self.a), ("b", self.b))
        }
        settings = {
            name: [{"setting": path, "a": a, "b": b} for path, a, b in found]
            for name, found in (("deciding", self.deciding), ("other", self.other), ("model", self.model))
        }
        measures = {
            name: [asdict(each) for each in found] for name, found in (("quality", self.quality), ("speed", self.speed))
        }
        rows = {**asdict(self.rows), "agree": self.rows.agree}
        del rows["ids"]
        return {**sides, "settings": settings, "input": list(self.input), **measures, "rows": rows}


def compare(a: Run, b: Run, examples: int = EXAMPLES) -> Comparison:
    """Raises OutputError for a run whose rows cannot be read."""
    ledgers = a.ledger(), b.ledger()
    rows, quality_a, quality_b = row_difference((a, ledgers[0]), (b, ledgers[1]), examples)
    sides = tuple(Side(run.path, run.info["name"], run.info["created_at"], status_of(run)) for run in (a, b))
    jobs = a.spec.public(), b.spec.public()  # with today's defaults where a run is older than a setting
    counting = changed_fields(*jobs)
    told = {"name", "output.path", "model.checkpoint", *(path for path, _, _ in counting)}
    return Comparison(
        a=sides[0],
        b=sides[1],
        deciding=tuple(counting),
        other=tuple(each for each in changed_fields(*jobs, all_of_them=True) if each[0] not in told),
        input=tuple(input_difference(a.plan, b.plan)),
        model=tuple(_model(a, b)),
        quality=tuple(_quality(sides[0].status, sides[1].status, quality_a, quality_b)),
        speed=tuple(_speed(a, b, sides[0].status, sides[1].status)),
        rows=rows,
    )


def _model(a: Run, b: Run) -> list[Setting]:
    def of(run: Run) -> dict[str, Any]:
        model = run.info.get("model", {})
        checksum = model.get("checksum")
        known = {f"version of {name}": version for name, version in run.info.get("versions", {}).items()}
        devices = ", ".join(f"{name} ({noted['in_flight']} in flight)" for name, noted in run.canvases.items())
        return {"checksum of the model": checksum and checksum[:DIGITS], "devices": devices or None, **known}

    return _different(of(a), of(b))


def _different(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Setting]:
    names = [*a, *(name for name in b if name not in a)]
    return [(name, a.get(name), b.get(name)) for name in names if a.get(name) != b.get(name)]


def _quality(a: Status, b: Status, quality_a: Quality, quality_b: Quality) -> list[Measure]:
    found = [
        Measure("rows completed", a.tally.ok, b.tally.ok, "count"),
        Measure("in quarantine", a.tally.quarantined, b.tally.quarantined, "count", -1),
    ]
    codes = _codes(a), _codes(b)
    found += [
        Measure(f"  {code}", _rows_of(code, codes[0]), _rows_of(code, codes[1]), "count", -1)
        for code in _names(*(of or {} for of in codes))
    ]
    if a.judged or b.judged:
        shares = [_share(each.tally.accepted, each.tally.ok) if each.judged else None for each in (a, b)]
        found.append(Measure("accepted", shares[0], shares[1], "share", 1))
    rules = _names(quality_a.rules, quality_b.rules)
    for rule in rules if len(rules) > 1 else ():
        passed = [_share(of.rules.get(rule), each.tally.ok) for of, each in ((quality_a, a), (quality_b, b))]
        found.append(Measure(f"  {rule}", passed[0], passed[1], "share", 1))
    for reason in _names(quality_a.finish, quality_b.finish):
        ended = [_share(of.finish.get(reason, 0), each.tally.ok) for of, each in ((quality_a, a), (quality_b, b))]
        found.append(Measure(f"ended by {reason}", ended[0], ended[1], "share"))
    tokens = [_share(each.tally.tokens, each.tally.ok) for each in (a, b)]
    return [*found, Measure("tokens per row", tokens[0], tokens[1])]


def _speed(run_a: Run, run_b: Run, a: Status, b: Status) -> list[Measure]:
    forward = [_share(each.tally.tokens, each.tally.denoise_steps) for each in (a, b)]
    found = [
        Measure("tokens per second", a.tokens_per_s, b.tokens_per_s, better=1),
        Measure("rows per second", a.rows_per_s, b.rows_per_s, better=1),
        Measure("steps per canvas", a.tally.steps_per_canvas, b.tally.steps_per_canvas, better=-1),
        Measure("tokens per forward", forward[0], forward[1], better=1),
        Measure("prompt tokens", a.tally.prompt_tokens, b.tally.prompt_tokens, "count"),
        Measure("tokens", a.tally.tokens, b.tally.tokens, "count"),
    ]
    phases = _phases(run_a), _phases(run_b)
    for phase in _names(*phases):
        parts = [_share(of.get(phase, 0.0), sum(of.values())) for of in phases]
        found.append(Measure(f"time in {phase.replace('_', ' ')}", parts[0], parts[1], "share"))
    return found


def _phases(run: Run) -> Counter[str]:
    """Seconds of all workers by phase, as their stats tell them; nothing where they tell none."""
    seconds: Counter[str] = Counter()
    for event in run.events():
        if event.get("kind") == "worker_stats" and isinstance(event.get("seconds"), Mapping):
            seconds.update({str(phase): float(took) for phase, took in event["seconds"].items()})
    return seconds


def _codes(status: Status) -> dict[str, int] | None:
    """Rows by error code; None where records of an older version do not say."""
    codes = dict(status.tally.sums.quarantined)
    return codes if sum(codes.values()) == status.tally.quarantined else None


def _rows_of(code: str, codes: Mapping[str, int] | None) -> int | None:
    return None if codes is None else codes.get(code, 0)


def _names(*tables: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(name for table in tables for name in table))


def _share(part: float | None, whole: float) -> float | None:
    return part / whole if whole and part is not None else None


def number(value: float | None, kind: Kind = "number") -> str:
    """As people are shown it."""
    if value is None:
        return "-"
    if kind == "share":
        return f"{value:.1%}"
    return f"{value:,.0f}" if kind == "count" or abs(value) >= 1000 else f"{value:,.2f}"


def change(measure: Measure) -> str:
    """+1.3 pts (points of a hundred), -12 %; nothing where nothing has changed."""
    if measure.a == measure.b:
        return ""
    if measure.change is None:
        return "-" if measure.a is None or measure.b is None else f"+{measure.b:,.0f}"
    return f"{measure.change:+.1f} pts" if measure.kind == "share" else f"{measure.change:+.1f} %"
