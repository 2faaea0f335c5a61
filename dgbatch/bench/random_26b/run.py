"""All sides over the same tensors in one process, one after the other, each within its own seconds."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from statistics import median
from typing import Any

import torch

from dgbatch import roofline
from dgbatch.bench.deadline import OutOfTime, interrupted
from dgbatch.bench.gpu import ceilings, pick, provenance, told_ceilings
from dgbatch.bench.random_26b.contender import COMPILED, EAGER, OURS, Contender
from dgbatch.bench.random_26b.model import NAME, REAL, TINY, random_model
from dgbatch.bench.random_26b.ours import Dgbatch
from dgbatch.bench.random_26b.theirs import Transformers
from dgbatch.bench.stopwatch import Turns, one_thread, times_ms
from dgbatch.engine.model.transformer import Transformer
from dgbatch.errors import BenchError
from dgbatch.roofline import Device, Shape

# Seconds a side may begin cells in, and all of them together: under eight minutes with what comes before and after.
BUDGETS_S = {OURS: 220.0, EAGER: 70.0, COMPILED: 300.0}
LIMIT_S = 440.0


@dataclass(frozen=True, slots=True)
class RandomBench:
    """What is asked."""

    device: str = "auto"
    tiny: bool = False
    canvases: tuple[int, ...] = (1, 2, 4, 8, 16)
    prefixes: tuple[int, ...] = (1024, 8192)
    engines: tuple[str, ...] = (OURS, EAGER, COMPILED)
    command: str = ""  # what was typed

    @classmethod
    def asking(
        cls,
        device: str,
        tiny: bool,
        canvases: Sequence[int] | None,
        prefixes: Sequence[int] | None,
        engines: tuple[str, ...],
        command: str,
    ) -> RandomBench:
        """None: as usual, which for a dry run is less. Raises BenchError for what cannot be."""
        numbers, lengths = ((1, 2), (40,)) if tiny else ((1, 2, 4, 8, 16), (1024, 8192))
        made = cls(device, tiny, tuple(canvases or numbers), tuple(prefixes or lengths), engines, command)
        if min(*made.canvases, *made.prefixes) < 1:
            raise BenchError("canvases and prefixes are numbers from 1 on")
        return made

    @property
    def turns(self) -> Turns:
        return Turns(2, 3) if self.tiny else Turns()


@dataclass(frozen=True, slots=True)
class Cell:
    """One side at one size."""

    engine: str
    precision: str
    canvases: int
    prefix: int
    ms_per_step: float  # median
    ms_per_commit: float | None
    floor_ms: float | None  # None on a CPU: no share of a floor is claimed there
    floor_commit_ms: float | None
    spread: float  # of steps: the ninth decile over the first
    peak_gb: float | None  # memory of the device, weights included


def bench_random(
    asked: RandomBench, tell: Callable[[str], None], keep: Callable[[dict[str, Any]], None] = lambda told: None
) -> dict[str, Any]:
    """Measure. keep: is given the report so far after every cell, so that an end from outside loses nothing.

    Raises BenchError.
    """
    device = pick(asked.device)
    if device.type == "cpu" and not asked.tiny:
        raise BenchError("the full shape is 50 GB of weights for a GPU: add --tiny for a dry run on a CPU")
    config, dtype = (TINY, torch.float32) if asked.tiny and device.type == "cpu" else (REAL, torch.bfloat16)
    if asked.tiny:
        config = TINY
    began = time.monotonic()
    limits = ceilings(device, dtype, quick=asked.tiny)
    free(device)
    tell(f"ceilings: {limits.bytes_per_s / 1e12:.3g} TB/s, {limits.flops_per_s['bf16'] / 1e12:.3g} TFLOP/s")
    told: dict[str, Any] = {
        "benchmark": NAME,
        **provenance(device, asked.command),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "dry_run": asked.tiny or device.type == "cpu",
        "asked": asdict(asked) | {"turns": asdict(asked.turns)},
        "prefix_content": "random keys and values of unit size, the same for every side",
        "ceilings": told_ceilings(limits),
        "results": [],
        "skipped": [],
    }
    model = random_model(config, device, dtype)
    tell(f"weights: {sum(one.numel() * one.element_size() for one in model.parameters()) / 1e9:.3g} GB")
    floor = None if told["dry_run"] else limits
    for name in asked.engines:
        ends = min(began + LIMIT_S, time.monotonic() + BUDGETS_S[name])
        for result in cells(asked, name, model, device, floor, ends):
            if isinstance(result, Cell):
                told["results"].append(asdict(result))
                tell(f"{name}, {result.canvases} at {result.prefix}: {result.ms_per_step:.2f} ms per step")
            else:
                told["skipped"].append(result)
                tell(f"{name}, {result['canvases']} at {result['prefix']}: left out, {result['reason']}")
            keep(told)
    told["ceilings_after"] = told_ceilings(ceilings(device, dtype, quick=asked.tiny))
    told["seconds"] = round(time.monotonic() - began, 1)
    keep(told)
    return told


def cells(
    asked: RandomBench, name: str, model: Transformer, device: torch.device, limits: Device | None, ends: float
) -> Iterator[Cell | dict[str, Any]]:
    """One per size, in the order of what matters; a dict with the reason where there is no number.

    ends: on the clock of time.monotonic
    """
    contender: Contender | None = None
    missing = ""  # why it does not take part at all
    for canvases, prefix in order(asked.canvases, asked.prefixes):
        left, reason = ends - time.monotonic(), missing or "the seconds for this side were used up"
        if left > 0 and not missing:
            try:
                # A compiler may take longer than all that is left, and only a signal ends it.
                with interrupted(None if name == OURS else left), one_thread(device):
                    contender = contender or entered(name, model)
                    cell = measured(contender, asked, canvases, prefix, model, device, limits)
                yield cell
                continue
            except OutOfTime:
                pass
            except Exception as error:  # noqa: BLE001 - whatever another package raises: the other cells count
                reason = f"{type(error).__name__}: {str(error).strip()}".split("\n")[0][:300]
                missing = "" if contender else reason
            finally:
                if contender is not None:
                    contender.release()
                free(device)
        yield {"engine": name, "canvases": canvases, "prefix": prefix, "reason": reason}


def entered(name: str, model: Transformer) -> Contender:
    return Dgbatch(model) if name == OURS else Transformers(model, compiled=name == COMPILED)


def order(canvases: tuple[int, ...], prefixes: tuple[int, ...]) -> list[tuple[int, int]]:
    """The bars' sizes first, 1 and 8 canvases at the shortest prefix; then the others."""
    everything = [(number, prefix) for prefix in sorted(prefixes) for number in canvases]
    return sorted(everything, key=lambda one: (one[1] != min(prefixes), one[0] not in (1, 8)))


def measured(
    contender: Contender,
    asked: RandomBench,
    canvases: int,
    prefix: int,
    model: Transformer,
    device: torch.device,
    limits: Device | None,
) -> Cell:
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    passes = contender.prepare(canvases, prefix)
    steps = sorted(times_ms(passes.step, device, asked.turns))
    commits = times_ms(passes.commit, device, asked.turns, passes.rewind)
    tenth = len(steps) // 10
    shape = Shape.of(model.config)
    return Cell(
        engine=contender.name,
        precision="bf16" if model.embedding.dtype == torch.bfloat16 else "float32",
        canvases=canvases,
        prefix=prefix,
        ms_per_step=median(steps),
        ms_per_commit=median(commits),
        floor_ms=floor_ms(roofline.denoise(shape, limits, "bf16", canvases, prefix)) if limits else None,
        floor_commit_ms=floor_ms(roofline.commit(shape, limits, "bf16", canvases, prefix)) if limits else None,
        spread=steps[-1 - tenth] / steps[tenth],
        peak_gb=torch.cuda.max_memory_allocated(device) / 1e9 if on_gpu else None,
    )


def floor_ms(costs: dict[str, roofline.Cost]) -> float:
    return roofline.seconds(costs) * 1e3


def free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
