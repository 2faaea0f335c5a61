"""`dgbatch diff`: two runs side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from dgbatch.cli.options import AsJson
from dgbatch.runner.terminal.plain import printable

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from dgbatch.runner.pages.comparison import Comparison, Measure, Setting
    from dgbatch.runner.pages.row_difference import Example
    from dgbatch.runner.terminal.words import Part

LONGEST = 320  # characters of an example on a terminal; the page has more
COLOURS = {"better": "green", "worse": "red", "": "dim"}


def diff(
    a: Annotated[str, typer.Argument(metavar="RUN_A", help="A run: a folder or a URI.")],
    b: Annotated[str, typer.Argument(metavar="RUN_B", help="The run to compare it with.")],
    html: Annotated[
        str | None, typer.Option("--html", metavar="FILE", help="Write it as one HTML page, too; it needs no network.")
    ] = None,
    examples: Annotated[
        int, typer.Option("--examples", min=0, max=1000, metavar="N", help="Show at most N rows that differ.")
    ] = 5,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Leave with 1 when rows differ, or are in one run alone.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Compare two runs: settings, model, quality, speed, and their rows by id and sample.

    Exit codes: 0 whether they differ or not, unless --exit-code is given: then 1 when rows do; 2 no such run.
    """
    from dgbatch.cli.output import print_json, say, short, show
    from dgbatch.runner.pages.comparison import compare
    from dgbatch.runner.pages.diff_page import write_page
    from dgbatch.runner.run_folder import Run

    runs = Run.open(a), Run.open(b)
    found = compare(*runs, examples=examples)
    if html is not None:
        write_page(found, html)
        say(f"wrote {short(html)}")
    if json:
        print_json({**found.to_json(), **({"html": html} if html is not None else {})})
    else:
        show(*summary(found))
    raise typer.Exit(1 if exit_code and not found.rows.agree else 0)


def summary(found: Comparison) -> list[RenderableType]:
    """All of it for people, 80 columns wide where a terminal cuts lines."""
    from rich.text import Text

    shown: list[RenderableType] = []
    for letter, side in (("A", found.a), ("B", found.b)):
        shown.append(
            Text.assemble(
                (f"{letter}  ", "bold"), printable(side.path), (f"  {side.name}, {side.created_at[:16]}", "dim")
            )
        )
        if side.caution:
            shown.append(Text(f"   {letter} {side.caution}", style="yellow"))
    shown += [
        *_section("settings that decide rows or tokens", [*_settings(found.deciding), *map(_line, found.input)]),
        *_section("other settings", _settings(found.other)),
        *_section("model and versions", _settings(found.model)),
    ]
    if not (found.deciding or found.input or found.other or found.model):
        shown.append(Text("\nsettings, input, model and versions are the same", style="dim"))
    shown += ["", _measures("quality", found.quality), _measures("speed", found.speed)]
    return [*shown, *_rows(found)]


def _section(title: str, lines: Sequence[RenderableType]) -> list[RenderableType]:
    from rich.text import Text

    return [Text(f"\n{title}", style="bold"), *lines] if lines else []


def _settings(found: Iterable[Setting]) -> list[RenderableType]:
    from dgbatch.runner.difference import setting_lines

    return [_line(line) for line in setting_lines(found)]


def _line(line: str) -> Text:
    from dgbatch.cli.output import painted

    return painted(f"  {printable(line)}")


def _measures(title: str, found: Sequence[Measure]) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from dgbatch.runner.pages.comparison import change, number

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column(Text(title), min_width=30)
    for name in ("A", "B", "change"):
        grid.add_column(name, justify="right", min_width=12)
    for each in found:
        grid.add_row(
            Text(printable(each.name)), number(each.a, each.kind), number(each.b, each.kind),
            Text(change(each), style=COLOURS[each.verdict]),
        )  # fmt: skip
    return grid


def _rows(found: Comparison) -> list[RenderableType]:
    from rich.text import Text

    from dgbatch.cli.output import plural

    rows = found.rows
    if found.nothing_in_common:
        return [Text("rows", style="bold"), Text(f"  {found.nothing_in_common}", style="yellow")]
    lines: list[tuple[int, str]] = [(rows.both, "in both runs, of which")]
    lines.append((rows.same, f"are the same, token by token{_of(rows.same, rows.both)}"))
    lines.append((rows.same_text, "have the same text from other tokens"))
    lines.append((rows.different, f"have another text{_of(rows.different, rows.both)}"))
    lines.append((rows.only_a, f"only in A{_lost(rows.only_a_lost, 'B')}"))
    lines.append((rows.only_b, f"only in B{_lost(rows.only_b_lost, 'A')}"))
    shown: list[RenderableType] = [Text("rows", style="bold")]
    shown += [Text(f"  {number:>9,}  {what}") for number, what in lines if number or what.startswith(("in", "are"))]
    if rows.accepted_both + rows.accepted_a + rows.accepted_b + rows.accepted_none:
        shown.append(
            Text(
                f"  accepted: {rows.accepted_both:,} in both, {rows.accepted_a:,} in A alone, {rows.accepted_b:,} in B "
                f"alone, {rows.accepted_none:,} in neither"
            )
        )
    if rows.examples:
        shown.append(Text(f"\n{plural(len(rows.examples), 'row')} of those that differ", style="bold"))
        for example in rows.examples:
            shown += _example(example)
    return shown


def _of(part: int, whole: int) -> str:
    return f" ({part / whole:.1%})" if whole else ""


def _lost(rows: int, where: str) -> str:
    return f", {rows:,} of them in quarantine in {where}" if rows else ""


def _example(example: Example) -> list[RenderableType]:
    """Both texts below each other, with the words that differ marked: [-only in A-] {+only in B+}."""
    from rich.text import Text

    from dgbatch.cli.output import plural
    from dgbatch.runner.terminal.words import around, word_difference

    named = f"{example.id}" + (f" (sample {example.sample})" if example.sample else "")
    lines: list[RenderableType] = [Text(f"\n  {printable(named)}", style="bold")]
    parts = around(word_difference(example.a.text, example.b.text), LONGEST)
    for letter, row in (("A", example.a), ("B", example.b)):
        verdict = "" if row.accepted is None else ", accepted" if row.accepted else ", not accepted"
        ended = row.finish_reason.replace("_", " ")
        about = f"{plural(row.tokens, 'token')} in {plural(row.denoise_steps, 'step')}, {ended}{verdict}"
        lines += [Text(f"  {letter}  {about}", style="dim"), _side(letter, parts)]
    return lines


def _side(letter: str, parts: Sequence[Part]) -> RenderableType:
    from rich.padding import Padding
    from rich.text import Text

    side, mark, style = ("a", "[-{}-]", "red") if letter == "A" else ("b", "{{+{}+}}", "green")
    text = Text()
    for which, words in parts:
        if which == "same":
            text.append(printable(words))
        elif which == side:
            text.append(mark.format(printable(words)), style=style)
    return Padding(text, (0, 0, 0, 5), expand=False)
