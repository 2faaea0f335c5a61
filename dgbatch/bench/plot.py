"""A benchmark as a PNG. The only user of matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dgbatch.errors import BenchError


def plot(told: dict[str, Any], path: Path) -> None:
    """Write the picture of a report. Raises BenchError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise BenchError("--plot needs matplotlib: pip install 'dgbatch[bench]', or leave --plot out") from error
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    if told["benchmark"] == "runner":
        _runner(axes, told)
    else:
        {"engine": _engine, "roofline": _roofline, "random-26b": _random}[told["benchmark"]](axes, told)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        if told["benchmark"] == "random-26b":
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.grid(visible=True, which="both", alpha=0.3)
    figure.savefig(path, dpi=150)


def check(path: Path | None) -> None:
    """Before anything is measured: that the picture can be made and its folder is there. Raises BenchError."""
    if path is None:
        return
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise BenchError("--plot needs matplotlib: pip install 'dgbatch[bench]', or leave --plot out") from error


def _engine(axes: Any, told: dict[str, Any]) -> None:
    for kind in ("dgbatch", "transformers", "autoregressive"):
        best: dict[int, float] = {}
        for one in told["results"]:
            if one["kind"] == kind:
                best[one["at_once"]] = max(one["tokens_per_s"], best.get(one["at_once"], 0.0))
        if best:
            axes.plot(list(best), list(best.values()), marker="o", label=kind)
    axes.set_xlabel("canvases in flight, batch or sequences")
    axes.set_ylabel("generated tokens per second")
    axes.set_title(f"{told['asked']['checkpoint']}, {told['machine']['device']}, threads: {told['machine']['threads']}")


def _random(axes: Any, told: dict[str, Any]) -> None:
    """Milliseconds per step by canvases: a colour per side, a stroke per prefix, and the floor in black."""
    lines: dict[tuple[str, int], dict[int, float]] = {}
    for one in told["results"]:
        lines.setdefault((one["engine"], one["prefix"]), {})[one["canvases"]] = one["ms_per_step"]
        if one["floor_ms"]:
            lines.setdefault(("floor", one["prefix"]), {})[one["canvases"]] = one["floor_ms"]
    colours = {"dgbatch": "C0", "transformers-eager": "C1", "transformers-compiled": "C2", "floor": "black"}
    strokes = dict(zip(sorted({prefix for _, prefix in lines}), ("-", ":", "--", "-.") * len(lines), strict=False))
    for (name, prefix), points in lines.items():
        numbers, marker = sorted(points), "" if name == "floor" else "o"
        took = [points[number] for number in numbers]
        axes.plot(numbers, took, strokes[prefix], marker=marker, color=colours[name], label=f"{name}, {prefix:,}")
    axes.set_xlabel("canvases at once")
    axes.set_ylabel("ms per denoising step")
    axes.set_title(f"{told['benchmark']}, {told['device']}" + (": a dry run, tiny" if told["dry_run"] else ""))


def _roofline(axes: Any, told: dict[str, Any]) -> None:
    canvases = told["asked"]["canvases"]
    for one in told["floors"]:
        took = [second * 1e3 for second in one["step_s"]]
        axes.plot(canvases, took, label=f"{one['device']} {one['format']}", alpha=0.7)
    if measured := told.get("measured"):
        for name, style in (("floor_s", "k--"), ("step_s", "ko-")):
            label = "here, floor" if name == "floor_s" else "here, reached"
            axes.plot(canvases, [second * 1e3 for second in measured[name]], style, label=label)
    axes.set_xlabel("canvases in flight")
    axes.set_ylabel("ms per denoising step")
    axes.set_title(f"{told['model']}: fastest step, prefix {told['asked']['prefix']}")


def _runner(axes: Any, told: dict[str, Any]) -> None:
    """Rows done and the driver's memory over time: both should be straight, and the second flat."""
    seconds, rows, sizes = zip(*told["run"]["memory"], strict=True)
    axes.plot(seconds, [count / 1e6 for count in rows], color="C0")
    axes.set_xlabel("seconds since submit")
    axes.set_ylabel("million rows done", color="C0")
    memory = axes.twinx()
    memory.plot(seconds, [size / (1 << 20) for size in sizes], color="C1")
    memory.set_ylabel("memory of the driver, MB", color="C1")
    memory.set_ylim(bottom=0)
    workers = told["asked"]["workers"]
    axes.set_title(f"{told['run']['rows_per_s']:,.0f} rows/s, {workers} workers, {told['machine']['cores']} cores")
