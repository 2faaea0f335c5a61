"""The floors against the tables they were published in: engine notes, sections 4.1, 4.2, 4.4 and 4.5."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dgbatch.engine.model.config import ModelConfig
from dgbatch.roofline import (
    DEVICES,
    DIFFUSIONGEMMA_26B,
    GPU_FORMATS,
    Device,
    Shape,
    autoregressive_tokens_per_s,
    autoregressive_wins_from,
    commit,
    denoise,
    diffusion_tokens_per_s,
    seconds,
    seconds_overlapped,
)

REAL = DIFFUSIONGEMMA_26B
NAMED = {device.name: device for device in DEVICES}
DEMO = Path(__file__).parents[1] / "dgbatch" / "demo" / "checkpoint" / "config.json"

# operation: GB, TFLOP and ms of each format; one denoising step, B=1, L=1024, H200
STEP = {
    "experts": [(45.68, 0.73, 10.62), (22.84, 0.73, 5.31), (12.85, 0.73, 2.99)],
    "attention projections": [(2.22, 0.57, 0.72), (1.11, 0.57, 0.36), (0.62, 0.57, 0.72)],
    "dense MLP": [(1.07, 0.27, 0.35), (0.54, 0.27, 0.17), (0.30, 0.27, 0.35)],
    "attention": [(0.29, 0.19, 0.24)] * 3,
    "head": [(1.61, 0.38, 0.48)] * 3,
    "soft embeddings": [(1.61, 0.38, 0.48)] * 3,
    "self-conditioning MLP": [(0.04, 0.01, 0.01)] * 3,
}
# ms per step at B = 1, 2, 4, 8, 16, and tokens/s at 16 steps; L=1024
FLOORS = {
    ("H200", "bf16"): [(12.9, 1173), (15.2, 2001), (19.7, 3091), (28.8, 4250), (51.2, 4795)],
    ("H200", "fp8"): [(7.1, 2153), (8.8, 3471), (12.3, 5002), (19.2, 6418), (35.2, 7020)],
    ("H200", "4-bit"): [(5.3, 2894), (7.5, 4060), (12.8, 4795), (25.6, 4795), (51.2, 4795)],
    ("H100", "bf16"): [(17.8, 850), (20.4, 1489), (25.5, 2388), (35.7, 3420), (57.7, 4248)],
    ("H100", "fp8"): [(9.6, 1583), (11.5, 2640), (15.5, 3961), (23.3, 5283), (39.8, 6220)],
    ("H100", "4-bit"): [(6.8, 2220), (9.4, 3244), (14.5, 4217), (28.9, 4248), (57.7, 4248)],
    ("PRO 6000", "bf16"): [(33.2, 456), (37.5, 807), (46.5, 1308), (64.5, 1896), (101.0, 2428)],
    ("PRO 6000", "fp8"): [(17.8, 850), (21.1, 1440), (28.0, 2185), (41.8, 2949), (69.6, 3555)],
    ("PRO 6000", "4-bit"): [(11.1, 1370), (13.8, 2211), (19.7, 3135), (31.3, 3963), (54.6, 4566)],
}


def step_ms(device: str, form: str, canvases: int, prefix: int = 1024) -> float:
    return 1e3 * seconds(denoise(REAL, NAMED[device], form, canvases, prefix))


def test_weights_of_the_real_model() -> None:
    assert REAL.expert_weights / 1e9 == pytest.approx(22.84, abs=0.005)
    assert REAL.embedding_weights / 1e9 == pytest.approx(0.738, abs=0.0005)
    assert REAL.weights / 1e9 == pytest.approx(25.23, abs=0.05)
    assert (len(REAL.layers), sum(not layer.sliding for layer in REAL.layers)) == (30, 5)


@pytest.mark.parametrize("operation", STEP)
def test_one_step_by_operation(operation: str) -> None:
    for form, (gigabytes, teraflops, ms) in zip(GPU_FORMATS, STEP[operation], strict=True):
        cost = denoise(REAL, NAMED["H200"], form, 1, 1024)[operation]
        assert cost.bytes / 1e9 == pytest.approx(gigabytes, abs=0.006)
        assert cost.flops / 1e12 == pytest.approx(teraflops, abs=0.006)
        assert cost.seconds * 1e3 == pytest.approx(ms, abs=0.006)


@pytest.mark.parametrize(("device", "form"), FLOORS)
def test_floor_per_step_and_tokens_per_second(device: str, form: str) -> None:
    for canvases, (ms, tokens_per_s) in zip((1, 2, 4, 8, 16), FLOORS[device, form], strict=True):
        assert step_ms(device, form, canvases) == pytest.approx(ms, abs=0.051)
        told = diffusion_tokens_per_s(REAL, NAMED[device], form, canvases, 1024, 16)
        assert told == pytest.approx(tokens_per_s, abs=0.51)


def test_an_h200_takes_at_least_12_9_ms_for_one_canvas_in_bf16() -> None:
    assert step_ms("H200", "bf16", 1) == pytest.approx(12.90, abs=0.005)
    costs = denoise(REAL, NAMED["H200"], "bf16", 1, 1024)
    assert seconds_overlapped(NAMED["H200"], costs, "bf16") * 1e3 == pytest.approx(12.21, abs=0.005)
    for form, overlapped, settled in (("fp8", 6.52, 6.08), ("4-bit", 4.03, 4.29)):
        costs = denoise(REAL, NAMED["H200"], form, 1, 1024)
        assert seconds_overlapped(NAMED["H200"], costs, form) * 1e3 == pytest.approx(overlapped, abs=0.006)
        assert seconds(commit(REAL, NAMED["H200"], form, 1, 1024)) * 1e3 == pytest.approx(settled, abs=0.006)


def test_a_long_prefix_costs_little_alone_and_much_in_company() -> None:
    for prefix, one, eight in ((256, 12.8, 27.7), (4096, 13.1, 30.1), (16384, 13.7, 35.3), (131072, 19.8, 84.0)):
        assert step_ms("H200", "bf16", 1, prefix) == pytest.approx(one, abs=0.051)
        assert step_ms("H200", "bf16", 8, prefix) == pytest.approx(eight, abs=0.051)


def test_where_one_token_a_pass_would_win() -> None:
    for device, form, alone, wins_from in (
        ("H200", "bf16", 548, 76),
        ("H200", "fp8", 900, 68),
        ("H200", "4-bit", 1251, 17),
        ("H100", "bf16", 382, 107),
        ("PRO 6000", "4-bit", 466, 134),
    ):
        assert autoregressive_tokens_per_s(REAL, NAMED[device], form, 1, 1024) == pytest.approx(alone, abs=0.51)
        assert autoregressive_wins_from(REAL, NAMED[device], form, 1024, 16) == wins_from
    assert autoregressive_wins_from(REAL, NAMED["H200"], "bf16", 1024, 16, range(1, 64)) is None


def test_any_checkpoint_has_a_shape() -> None:
    shape = Shape.of(ModelConfig.from_dict(json.loads(DEMO.read_text())))
    assert (shape.canvas, shape.experts, shape.chosen, len(shape.layers)) == (48, 4, 2, 4)
    assert shape.weights / 1e6 == pytest.approx(1.5, abs=0.1)
    slow = Device("slow", 1e9, {"float32": 1e9})
    costs = denoise(shape, slow, "float32", 1, 100)
    # 2 operations a weight and token; half of the expert weights take part
    flops = 2 * 48 * (shape.weights - shape.expert_weights / 2 + shape.embedding_weights)
    assert sum(cost.flops for cost in costs.values()) == pytest.approx(flops + costs["attention"].flops)
    assert seconds(costs) > seconds(commit(shape, slow, "float32", 1, 100))
