"""How a comparison is measured: one run unmeasured each, then turns in rotated order, then medians."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

HOPELESS = 3.0  # a variant that took so many times as long as another of its size in the warm-up is not run again


@dataclass(frozen=True, slots=True)
class Run:
    """What one contender did with all rows, once."""

    rows: int
    solved: int
    tokens: int  # generated, end of turn included
    seconds: float
    canvases: int = 0
    steps: int = 0  # denoising steps over all canvases


@dataclass(frozen=True, slots=True)
class Contender:
    kind: str  # dgbatch, transformers, autoregressive, continuous or lockstep
    at_once: int  # canvases in flight, or the batch
    run: Callable[[], Run]
    variant: str = ""
    warm_up: Callable[[], Run] | None = None  # on fewer prompts, for what takes long; None: `run` itself


@dataclass(frozen=True, slots=True)
class Result:
    """A contender's runs in one line."""

    kind: str
    at_once: int
    variant: str
    turns: int  # 0: far behind another variant in the warm-up, which is what its numbers are then
    rows_per_s: float
    tokens_per_s: float
    spread: float  # fastest run over the slowest, in rows/s
    solved_ratio: float
    steps_per_canvas: float | None


def measure(contenders: Sequence[Contender], repeats: int, tell: Callable[[str], None]) -> list[Result]:
    """Everybody once to warm up; then `repeats` turns, each beginning elsewhere, so that none is always first."""

    def run(one: Contender, when: str, how: Callable[[], Run]) -> Run:
        done = how()
        name = " ".join(filter(None, (one.kind, one.variant, str(one.at_once))))
        tell(f"{when}: {name}, {done.seconds:.1f} s")
        return done

    begun: list[tuple[Contender, Run]] = []
    for one in contenders:
        if one.variant and one.variant in hopeless(begun, one.at_once):
            tell(f"left out: {one.kind} {one.variant} {one.at_once}, far behind with fewer")
        else:
            begun.append((one, run(one, "warm-up", one.warm_up or one.run)))
    behind = [index for index, (one, _) in enumerate(begun) if one.variant in hopeless(begun, one.at_once, one.at_once)]
    racing = [index for index in range(len(begun)) if index not in behind]
    runs: list[list[Run]] = [[] for _ in begun]
    for turn in range(repeats):
        for place in rotated(len(racing), turn, repeats):
            index = racing[place]
            one = begun[index][0]
            runs[index].append(run(one, f"turn {turn + 1} of {repeats}", one.run))
    return [
        replace(summary(one, own or [first]), turns=len(own)) for (one, first), own in zip(begun, runs, strict=True)
    ]


def hopeless(begun: Sequence[tuple[Contender, Run]], most: int, least: int = 0) -> set[str]:
    """Variants several times as slow as another of their kind and size, among those of `least` to `most` at once."""
    best: dict[tuple[str, int], float] = {}
    for one, done in begun:
        key = one.kind, one.at_once
        best[key] = min(done.seconds / done.rows, best.get(key, float("inf")))
    return {
        one.variant
        for one, done in begun
        if least <= one.at_once <= most and done.seconds / done.rows > HOPELESS * best[one.kind, one.at_once]
    }


def rotated(count: int, turn: int, turns: int) -> list[int]:
    """0 .. count - 1, beginning a different share of the way in each turn."""
    first = turn * count // turns
    return [(first + index) % count for index in range(count)]


def summary(contender: Contender, runs: Sequence[Run]) -> Result:
    speeds = [run.rows / run.seconds for run in runs]
    canvases = sum(run.canvases for run in runs)
    return Result(
        kind=contender.kind,
        at_once=contender.at_once,
        variant=contender.variant,
        turns=len(runs),
        rows_per_s=median(speeds),
        tokens_per_s=median(run.tokens / run.seconds for run in runs),
        spread=max(speeds) / min(speeds),
        solved_ratio=sum(run.solved for run in runs) / sum(run.rows for run in runs),
        steps_per_canvas=sum(run.steps for run in runs) / canvases if canvases else None,
    )


def machine(device: str, threads: int) -> dict[str, Any]:
    """What a number is worth nothing without."""
    import torch

    return {"device": device, "threads": threads, **host(), "torch": torch.__version__}


def host() -> dict[str, Any]:
    """The same for what runs on no device."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "load_1m": round(os.getloadavg()[0], 2),  # before the measurement: of others
        "python": platform.python_version(),
    }


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
