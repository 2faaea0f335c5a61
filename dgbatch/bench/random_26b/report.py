"""The table, the sentences under it, and what they are computed from: the results of the JSON."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import wrap
from typing import Any

from dgbatch.bench.random_26b.contender import COMPILED, EAGER, OURS

COLUMNS = ("n", "prefix", "floor", "dgbatch", "share", "eager", "compiled", "commit", "share")
# Of issue 6, for an H200, bf16 and a prefix of 1,024: ms per step, and how many times as fast as transformers.
BARS_MS = {1: (17.2, 15.2), 8: (48.0, 41.0)}
BARS_EAGER = {1: (1.5, 2.0), 8: (2.0, 3.0)}
BARS_COMPILED = {1: (1.2, 1.5), 8: (1.2, 1.5)}
Results = Mapping[tuple[str, int, int], dict[str, Any]]


def by_size(told: Mapping[str, Any]) -> Results:
    return {(one["engine"], one["canvases"], one["prefix"]): one for one in told["results"]}


def table_rows(told: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row per size; ms, and in how many times our time transformers take the same step."""
    results = by_size(told)
    sizes = sorted({(one["prefix"], one["canvases"]) for one in (*told["results"], *told["skipped"])})
    return [_row(results, canvases, prefix, told["dry_run"]) for prefix, canvases in sizes]


def _row(results: Results, canvases: int, prefix: int, dry_run: bool) -> tuple[str, ...]:
    sides = {name: results.get((name, canvases, prefix)) for name in (OURS, EAGER, COMPILED)}
    ours = sides[OURS]
    floor = next((one["floor_ms"] for one in sides.values() if one), None)
    step, commit, commit_floor = (
        ours[name] if ours else None for name in ("ms_per_step", "ms_per_commit", "floor_commit_ms")
    )
    beside = None if dry_run else ours
    return (
        str(canvases),
        f"{prefix:,}",
        _ms(floor),
        _ms(step),
        _share(share(floor, step)),
        _beside(sides[EAGER], beside),
        _beside(sides[COMPILED], beside),
        _ms(commit),
        _share(share(commit_floor, commit)),
    )


def _beside(theirs: dict[str, Any] | None, ours: dict[str, Any] | None) -> str:
    if theirs is None:
        return "-"
    times = ratio(theirs, ours)
    return _ms(theirs["ms_per_step"]) + (f" {times:.2f}x" if times else "")


def share(floor_ms: float | None, took_ms: float | None) -> float | None:
    """Of the floor that was reached: 1 is the floor itself."""
    return floor_ms / took_ms if floor_ms and took_ms else None


def ratio(theirs: dict[str, Any] | None, ours: dict[str, Any] | None) -> float | None:
    """How many of our steps fit in one of theirs."""
    return theirs["ms_per_step"] / ours["ms_per_step"] if theirs and ours else None


def bars(told: Mapping[str, Any]) -> list[str]:
    """Issue 6's bars beside what was measured; nothing where it was not measured on an H200 at full size."""
    if told["dry_run"] or "H200" not in told["device"]:
        return []
    results = by_size(told)
    lines = []
    for number, (must, aim) in BARS_MS.items():
        ours = results.get((OURS, number, 1024))
        if ours:
            lines.append(_verdict(f"{number} at once, ms per step", ours["ms_per_step"], must, aim, least=False))
        for name, wanted in ((EAGER, BARS_EAGER), (COMPILED, BARS_COMPILED)):
            times = ratio(results.get((name, number, 1024)), ours)
            if times:
                lines.append(_verdict(f"{number} at once, {name} / dgbatch", times, *wanted[number], least=True))
    return lines


def _verdict(what: str, value: float, must: float, aim: float, least: bool) -> str:
    def reached(bar: float) -> bool:
        return value >= bar if least else value <= bar

    verdict = "aim reached" if reached(aim) else "bar reached" if reached(must) else "BELOW THE BAR"
    return f"{what}: {value:.2f} (bar {must:g}, aim {aim:g}): {verdict}"


def findings(told: Mapping[str, Any]) -> list[str]:
    """What the table's numbers are, a line each."""
    turns = told["asked"]["turns"]
    lines = []
    if told["dry_run"]:
        lines.append("A dry run on a tiny shape: it shows that the program runs, and its times say nothing.")
    often = f"medians of {turns['measured']} after {turns['warm_ups']} to warm up"
    lines.append(f"{told['device']}; ms, {often}; {told['seconds']:.0f} s in all.")
    limits = told["ceilings"]
    lines.append(f"Copy {limits['copy_tb_s']:.3g} TB/s, product {limits['bf16_tflop_s']:.4g} TFLOP/s, measured here.")
    lines.append("n: canvases at once. share: floor / dgbatch. 2.00x: transformers take twice as long.")
    lines += bars(told)
    reasons: dict[tuple[str, str], list[str]] = {}
    for one in told["skipped"]:
        reasons.setdefault((one["engine"], one["reason"]), []).append(f"{one['canvases']} at {one['prefix']}")
    lines += [f"left out: {engine}, {', '.join(sizes)}: {why}" for (engine, why), sizes in reasons.items()]
    return [part for line in lines for part in wrap(line, 79, subsequent_indent="  ")]


def _ms(value: float | None) -> str:
    if not value:
        return "-"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _share(value: float | None) -> str:
    return f"{value:.0%}" if value else "-"
