"""The table of `dgbatch bench kernels` and the sentences under it."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import wrap
from typing import Any

COLUMNS = ("kernel", "n", "us", "limit", "share", "MB", "GFLOP", "twin", "compile")


def table_rows(told: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row per operation and size; times in microseconds."""
    return [
        (
            one["case"].replace("attention out", "out"),
            str(one["canvases"]),
            three(one["us"]) if one["kernel"] == "kernel" else "twin",
            three(one["limit_us"]),
            f"{one['share']:.0%}" if one["share"] else "-",
            three(one["bytes"] / 1e6),
            three(one["flops"] / 1e9),
            three(one["twin_us"]),
            three(one["compiled_us"]),
        )
        for one in told["results"]
    ]


def findings(told: Mapping[str, Any]) -> list[str]:
    """What the table's numbers are, a line each."""
    limits, asked = told["ceilings"], told["asked"]
    lines = []
    if told["dry_run"]:
        lines.append("A dry run on a tiny shape: it shows that the program runs, and its times say nothing.")
    count = asked["turns"]["measured"] * asked["rounds"]
    lines.append(f"{told['device']}; microseconds, medians of {count}; weights not in any cache.")
    lines.append(f"Copy {limits['copy_tb_s']:.3g} TB/s, product {limits['bf16_tflop_s']:.4g} TFLOP/s, measured here.")
    lines.append("limit: the slower of MB / copy and GFLOP / product. share: limit / us. n: canvases at once.")
    if told["empty_launch_us"]:
        lines.append(f"An empty launch takes {told['empty_launch_us']:.1f} us; it is in every time.")
    if both := told.get("experts_pair"):
        reached = both["share_of_copy"]
        verdict = "aim reached" if reached >= both["aim"] else "bar reached" if reached >= both["bar"] else "BELOW"
        lines.append(
            f"Experts alone: {both['us']:.0f} us, {both['tb_s']:.2f} TB/s, {reached:.0%} of copy "
            f"(bar {both['bar']:.0%}, aim {both['aim']:.0%}): {verdict}"
        )
    notes: dict[str, list[str]] = {}
    for one in told["results"]:
        for note in one["notes"]:
            notes.setdefault(note, []).append(f"{one['case']} {one['canvases']}")
    lines += [f"{note}: {', '.join(where)}" for note, where in notes.items()]
    return [part for line in lines for part in wrap(line, 79, subsequent_indent="  ")]


def three(value: float | None) -> str:
    """Three digits that count."""
    if not value:
        return "-"
    if value < 0.01:
        return "~0"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
