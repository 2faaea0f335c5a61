"""Write the reference pages that are made from code: docs/job.md, docs/cli.md and docs/metrics.md.

    python docs/generate.py

tests/test_docs.py fails while a page on disk differs from what the code says.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import typer

from dgbatch.cli import app
from dgbatch.records import PHASES
from dgbatch.runner.complaints import expected, kinds
from dgbatch.runner.metrics import (
    COMMIT_BOUNDS,
    KINDS,
    METRICS,
    PREFIX,
    RESTARTS,
    RETRIES,
    SHARD_STATES,
    STATES,
    STATUSES,
    WORKER_STATES,
    Metric,
)
from dgbatch.runner.spec import JobSpec
from dgbatch.runner.sums import BOUNDS

DOCS = Path(__file__).parent
NOTE = "<!-- Made by docs/generate.py from the code: change it there. -->"


def job_page() -> str:
    """Every key of a job file, with what it takes and its default."""
    lines = [
        "# The job file",
        "",
        NOTE,
        "",
        "YAML. Unknown keys are errors; relative paths are relative to the job file; `${NAME}` reads the environment",
        "in locations, and its value is never written anywhere. `--set key.path=value` overrides any key.",
        "",
        "| key | takes | default | meaning |",
        "| --- | --- | --- | --- |",
        *_rows(JobSpec, ""),
    ]
    return "\n".join(lines) + "\n"


def _rows(model: Any, path: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        block = next((kind for kind in kinds(field.annotation) if hasattr(kind, "model_fields")), None)
        if block is not None:
            wanted = "" if not field.is_required() else " (required)"
            yield f"| **`{path}{name}`** |{wanted} | | {field.description} |"
            yield from _rows(block, f"{path}{name}.")
            continue
        yield _row(f"{path}{name}", field)
        for inside in (block for kind in kinds(field.annotation) for block in get_args(kind)):
            if hasattr(inside, "model_fields"):
                yield from _rows(inside, f"{path}{name}[].")


def _row(path: str, field: Any) -> str:
    default = "required" if field.is_required() else _shown(field.get_default(call_default_factory=True))
    return f"| `{path}` | {expected(field.annotation)} | {default} | {field.description} |"


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return "none" if value == () else f"`{value}`"


def cli_page() -> str:
    """Every command with its arguments and options."""
    command = typer.main.get_command(app)
    lines = ["# Commands", "", NOTE, "", *command.epilog.splitlines(), ""]
    for name, sub in _commands(command):
        arguments = " ".join(p.name.upper() for p in sub.params if p.param_type_name == "argument")
        lines += [f"## `dgbatch {name} {arguments}".rstrip() + "`", "", *sub.help.strip().splitlines(), ""]
        options = [p for p in sub.params if p.param_type_name == "option" and not p.hidden and p.name != "help"]
        if options:
            lines += ["| option | meaning |", "| --- | --- |"]
            lines += [f"| `{', '.join([*p.opts, *p.secondary_opts])}` | {p.help or ''} |" for p in options]
            lines.append("")
    return "\n".join(line.rstrip() for line in lines).rstrip() + "\n"


def _commands(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Every command with its full name; a group gives those in it."""
    for name, sub in group.commands.items():
        if hasattr(sub, "commands"):
            yield from _commands(sub, f"{before}{name} ")
        else:
            yield f"{before}{name}", sub


def metrics_page() -> str:
    """Every metric with its kind, labels and help."""
    lines = ["# Metrics", "", NOTE, "", METRICS_INTRO, ""]
    for origin, (title, about) in ORIGINS.items():
        lines += [f"## {title}", "", about, "", "| metric | kind | labels | unit | meaning |"]
        lines += ["| --- | --- | --- | --- | --- |"]
        lines += [_metric(metric) for metric in METRICS if metric.origin == origin]
        lines.append("")
    values = {
        "`status`": STATUSES, "`kind`": KINDS, "`state` of shards": SHARD_STATES, "`state` of workers": WORKER_STATES,
        "`state` of run_state": STATES, "`reason` of retries": RETRIES, "`reason` of restarts": RESTARTS,
        "`phase`": PHASES,
    }  # fmt: skip
    lines += ["## What the labels say", "", "| label | values |", "| --- | --- |"]
    lines += [f"| {label} | {', '.join(f'`{name}`' for name in names)} |" for label, names in values.items()]
    lines += ["| `code` | the codes of [quarantined rows](quarantine.md) |", "", "## Buckets", ""]
    buckets = {**BOUNDS, "commit_duration_s": COMMIT_BOUNDS}
    for name, bounds in buckets.items():
        shown = f"{name}econds" if name.endswith("_s") else name
        lines.append(f"- `{PREFIX}{shown}`: {', '.join(f'{bound:g}' for bound in bounds)}")
    return "\n".join(lines) + "\n"


def _metric(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels) or "-"
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.unit} | {metric.help} |"


METRICS_INTRO = """\
While a job runs, its driver serves these at `/metrics`; `submit` says where. Every series also has the label `job`, the
name of the job, so a scrape config needs `honor_labels: true`. Prometheus finds the drivers of a machine by files in
`$DGBATCH_TARGETS`, else `$XDG_STATE_HOME/dgbatch/targets`, else `~/.local/state/dgbatch/targets`; a file goes with its
driver, or with the next one when that was killed. [How to set it all up](monitoring.md).

The block [`metrics`](job.md) of the job file says more: another port or address, none at all, a Pushgateway for jobs
that are over before they are scraped, a file for node_exporter's textfile collector. A push or a file that fails costs
the job nothing but a line and an event. The last page stays in the run folder as `_dgbatch/metrics.prom`."""
ORIGINS = {
    "commits": (
        "What is committed",
        "Sums over the commit records that count. A driver that was killed begins where they stand, so these are the "
        "dataset's own numbers at any time ([why](adr/0010-totals-from-commit-records.md)).",
    ),
    "driver": ("What the driver knows", "Counters of this group begin at 0 with each submit."),
    "workers": (
        "What the workers do",
        "From each worker's heartbeat, twice a second or oftener. The series of a worker that is gone are gone too; "
        "one that takes its place begins at 0 under the same name.",
    ),
}
PAGES = {"job.md": job_page, "cli.md": cli_page, "metrics.md": metrics_page}

if __name__ == "__main__":
    for page, write in PAGES.items():
        (DOCS / page).write_text(write(), encoding="utf-8")
