"""`dgbatch bench engine`: our engine, transformers' generate, the same weights used causally, and lockstep batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from textwrap import wrap
from typing import Any

from dgbatch.bench.measure import Contender, Result, machine, measure
from dgbatch.errors import BenchError

OURS, REFERENCE, BY_LENGTH, CAUSAL = "dgbatch", "transformers", "transformers by length", "autoregressive"
CONTINUOUS, LOCKSTEP = "continuous", "lockstep"
WARM_UP_ROWS = 64
TITLE = {
    OURS: "dgbatch",
    REFERENCE: "transformers",
    BY_LENGTH: "transformers, prompts by length",
    CAUSAL: "autoregressive",
    CONTINUOUS: "1-4 canvases, continuous",
    LOCKSTEP: "1-4 canvases, lockstep",
}


@dataclass(frozen=True, slots=True)
class EngineBench:
    """What is compared, and how often."""

    checkpoint: str = "demo"
    rows: int = 128
    repeats: int = 3
    threads: int = 2
    device: str = "auto"
    max_new_tokens: int | None = None  # None: what the checkpoint says
    canvases: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)  # in flight; sequences of the autoregressive baseline too
    batches: tuple[int, ...] = (1, 8, 32)  # of transformers
    lockstep: tuple[int, ...] = (4, 8, 16)  # () leaves the comparison out
    transformers: bool = True
    autoregressive: bool = True


def bench_engine(asked: EngineBench, tell: Callable[[str], None]) -> dict[str, Any]:
    """Measure all contenders in one run. Raises BenchError and CheckpointError."""
    contenders, versions, device = prepare(asked)
    circumstances = machine(device, asked.threads) | versions
    return report(asked, circumstances, measure(contenders, asked.repeats, tell))


def prepare(asked: EngineBench) -> tuple[list[Contender], dict[str, str], str]:
    """Everybody who takes part, over the same prompts; versions of theirs; the device."""
    from dgbatch.bench import continuous, lockstep, puzzles
    from dgbatch.bench.autoregressive import Autoregressive
    from dgbatch.engine import Engine
    from dgbatch.engine.checkpoint import resolve
    from dgbatch.engine.memory import default_budget, device_step_bytes
    from dgbatch.records import EngineConfig

    # The same prompts come again in every turn: a cache of prefixes would know them all.
    config = EngineConfig(canvases=1, device=asked.device, threads=asked.threads, share_prefixes=False)
    engine = Engine.load(asked.checkpoint, config)
    everyone = sorted({*asked.canvases, *asked.lockstep})
    if engine.device.type == "cuda":  # several engines live side by side, over the same weights
        shape = engine.model.config
        steps = sum(device_step_bytes(shape, engine.dtype, number, config.prefill_tiles) for number in everyone)
        kv_bytes = default_budget(shape, engine.device, max(everyone), steps) // len(everyone)
        engine.config = replace(config, kv_bytes=kv_bytes)
    engines = {number: continuous.with_canvases(engine, number) for number in everyone}
    rows, limit = puzzles.mixed(asked.rows), asked.max_new_tokens
    if len(rows) < asked.rows:
        raise BenchError(f"--rows {asked.rows}: the packaged prompts are {len(rows)}; ask for at most as many")
    length = engine.model.config.canvas_length

    def canvases_of(answer: str) -> int:
        return -(-(len(engine.tokenizer.encode(answer)) + 1) // length)  # with the end of turn

    long = puzzles.of_mixed_lengths(asked.rows, canvases_of) if asked.lockstep else []

    def contender(
        kind: str, at_once: int, run: Callable, chosen: Sequence[puzzles.Puzzle], variant: str = ""
    ) -> Contender:
        return Contender(kind, at_once, lambda: run(chosen), variant, lambda: run(chosen[:WARM_UP_ROWS]))

    def ours(number: int, how: Callable = continuous.run) -> Callable:
        return lambda chosen: how(engines[number], chosen, limit)

    contenders = [contender(OURS, number, ours(number), rows) for number in asked.canvases]
    versions = {}
    if asked.transformers:
        from dgbatch.bench.transformers_generate import EXPERTS, TransformersGenerate

        theirs = TransformersGenerate(
            resolve(asked.checkpoint), engine.tokenizer, engine.end_ids, engine.device, engine.dtype
        )
        versions["transformers"] = theirs.version

        def generate(batch: int, experts: str, by_length: bool) -> Callable:
            return lambda chosen: theirs.run(chosen, batch, experts, limit, by_length)

        contenders += [
            contender(kind, batch, generate(batch, experts, kind == BY_LENGTH), rows, experts)
            for kind in (REFERENCE, BY_LENGTH)
            for batch in asked.batches
            for experts in filter(theirs.accepts, EXPERTS)
            if kind == REFERENCE or batch > 1
        ]
    if asked.autoregressive:

        def write(sequences: int) -> Callable:
            causal = Autoregressive(engine, sequences, limit)
            return causal.run

        contenders += [contender(CAUSAL, number, write(number), rows) for number in asked.canvases]
    for number in asked.lockstep:
        contenders += [
            contender(CONTINUOUS, number, ours(number), long),
            contender(LOCKSTEP, number, ours(number, lockstep.run), long),
        ]
    return contenders, versions, engine.device_name


def report(asked: EngineBench, circumstances: dict[str, Any], results: Sequence[Result]) -> dict[str, Any]:
    """The one object of --json."""
    return {
        "benchmark": "engine",
        "machine": circumstances,
        "asked": asdict(asked),
        "results": [asdict(result) for result in results],
        **ratios(results),
    }


def ratios(results: Sequence[Result]) -> dict[str, Any]:
    """What the numbers come to; None where a side did not take part."""
    best = {kind: max((r for r in results if r.kind == kind), key=speed, default=None) for kind in TITLE}
    alone = {
        kind: max((r for r in results if r.kind == kind and r.at_once == 1), key=speed, default=None) for kind in TITLE
    }
    pairs = {r.at_once: [r, other] for r in results for other in results if _pair(r, other, CONTINUOUS, LOCKSTEP)}
    return {
        "best_over_transformers_best": _ratio(best[OURS], best[REFERENCE]),
        "best_over_transformers_by_length": _ratio(best[OURS], best[BY_LENGTH]),
        "alone_over_transformers_batch_1": _ratio(alone[OURS], alone[REFERENCE]),
        "continuous_over_lockstep": {str(number): _ratio(*pair) for number, pair in pairs.items()},
        "diffusion_over_autoregressive": {
            str(r.at_once): r.tokens_per_s / other.tokens_per_s
            for r in results
            for other in results
            if _pair(r, other, OURS, CAUSAL)
        },
        "autoregressive_wins_from": crossover(results),
    }


def crossover(results: Sequence[Result]) -> int | None:
    """The fewest sequences at once, of those measured, from which on one token a pass stays ahead in tokens/s."""
    ahead = {
        r.at_once: other.tokens_per_s > r.tokens_per_s
        for r in results
        for other in results
        if _pair(r, other, OURS, CAUSAL)
    }
    behind = max((number for number, wins in ahead.items() if not wins), default=0)
    return min((number for number in ahead if number > behind), default=None)


def speed(result: Result) -> float:
    return result.rows_per_s


def _pair(one: Result, other: Result, first: str, second: str) -> bool:
    return one.kind == first and other.kind == second and one.at_once == other.at_once


def _ratio(one: Result | None, other: Result | None) -> float | None:
    return one.rows_per_s / other.rows_per_s if one and other else None


COLUMNS = ("what", "at once", "rows/s", "tokens/s", "solved", "steps/canvas")


def table_rows(told: dict[str, Any]) -> list[tuple[str, ...]]:
    """One line per contender; of transformers' ways to run experts the fastest at each batch."""
    results = [Result(**result) for result in told["results"]]
    fastest: dict[tuple[str, int], Result] = {}
    for result in sorted(results, key=speed):
        fastest[result.kind, result.at_once] = result
    ordered = sorted(fastest.values(), key=lambda one: list(TITLE).index(one.kind))  # stable: sizes stay in order
    ordered.sort(key=lambda one: (list(TITLE).index(one.kind), one.at_once))
    return [
        (
            f"{TITLE[one.kind]} {one.variant}".rstrip() if one.kind != BY_LENGTH else f"  by length, {one.variant}",
            str(one.at_once),
            f"{one.rows_per_s:.1f}",
            f"{one.tokens_per_s:,.0f}",
            f"{one.solved_ratio:.1%}",
            "-" if one.steps_per_canvas is None else f"{one.steps_per_canvas:.2f}",
        )
        for one in ordered
    ]


