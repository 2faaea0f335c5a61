"""`dgbatch bench kernels`: each operation of a step at the real shapes, against its own limit."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from statistics import median
from typing import Any

import torch

from dgbatch.bench.deadline import OutOfTime, interrupted
from dgbatch.bench.gpu import ceilings, pick, provenance, told_ceilings
from dgbatch.bench.kernels.case import Case
from dgbatch.bench.kernels.cases import REAL, TINY, cases
from dgbatch.bench.kernels.rivals import COMPILED, KERNEL, TWIN, Before, Rival, rival
from dgbatch.bench.kernels.seats import Company
from dgbatch.bench.measure import rotated
from dgbatch.bench.stopwatch import Turns, one_thread, times_ms
from dgbatch.errors import BenchError
from dgbatch.roofline import Device

NAME = "kernels"
ROUNDS = 5  # each begins with another rival
COMPILING_S, COMPILING_ONE_S = 150.0, 40.0  # of all twins together, and of one: what takes longer is left out
PAIR = ("experts_up", "experts_down")
PAIR_CANVASES, PAIR_BAR, PAIR_AIM = 1, 0.85, 0.92  # of copy bandwidth: issue 6


@dataclass(frozen=True, slots=True)
class KernelsBench:
    """What is asked."""

    device: str = "auto"
    tiny: bool = False
    canvases: tuple[int, ...] = (1, 8)
    prefix: int = 1024
    only: tuple[str, ...] = ()  # names of cases or operations; (): all
    compile: bool = True
    command: str = ""  # what was typed

    @classmethod
    def asking(
        cls,
        device: str,
        tiny: bool,
        canvases: Sequence[int] | None,
        prefix: int | None,
        only: Sequence[str],
        compile: bool,
        command: str,
    ) -> KernelsBench:
        """None: as usual, which for a dry run is less. Raises BenchError for what cannot be."""
        numbers, length = ((1, 2), 30) if tiny else ((1, 8), 1024)
        prefix = length if prefix is None else prefix
        made = cls(device, tiny, tuple(canvases or numbers), prefix, tuple(only), compile, command)
        if min(*made.canvases, made.prefix) < 1:
            raise BenchError("canvases and prefix are numbers from 1 on")
        known = {name for case in cases(TINY) for name in (case.name, case.operation)}
        if unknown := set(only) - known:
            raise BenchError(f"--only {min(unknown)}: no kernel has that name; known are {', '.join(sorted(known))}")
        return made


@dataclass(frozen=True, slots=True)
class Timing:
    """One operation at one size. Microseconds, medians."""

    case: str
    operation: str
    canvases: int
    kernel: str  # "kernel", or "twin" where no kernel can run
    bytes: float
    flops: float
    us: float | None
    twin_us: float | None
    compiled_us: float | None
    limit_us: float | None  # None in a dry run: no share of a limit is claimed there
    limited_by: str | None  # "copy" or "product"
    share: float | None
    spread: float | None  # the ninth decile over the first
    notes: tuple[str, ...]  # what is missing, and why


def bench_kernels(
    asked: KernelsBench, tell: Callable[[str], None], keep: Callable[[dict[str, Any]], None] = lambda told: None
) -> dict[str, Any]:
    """Measure. keep: is given the report so far after every case. Raises BenchError."""
    device = pick(asked.device)
    if device.type == "cpu" and not asked.tiny:
        raise BenchError("the real shapes are for a GPU: add --tiny for a dry run on a CPU")
    dry = asked.tiny
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    began, limits = time.monotonic(), ceilings(device, dtype, quick=dry)
    told: dict[str, Any] = {
        "benchmark": NAME,
        **provenance(device, asked.command),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "dry_run": dry,
        "asked": asdict(asked) | {"turns": asdict(turns(dry)), "rounds": rounds(dry)},
        "ceilings": told_ceilings(limits),
        "empty_launch_us": None if device.type == "cpu" else empty_launch_us(device, turns(dry)),
        "results": [],
    }
    compiling = Allowance(COMPILING_S if asked.compile and device.type == "cuda" else 0.0)
    shape = TINY if asked.tiny else REAL
    for canvases in asked.canvases:
        company = Company.of(shape, canvases, prefix=asked.prefix)
        for case in cases(shape):
            if not asked.only or {case.name, case.operation} & set(asked.only):
                timing = timed(case, company, canvases, dtype, device, None if dry else limits, compiling, dry)
                told["results"].append(asdict(timing))
                tell(f"{canvases} at once, {case.name}: " + (f"{timing.us:.1f} us" if timing.us else "no time"))
                for note in timing.notes:
                    tell(f"  {note}")
                keep(told)
    told["experts_pair"] = None if dry else pair(told["results"], limits)
    told["ceilings_after"] = told_ceilings(ceilings(device, dtype, quick=dry))
    told["seconds"] = round(time.monotonic() - began, 1)
    keep(told)
    return told


def turns(dry: bool) -> Turns:
    """Of one round."""
    return Turns(1, 2) if dry else Turns(20, 10)


def rounds(dry: bool) -> int:
    return 1 if dry else ROUNDS


@dataclass(slots=True)
class Allowance:
    """Seconds that may still be spent."""

    left_s: float

    def spend(self, work: Callable[[], Rival]) -> Rival:
        start = time.monotonic()
        try:
            with interrupted(min(self.left_s, COMPILING_ONE_S)):
                return work()
        finally:
            self.left_s -= time.monotonic() - start


def timed(
    case: Case,
    company: Company,
    canvases: int,
    dtype: torch.dtype,
    device: torch.device,
    limits: Device | None,
    compiling: Allowance,
    dry: bool,
) -> Timing:
    notes: list[str] = []
    took: dict[str, list[float]] = {}
    on_gpu = device.type == "cuda"
    with torch.inference_mode(), one_thread(device):
        try:
            arguments = case.arguments(company, dtype, device)
            before = Before(case, arguments)
            racing = _ready(case, arguments, on_gpu, compiling, notes)
            for number in range(rounds(dry)):
                for place in rotated(len(racing), number, rounds(dry)):
                    one = racing[place]
                    took.setdefault(one.name, []).extend(times_ms(one.call, device, turns(dry), before))
        except Exception as error:  # noqa: BLE001 - whatever goes wrong with one case, the others are told
            notes.insert(0, reason_of("arguments or timing", error))
    arguments = before = racing = None  # type: ignore[assignment]  # before the next case's
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
    ours = took.get(KERNEL if on_gpu else TWIN, [])
    least = case.least(company, dtype.itemsize)
    us = {name: median(times) * 1e3 for name, times in took.items()}
    limit_us, limited_by = limit(least.bytes, least.flops, limits) if limits else (None, None)
    own = us.get(KERNEL if on_gpu else TWIN)
    return Timing(
        case=case.name,
        operation=case.operation,
        canvases=canvases,
        kernel=KERNEL if on_gpu else TWIN,
        bytes=least.bytes,
        flops=least.flops,
        us=own,
        twin_us=us.get(TWIN),
        compiled_us=us.get(COMPILED),
        limit_us=limit_us,
        limited_by=limited_by,
        share=limit_us / own if limit_us and own else None,
        spread=spread_of(ours) if ours else None,
        notes=tuple(notes),
    )


def _ready(case: Case, arguments: Any, on_gpu: bool, compiling: Allowance, notes: list[str]) -> list[Rival]:
    racing = []
    for name in (KERNEL, TWIN, COMPILED) if on_gpu else (TWIN,):
        if name == COMPILED and compiling.left_s <= 0:
            notes.append("not compiled: no seconds left for it")
            continue
        try:
            one = compiling.spend(lambda: rival(name, case, arguments)) if name == COMPILED else None  # noqa: B023
            racing.append(one or rival(name, case, arguments))
        except OutOfTime:
            notes.append("not compiled: it takes too long")
        except Exception as error:  # noqa: BLE001 - of Triton, of compilers: the rivals that run are told
            notes.append(reason_of(name, error))
        else:
            if on_gpu and not racing[-1].captured:
                notes.append(f"{name} is not captured in a graph: its time has the host's in it")
    return racing


def limit(moved: float, flops: float, limits: Device) -> tuple[float, str]:
    """Microseconds that the slower of copy and product takes at least, and which one it is."""
    copy, product = moved / limits.bytes_per_s * 1e6, flops / limits.flops_per_s["bf16"] * 1e6
    return max((copy, "copy"), (product, "product"))


def pair(results: Sequence[dict[str, Any]], limits: Device) -> dict[str, Any] | None:
    """The bar of the expert kernels alone: bytes of both over the time of both, against the copy."""
    both = [one for one in results if one["operation"] in PAIR and one["canvases"] == PAIR_CANVASES and one["us"]]
    if {one["operation"] for one in both} != set(PAIR):
        return None
    us, moved = sum(one["us"] for one in both), sum(one["bytes"] for one in both)
    reached = moved / us * 1e6
    return {
        "canvases": PAIR_CANVASES,
        "us": us,
        "tb_s": reached / 1e12,
        "share_of_copy": reached / limits.bytes_per_s,
        "bar": PAIR_BAR,
        "aim": PAIR_AIM,
    }


def empty_launch_us(device: torch.device, often: Turns) -> float:
    """What a graph of one launch that does nothing takes between two events: in every time here."""
    one = torch.zeros(1, device=device)
    one.add_(1)
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        one.add_(1)
    other = torch.zeros(64 << 20, device=device)
    return median(times_ms(graph.replay, device, often, lambda: other.sum())) * 1e3


def spread_of(times: Sequence[float]) -> float:
    ordered, tenth = sorted(times), len(times) // 10
    return ordered[-1 - tenth] / ordered[tenth]


def reason_of(what: str, error: Exception) -> str:
    first = str(error).strip().split("\n")[0]
    return f"{what}: {type(error).__name__}: {first}"[:300]
