"""`dgbatch bench kernels --sweep`: other block sizes of a kernel, timed and compared with those it has."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib.util import find_spec
from statistics import median
from typing import Any

import torch

from dgbatch.bench.deadline import OutOfTime, interrupted
from dgbatch.bench.gpu import ceilings, pick, provenance, told_ceilings
from dgbatch.bench.kernels.candidates import SWEEPS, Changes, Sweep, marked, named, other_order
from dgbatch.bench.kernels.case import Arguments, Case
from dgbatch.bench.kernels.cases import REAL, TINY, cases
from dgbatch.bench.kernels.likeness import Results, kept, likeness
from dgbatch.bench.kernels.replaced import facts, launched, replaced
from dgbatch.bench.kernels.rivals import KERNEL, TWIN, Before, Rival, rival
from dgbatch.bench.kernels.run import KernelsBench, limit, reason_of, rounds, spread_of, turns
from dgbatch.bench.kernels.seats import Company
from dgbatch.bench.measure import rotated
from dgbatch.bench.stopwatch import one_thread, times_ms
from dgbatch.engine.kernels import operations
from dgbatch.engine.kernels.launch import HOPPER
from dgbatch.errors import BenchError
from dgbatch.roofline import Device

NAME = "kernels sweep"
LIMIT_S = 420.0  # of the ten minutes that one command may take on a machine that is lent
COMPILING_ONE_S = 40.0
SAME, OTHER_ORDER, WRONG = "same", "other order", "WRONG"  # bits, against those of now
SKIPPED = "skipped: no seconds left"


@dataclass(frozen=True, slots=True)
class SweepBench:
    """What is asked."""

    device: str
    tiny: bool
    canvases: tuple[int, ...]
    prefix: int
    only: tuple[str, ...] = ()  # names of cases or operations; (): all
    limit_s: float = LIMIT_S
    command: str = ""  # what was typed

    @classmethod
    def asking(
        cls,
        device: str,
        tiny: bool,
        canvases: Sequence[int] | None,
        prefix: int | None,
        only: Sequence[str],
        limit_s: float | None,
        command: str,
    ) -> SweepBench:
        """None: as usual. Raises BenchError for what cannot be."""
        usual = KernelsBench.asking(device, tiny, canvases, prefix, (), False, command)
        known = {name for sweep in SWEEPS for name in (sweep.case, sweep.operation)}
        if unknown := set(only) - known:
            raise BenchError(f"--sweep {min(unknown)}: not in the table; known are {', '.join(sorted(known))}")
        seconds = LIMIT_S if limit_s is None else limit_s
        return cls(device, tiny, usual.canvases, usual.prefix, tuple(only), seconds, command)


@dataclass(slots=True)
class Trial:
    """A candidate at one size."""

    changes: Changes  # of now; the first of its kind changes nothing
    us: float | None = None  # median
    share: float | None = None  # of its limit
    spread: float | None = None  # the ninth decile over the first
    bits: str | None = None  # SAME, OTHER_ORDER or WRONG
    difference: float | None = None  # the largest from now, in the case's tolerances
    programs: list[dict[str, Any]] = field(default_factory=list)
    reason: str | None = None  # why it has no time, or what is wrong with it


class DeviceFailed(Exception):
    """Nothing that this process asks the device for works any more."""


def bench_sweep(
    asked: SweepBench, tell: Callable[[str], None], keep: Callable[[dict[str, Any]], None] = lambda told: None
) -> dict[str, Any]:
    """Measure. keep: is given the report so far after every kernel and size. Raises BenchError."""
    device = pick(asked.device)
    if device.type == "cpu" and not asked.tiny:
        raise BenchError("the real shapes are for a GPU: add --tiny for a dry run on a CPU")
    if find_spec("triton") is None:
        raise BenchError("block sizes are those of Triton's kernels: pip install 'dgbatch[kernels]'")
    dry, dtype = asked.tiny, torch.bfloat16 if device.type == "cuda" else torch.float32
    began, limits = time.monotonic(), ceilings(device, dtype, quick=dry)
    told: dict[str, Any] = {
        "benchmark": NAME,
        **provenance(device, asked.command),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "dry_run": dry,
        "asked": asdict(asked) | {"turns": asdict(turns(dry)), "rounds": rounds(dry)},
        "ceilings": told_ceilings(limits),
        "results": [],
    }
    shape, failed = TINY if asked.tiny else REAL, None
    by_name = {case.name: case for case in cases(shape)}
    for sweep in named(asked.only):
        for canvases in asked.canvases:
            case, company = by_name[sweep.case], Company.of(shape, canvases, prefix=asked.prefix)
            trials = [Trial({}), *(Trial(changes) for changes in sweep.at(canvases)[1:])]
            left = Left(began + asked.limit_s)
            if failed is None and left.seconds > 0:
                try:
                    with torch.inference_mode(), one_thread(device):
                        tried(sweep, case, company, trials, dtype, device, left, dry)
                except DeviceFailed as error:
                    failed = str(error)
                except Exception as error:  # noqa: BLE001 - whatever goes wrong with one kernel, the others are told
                    _give_reason(trials, reason_of("arguments or timing", error))
                gc.collect()
                if device.type == "cuda" and failed is None:
                    torch.cuda.empty_cache()
            _give_reason(trials, failed or SKIPPED)
            told["results"].append(_told(sweep, case, company, trials, dtype, None if dry else limits))
            tell(_line(told["results"][-1]))
            keep(told)
    told["seconds"] = round(time.monotonic() - began, 1)
    keep(told)
    return told


@dataclass(frozen=True, slots=True)
class Left:
    """Time until an end."""

    ends: float

    @property
    def seconds(self) -> float:
        return self.ends - time.monotonic()


def tried(
    sweep: Sweep, case: Case, company: Company, trials: list[Trial], dtype: torch.dtype, device: torch.device,
    left: Left, dry: bool,
) -> None:  # fmt: skip
    """Fill in what the trials do: each is run, compared with the first and captured, then all are timed."""
    arguments = case.arguments(company, dtype, device)
    before = Before(case, arguments)
    expected: Results | None = None
    racing: list[tuple[Trial, Rival]] = []
    hopper = device.type == "cuda" and torch.cuda.get_device_capability(device) == divmod(HOPPER, 10)
    for trial in trials:
        if left.seconds <= 0:
            return _race(racing, device, before, dry)
        if hopper and (mark := marked(sweep, trial.changes)):
            trial.reason = f"{mark}, says the compiler: not measured"
            continue
        try:
            changing = replaced(case.operation, trial.changes) if trial.changes else nullcontext()
            with interrupted(COMPILING_ONE_S), changing:
                before()
                results = _run(case, company, arguments, trial)
                if expected is None and not trial.changes:
                    expected = kept(results)
                if expected is not None:
                    _compare(trial, case, results, expected, other_order(sweep, company.canvases, trial.changes))
                racing.append((trial, rival(KERNEL if device.type == "cuda" else TWIN, case, arguments)))
        except OutOfTime:
            trial.reason = "not compiled: it takes too long"
        except Exception as error:  # noqa: BLE001 - of Triton, of ptxas, of the driver: the next one is tried
            trial.reason = reason_of(KERNEL, error)
            _still_there(device, trial)
    return _race(racing, device, before, dry)


def _run(case: Case, company: Company, arguments: Arguments, trial: Trial) -> Results:
    with launched() as programs:
        returned = getattr(operations, case.operation)(*arguments)
    if arguments[0].device.type == "cuda":
        torch.cuda.synchronize(arguments[0].device)
    trial.programs = [facts(program) for program in programs]
    if spilled := max((one["spilled_words"] or 0 for one in trial.programs), default=0):
        trial.reason = f"spills {spilled} words of a thread"
    return case.results(company, arguments, returned)


def _compare(trial: Trial, case: Case, results: Results, expected: Results, declared: bool) -> None:
    same, largest = likeness(results, expected)
    trial.difference = largest / case.tolerance
    # both are as far from the twin as the tolerance says, at most
    trial.bits = WRONG if not trial.difference <= 2 else OTHER_ORDER if declared or not same else SAME
    if trial.bits == WRONG:
        trial.reason = f"another result: {trial.difference:.3g} times the kernel's tolerance"
    elif not same and not declared:
        trial.reason = trial.reason or "other bits, though its sums should have one order"


def _race(racing: list[tuple[Trial, Rival]], device: torch.device, before: Before, dry: bool) -> None:
    took: list[list[float]] = [[] for _ in racing]
    for number in range(rounds(dry)):
        for place in rotated(len(racing), number, rounds(dry)):
            took[place] += times_ms(racing[place][1].call, device, turns(dry), before)
    for (trial, _), times in zip(racing, took, strict=True):
        trial.us, trial.spread = median(times) * 1e3, spread_of(times)


def _still_there(device: torch.device, trial: Trial) -> None:
    """After a failure. An address that was nobody's ends all work of a process on a GPU."""
    if device.type != "cuda":
        return
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        raise DeviceFailed(f"skipped: the device failed before ({trial.reason})") from error


def _give_reason(trials: Sequence[Trial], reason: str) -> None:
    """To those that have no time yet."""
    for trial in trials:
        if trial.us is None:
            trial.reason = trial.reason or reason


def _told(
    sweep: Sweep, case: Case, company: Company, trials: list[Trial], dtype: torch.dtype, limits: Device | None
) -> dict[str, Any]:
    least = case.least(company, dtype.itemsize)
    limit_us, limited_by = limit(least.bytes, least.flops, limits) if limits else (None, None)
    for trial in trials:
        trial.share = limit_us / trial.us if limit_us and trial.us else None
    return {
        "case": case.name,
        "operation": case.operation,
        "canvases": company.canvases,
        "limit_us": limit_us,
        "limited_by": limited_by,
        "now_on_hopper": dict(sweep.at(company.canvases)[0]),
        "trials": [asdict(trial) for trial in trials],
    }


def _line(result: dict[str, Any]) -> str:
    timed = sum(trial["us"] is not None for trial in result["trials"])
    return f"{result['case']}, {result['canvases']} at once: {timed} of {len(result['trials'])} timed"