def findings(told: dict[str, Any]) -> list[str]:
    """The comparisons in words, a line each."""
    lines = []
    if told["best_over_transformers_best"]:
        lines.append(
            f"dgbatch at its best / transformers at its best: {told['best_over_transformers_best']:.2f}x rows/s"
        )
    if told["best_over_transformers_by_length"]:
        lines.append(
            f"the same, with its prompts sorted by length: {told['best_over_transformers_by_length']:.2f}x rows/s"
        )
    if told["alone_over_transformers_batch_1"]:
        lines.append(f"one canvas / transformers batch 1: {told['alone_over_transformers_batch_1']:.2f}x rows/s")
    if told["continuous_over_lockstep"]:
        lines.append(f"continuous / lockstep: {_listed(told['continuous_over_lockstep'].items())}")
    if told["diffusion_over_autoregressive"]:
        wins = told["autoregressive_wins_from"]
        most = max(map(int, told["diffusion_over_autoregressive"]))
        lines.append(f"diffusion / autoregressive, tokens/s: {_listed(told['diffusion_over_autoregressive'].items())}")
        lines.append(f"autoregressive wins from: {f'{wins} at once' if wins else f'nowhere up to {most} at once'}")
    return [part for line in lines for part in wrap(line, 79, subsequent_indent="  ")]


def _listed(ratios: Iterable[tuple[str, float]]) -> str:
    return ", ".join(f"{ratio:.2f}x at {number}" for number, ratio in ratios)
