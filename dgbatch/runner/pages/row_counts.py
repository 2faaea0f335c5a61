"""What the rows of a run come to, counted by DuckDB one part of the files after the other.

Whatever is kept can be added up: counts by value, a few examples, the slowest so far. Memory does not grow with rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dgbatch.runner.accept import Rules
from dgbatch.runner.pages.parts import Ask, in_parts

if TYPE_CHECKING:
    from dgbatch.runner.ledger import Ledger
    from dgbatch.runner.run_folder import Run

SLOWEST = 10  # rows
EXAMPLES = 3  # of each reason for quarantine
LONGEST = 600  # characters of a row or a message that are kept
STEP = 200  # parts of a factor e: durations are counted to half a percent, so that millions have few values
FINE = 64  # parts of 1, of ratios

# The narrow columns of a part, read once.
ROWS = """
create temp table narrow as
select id, sample, prompt_tokens, tokens, canvases, denoise_steps, finish_reason, {more} from rows
"""
MEASURED = "prefill_s + denoise_s as seconds, revised_tokens as revised"
UNMEASURED = "null::double as seconds, null::int as revised"

# Counts by value, each column for itself: `which` has a bit for each column that is not the one counted.
COUNTED = f"""
select grouping(prompt, generated, steps, forward, finish, took) as which,
       coalesce(prompt, generated, steps, forward, took), finish, count(*), sum(canvases)
from (select prompt_tokens as prompt, tokens as generated, canvases, finish_reason as finish,
             round(denoise_steps / canvases) as steps,
             round({FINE}.0 * tokens / denoise_steps) / {FINE} as forward,
             exp(round(ln(greatest(seconds, 0.0001)) * {STEP}) / {STEP}) as took
      from narrow)
group by grouping sets ((prompt), (generated), (steps), (forward), (finish), (took))
"""
COLUMNS = ("prompt", "generated", "steps", "forward", "finish", "took")
WHICH = {63 - 2 ** (5 - place): name for place, name in enumerate(COLUMNS)}


@dataclass(frozen=True, slots=True)
class Example:
    """A quarantined row."""

    id: str
    sample: int
    attempts: int
    message: str
    row: str  # its input


@dataclass(frozen=True, slots=True)
class SlowRow:
    """One of the rows that took longest."""

    id: str
    sample: int
    prompt_tokens: int
    tokens: int
    canvases: int
    denoise_steps: int
    finish_reason: str
    seconds: float | None  # None where the job does not keep it


@dataclass(slots=True)
class RowCounts:
    """Sums over the rows in data/ and quarantine/."""

    prompt_tokens: Counter[float] = field(default_factory=Counter)  # value -> rows
    tokens: Counter[float] = field(default_factory=Counter)
    steps_per_canvas: Counter[float] = field(default_factory=Counter)  # mean of a row, rounded -> canvases
    tokens_per_forward: Counter[float] = field(default_factory=Counter)
    seconds: Counter[float] = field(default_factory=Counter)  # nothing where the job does not keep them
    finish: Counter[str] = field(default_factory=Counter)
    passed: Counter[str] = field(default_factory=Counter)  # rule -> rows
    revised_tokens: int = 0
    slowest: list[SlowRow] = field(default_factory=list)
    quarantined: Counter[str] = field(default_factory=Counter)  # error code -> rows
    examples: dict[str, list[Example]] = field(default_factory=dict)

    def add_data(self, ask: Ask, rules: Sequence[str], measured: bool) -> None:
        """Some more rows of data/."""
        more = MEASURED if measured else UNMEASURED
        ask(ROWS.format(more=f"{more}, rules" if rules else more))
        counted = {
            "prompt": self.prompt_tokens, "generated": self.tokens, "steps": self.steps_per_canvas,
            "forward": self.tokens_per_forward, "took": self.seconds,
        }  # fmt: skip
        for which, value, reason, rows, canvases in ask(COUNTED):
            column = WHICH[which]
            if column == "finish":
                self.finish[reason] += rows
            elif value is not None:
                counted[column][float(value)] += int(canvases) if column == "steps" else rows
        if rules:
            sums = ", ".join(f"count(*) filter (rules[{_quoted(name)}])" for name in rules)
            self.passed.update(dict(zip(rules, ask(f"select {sums} from narrow")[0], strict=True)))
        self.revised_tokens += int(ask("select coalesce(sum(revised), 0) from narrow")[0][0])
        measure = "seconds" if measured else "denoise_steps"
        names = ", ".join(SlowRow.__dataclass_fields__)
        slow = ask(f"select {names} from narrow order by {measure} desc, id, sample limit {SLOWEST}")
        found = [*self.slowest, *(SlowRow(*row) for row in slow)]
        self.slowest = sorted(found, key=lambda row: (-getattr(row, measure), row.id, row.sample))[:SLOWEST]

    def add_quarantine(self, ask: Ask, columns: Sequence[str]) -> None:
        """Some more rows of quarantine/. columns: of the input."""
        for code, rows in ask("select error_code, count(*) from rows group by 1 order by 1"):
            self.quarantined[code] += rows
            kept = self.examples.setdefault(code, [])
            if len(kept) < EXAMPLES:
                kept += _examples(ask, code, columns, EXAMPLES - len(kept))


def count_rows(run: Run, ledger: Ledger) -> RowCounts:
    """All that is committed. Raises OutputError for a file that is gone or cannot be read."""
    counts, rules = RowCounts(), Rules(run.spec.accept).names
    for ask in in_parts(run, "data", ledger):
        counts.add_data(ask, rules, run.spec.output.metrics)
    for ask in in_parts(run, "quarantine", ledger):
        counts.add_quarantine(ask, [name for _, name in run.schemas.quarantine_columns])
    return counts


def _examples(ask: Ask, code: str, columns: Sequence[str], most: int) -> list[Example]:
    row = ", ".join(f"left({_name(name)}::varchar, {LONGEST})" for name in columns) or "null"
    found = ask(
        f"select id, sample, attempts, left(error_message, {LONGEST}), {row} from rows where error_code = ? "
        f"limit {most}",
        [code],
    )
    return [
        Example(row_id, sample, attempts, message, _row(columns, values))
        for row_id, sample, attempts, message, *values in found
    ]


def _row(columns: Sequence[str], values: Sequence[Any]) -> str:
    """name: value of each column, as far as there is room."""
    text = "\n".join(f"{name}: {value}" for name, value in zip(columns, values, strict=False) if value is not None)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
