"""`dgbatch bench roofline`: the fastest step that physics allows, and what was reached on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from dgbatch import roofline
from dgbatch.roofline import Device, Shape

if TYPE_CHECKING:
    from dgbatch.engine import Engine

REAL = "DiffusionGemma 26B-A4B"


@dataclass(frozen=True, slots=True)
class RooflineBench:
    """What is asked."""

    checkpoint: str | None = None  # None: the real 26B, whose sizes are known
    prefix: int = 1024
    steps: int = 16
    canvases: tuple[int, ...] = (1, 2, 4, 8, 16)
    measure: bool = False
    threads: int = 2
    device: str = "auto"


def bench_roofline(asked: RooflineBench, tell: Callable[[str], None]) -> dict[str, Any]:
    """Floors of known devices; with `measure` this machine's too, and what our engine reaches."""
    if not asked.measure:
        name, shape = _shape(asked.checkpoint)
        return {"benchmark": "roofline", "model": name, "asked": asdict(asked), "floors": floors(asked, shape)}
    from dgbatch.bench.measure import machine
    from dgbatch.engine import Engine
    from dgbatch.records import EngineConfig

    name = asked.checkpoint or "demo"
    engine = Engine.load(name, EngineConfig(canvases=1, device=asked.device, threads=asked.threads))
    told = {"benchmark": "roofline", "model": name, "machine": machine(engine.device_name, asked.threads)}
    measured = measure(asked, engine, tell)
    floor = floors(asked, Shape.of(engine.model.config))
    return told | {"asked": asdict(asked), "floors": floor, "measured": measured}


def floors(asked: RooflineBench, shape: Shape) -> list[dict[str, Any]]:
    """One entry per device and format, one floor per number of canvases."""
    return [
        {
            "device": device.name,
            "format": form,
            "step_s": [_step_s(shape, device, form, number, asked.prefix) for number in asked.canvases],
            "tokens_per_s": [
                roofline.diffusion_tokens_per_s(shape, device, form, number, asked.prefix, asked.steps)
                for number in asked.canvases
            ],
            "autoregressive_wins_from": roofline.autoregressive_wins_from(
                shape, device, form, asked.prefix, asked.steps
            ),
        }
        for device in roofline.DEVICES
        for form in roofline.GPU_FORMATS
    ]


def measure(asked: RooflineBench, engine: Engine, tell: Callable[[str], None]) -> dict[str, Any]:
    """This machine's limits, the floors they give, and ms per step of our engine, in one go."""
    from dgbatch.bench.limits import here, step_s

    limits, form = here(engine)
    tell(f"limits: {limits.bytes_per_s / 1e9:.1f} GB/s, {limits.flops_per_s[form] / 1e9:.0f} GFLOP/s in {form}")
    shape = Shape.of(engine.model.config)
    prefix = min(asked.prefix, engine.model.config.max_positions - shape.canvas)
    reached = []
    for number in asked.canvases:
        took, prefix = step_s(engine, number, prefix)
        tell(f"{number} at once: {took * 1e3:.2f} ms per step")
        reached.append(took)
    floor = [_step_s(shape, limits, form, number, prefix) for number in asked.canvases]
    return {
        "format": form,
        "prefix": prefix,
        "bytes_per_s": limits.bytes_per_s,
        "flops_per_s": limits.flops_per_s[form],
        "floor_s": floor,
        "step_s": reached,
        "share_of_floor": [least / took for least, took in zip(floor, reached, strict=True)],
    }


def _shape(checkpoint: str | None) -> tuple[str, Shape]:
    if checkpoint is None:
        return REAL, roofline.DIFFUSIONGEMMA_26B
    from dgbatch.engine.checkpoint import resolve
    from dgbatch.engine.weights import load_config

    return checkpoint, Shape.of(load_config(resolve(checkpoint)))


def _step_s(shape: Shape, device: Device, form: str, canvases: int, prefix: int) -> float:
    return roofline.seconds(roofline.denoise(shape, device, form, canvases, prefix))


def columns(told: dict[str, Any]) -> tuple[str, ...]:
    return ("device", "format", *(str(number) for number in told["asked"]["canvases"]))


def table_rows(told: dict[str, Any]) -> list[tuple[str, ...]]:
    """ms per step and tokens/s for known devices; beside this one, ms per step alone."""
    measured = told.get("measured")
    rows: list[tuple[str, ...]] = []
    for one in told["floors"]:
        cells = zip(one["step_s"], one["tokens_per_s"], strict=True)
        shown = (_ms(took) if measured else f"{_ms(took)} {speed:.0f}" for took, speed in cells)
        rows.append((one["device"], one["format"], *shown))
    if measured:
        form = measured["format"]
        rows += [
            ("here", form, *(_ms(took) for took in measured["floor_s"])),
            ("reached", form, *(_ms(took) for took in measured["step_s"])),
            ("share", "", *(f"{share:.0%}" for share in measured["share_of_floor"])),
        ]
    return rows


def findings(told: dict[str, Any]) -> list[str]:
    """What the table's numbers are, a line each."""
    asked = told["asked"]
    lines = [
        f"{told['model']}, prefix of {asked['prefix']:,} tokens, by canvases in flight.",
        "Floor in ms per denoising step"
        + ("." if "measured" in told else f", and tokens/s at {asked['steps']} steps and a commit."),
    ]
    if measured := told.get("measured"):
        lines.append(
            f"here: prefix {measured['prefix']}, {measured['bytes_per_s'] / 1e9:.1f} GB/s, "
            f"{measured['flops_per_s'] / 1e9:,.0f} GFLOP/s, measured just now."
        )
    return lines


def _ms(seconds: float) -> str:
    """Three digits that count."""
    value = seconds * 1e3
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"
