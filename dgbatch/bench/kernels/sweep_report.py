"""The tables of `dgbatch bench kernels --sweep`, one a kernel and size, the fastest candidate first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

from dgbatch.bench import plain
from dgbatch.bench.kernels.report import three
from dgbatch.bench.kernels.sweep import OTHER_ORDER, SKIPPED, WRONG

COLUMNS = ("block sizes", "us", "share", "bits", "regs", "KB")
NOW = "as now"
NOISE = 0.02  # who is no faster than that is as fast
_WORDS = {
    "BLOCK_ROWS": "rows", "block_rows": "rows", "block": "columns", "block_columns": "columns", "BLOCK_I": "I",
    "BLOCK_H": "H", "BLOCK_K": "K", "block_k": "K", "block_keys": "keys", "SPLITS": "splits", "num_warps": "warps",
    "registers": "regs", "few_stages": "few x", "many_stages": "many x",
}  # fmt: skip


def tables(told: Mapping[str, Any]) -> list[str]:
    """Lines of at most 80 columns."""
    lines: list[str] = []
    for result in told["results"]:
        limit = f", limit {three(result['limit_us'])} us ({result['limited_by']})" if result["limit_us"] else ""
        lines += [f"{result['case']}, {result['canvases']} at once{limit}", ""]
        rows = [_row(trial) for trial in by_time(result["trials"])]
        lines += [*(plain.table(COLUMNS, rows).splitlines() if rows else ()), *_reasons(result["trials"]), ""]
    return lines


def by_time(trials: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those that have a time."""
    return sorted((trial for trial in trials if trial["us"] is not None), key=lambda trial: trial["us"])


def findings(told: Mapping[str, Any]) -> list[str]:
    """What the tables' numbers are, and who was faster than now."""
    limits, asked = told["ceilings"], told["asked"]
    count = asked["turns"]["measured"] * asked["rounds"]
    lines = []
    if told["dry_run"]:
        lines.append("A dry run on a tiny shape: it shows that the program runs, and its times say nothing.")
    else:
        lines += [line for result in told["results"] if (line := _faster(result))]
    lines.append(f"{told['device']}; microseconds, medians of {count}; weights not in any cache.")
    lines.append(f"Copy {limits['copy_tb_s']:.3g} TB/s, product {limits['bf16_tflop_s']:.4g} TFLOP/s, measured here.")
    lines.append(
        f"bits: against those of now. {OTHER_ORDER}: its sums are added in another order, so that it may be taken for "
        f"all numbers of rows at once or for none. {WRONG}: not to be taken."
    )
    if skipped := sum((trial["reason"] or "") == SKIPPED for one in told["results"] for trial in one["trials"]):
        lines.append(f"{skipped} candidates were skipped after {asked['limit_s']:.0f} s: --limit-s, or names.")
    return [part for line in lines for part in wrap(line, 79, subsequent_indent="  ")]


def label(changes: Mapping[str, Any]) -> str:
    """What is changed, in few words."""
    told = [f"{_WORDS.get(name, name)} {value or '-'}".replace("x ", "x") for name, value in changes.items()]
    return ", ".join(told) or NOW


def _row(trial: Mapping[str, Any]) -> tuple[str, ...]:
    programs = trial["programs"]
    return (
        label(trial["changes"]),
        three(trial["us"]),
        f"{trial['share']:.0%}" if trial["share"] else "-",
        trial["bits"] or "-",
        three(max((one["registers"] or 0 for one in programs), default=None)),
        three(max(((one["shared"] or 0) / 1024 for one in programs), default=None)),
    )


def _reasons(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each reason once, with those that it is the reason of."""
    told: dict[str, list[str]] = {}
    for trial in trials:
        if trial["reason"]:
            told.setdefault(trial["reason"], []).append(label(trial["changes"]))
    lines = [f"{reason}: {'; '.join(who)}" for reason, who in told.items()]
    return [part for line in lines for part in wrap(line, 79, subsequent_indent="  ")]


def _faster(result: Mapping[str, Any]) -> str | None:
    """The fastest of each kind of bits that is faster than now."""
    now = next((trial["us"] for trial in result["trials"] if not trial["changes"]), None)
    if now is None:
        return None
    where = f"{result['case']} {result['canvases']}"
    best: dict[str, str] = {}
    for trial in by_time(result["trials"]):
        if trial["bits"] != WRONG and trial["us"] < (1 - NOISE) * now:
            best.setdefault(trial["bits"], f"{label(trial['changes'])}: {trial['us'] / now - 1:.0%} ({trial['bits']})")
    return f"{where}: {'; '.join(best.values()) or 'none is faster than now'}"
