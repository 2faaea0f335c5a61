"""Parity (a): our model and sampler against tensors and sampler runs that transformers recorded (tests/golden).

Tolerances are the ones the recorded files were checked with in float64: 5e-5 on hidden states and KV, 2e-4 on
single-pass logits, 1e-3 on the logits and entropies of a run, where float32 differences accumulate over steps.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dgbatch.engine import sampler
from dgbatch.engine.engine import Engine
from dgbatch.engine.model.attention import Attend
from dgbatch.engine.model.config import ModelConfig
from dgbatch.engine.model.transformer import Transformer
from dgbatch.engine.sequence import Sequence
from dgbatch.engine.weights import load_transformer, public_name
from dgbatch.records import Settings
from tests.engine.tiny import encode, fly, kept, wordless

GOLDEN = Path(__file__).parents[1] / "golden"
STEP_KEYS = ("cur_step", "temperature", "canvas_in", "sampled", "renoise", "entropy", "accepted", "argmax", "stop")


@dataclass
class Golden:
    engine: Engine
    prompt: list[int]
    canvas: list[int]
    tensors: dict[str, np.ndarray]
    settings: Settings
    runs: list[dict[str, Any]]  # one per canvas: init_canvas, and steps of STEP_KEYS
    sequence: list[int]
    tokens_per_forward: float
    end_ids: tuple[int, ...] = ()
    commit: dict[str, np.ndarray] = field(default_factory=dict)


def settings_of(raw: dict[str, Any], entropy_bound: float) -> Settings:
    return Settings(
        max_new_tokens=raw["max_new_tokens"],
        max_denoising_steps=raw["max_denoising_steps"],
        entropy_bound=entropy_bound,
        temperature_start=raw["t_max"],
        temperature_end=raw["t_min"],
        confidence=raw["confidence_threshold"],
        stability=raw["stability_threshold"],
    )


def tiny() -> Golden:
    arrays = np.load(GOLDEN / "golden_tiny.npz")
    record = json.loads((GOLDEN / "golden_tiny.json").read_text())
    config = ModelConfig.from_dict({"text_config": record["config"]["text"], "canvas_length": len(record["canvas"])})
    model = Transformer(config)
    model.load_state_dict(
        {name: torch.from_numpy(arrays["w:" + public_name(name)].astype(np.float32)) for name in model.state_dict()}
    )
    model.eval().requires_grad_(False)
    runs: list[dict[str, Any]] = []
    events = iter(record["trace"])
    for event in events:
        if event["ev"] == "random":
            runs.append({"init_canvas": event["canvas"], "steps": []})
        else:
            runs[-1]["steps"].append(event | {"renoise": next(events)["canvas"], "stop": next(events)["finished"]})
    settings = settings_of(record["gen_params"], record["gen_params"]["entropy_bound"])
    return Golden(
        engine=wordless(model, settings),
        prompt=record["prompt"],
        canvas=record["canvas"],
        tensors={name[2:]: arrays[name] for name in arrays.files if name.startswith("g:")},
        settings=settings,
        runs=runs,
        sequence=record["sequences"],
        tokens_per_forward=record["tokens_per_forward"],
    )


def small() -> Golden:
    arrays = np.load(GOLDEN / "golden_small.npz")
    raw = json.loads((GOLDEN / "checkpoint_small" / "generation_config.json").read_text())
    settings = settings_of(raw, raw["sampler_config"]["entropy_bound"])
    keys = (*STEP_KEYS, "raw_logits", "mean_entropy")
    runs = [
        {
            "init_canvas": arrays[f"c{c}_init_canvas"].tolist(),
            "steps": [{key: arrays[f"c{c}_{key}"][s] for key in keys} for s in range(len(arrays[f"c{c}_stop"]))],
        }
        for c in range(2)
    ]
    return Golden(
        engine=wordless(load_transformer(GOLDEN / "checkpoint_small"), settings, tuple(raw["eos_token_id"])),
        prompt=arrays["prompt"].tolist(),
        canvas=arrays["canvas"].tolist(),
        tensors=dict(arrays),
        settings=settings,
        runs=runs,
        sequence=arrays["sequences"].tolist(),
        tokens_per_forward=float(arrays["tokens_per_forward"]),
        end_ids=tuple(raw["eos_token_id"]),
        commit={name: arrays[name] for name in arrays.files if name.startswith("commit_")},
    )


@pytest.fixture(params=[tiny, small], ids=["tiny", "small"])
def golden(request: pytest.FixtureRequest) -> Golden:
    return request.param()


def assert_kept(engine: Engine, sequence: Sequence, expected: dict[str, np.ndarray], prefix: str) -> None:
    """A full layer keeps every token; of a sliding layer transformers keeps the last window - 1."""
    for layer in range(len(engine.model.layers)):
        for name, ours in zip("kv", kept(engine, sequence, layer).unbind(1), strict=True):
            theirs = torch.from_numpy(expected[f"{prefix}_{name}_{layer}"])
            torch.testing.assert_close(ours.transpose(0, 1), theirs, atol=5e-5, rtol=0)


def test_keys_and_values_of_a_prompt_longer_than_the_window_equal_the_recorded_ones(golden: Golden) -> None:
    assert len(golden.prompt) > golden.engine.model.config.sliding_window
    scheduler = fly(golden.engine, golden.prompt)
    encode(golden.engine, scheduler)
    assert_kept(golden.engine, scheduler.flight[0], golden.tensors, "cache")


def test_last_hidden_state_of_the_prompt_equals_the_recorded_one(
    golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = golden.engine.model
    exact, passes = model.run_layers, []

    def whole(x: Tensor, positions: Tensor, causal: Tensor, attend: Attend, context: int) -> Tensor:
        """Every row through the last layer too, which the engine has no use for."""
        passes.append(exact(x, positions, causal, attend))
        return passes[-1]

    monkeypatch.setattr(model, "run_layers", whole)
    engine = wordless(model, golden.settings)  # knows no prefix yet: it computes every row
    scheduler, hidden = fly(engine, golden.prompt), []
    while scheduler.flight[0].pending:
        tiles = [tile for tile in scheduler.plan() if tile.causal]
        engine.passes.run(tiles)
        first = 0
        for tile in tiles:
            hidden.append(passes[-1][first : first + tile.rows])
            first += engine.passes.padded(tile.rows)
    x = torch.cat(hidden)
    normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * model.final_norm
    torch.testing.assert_close(normed, torch.from_numpy(golden.tensors["enc_last_hidden"]), atol=5e-5, rtol=0)


def test_logits_without_self_conditioning_equal_the_recorded_ones(golden: Golden) -> None:
    logits = golden.engine.denoise_logits(golden.prompt, golden.canvas)
    torch.testing.assert_close(logits, torch.from_numpy(golden.tensors["dec_logits_nosc"]), atol=2e-4, rtol=0)


def test_logits_with_self_conditioning_equal_the_recorded_ones(golden: Golden) -> None:
    previous = torch.from_numpy(golden.tensors["dec_logits_nosc"]) / 0.7
    logits = golden.engine.denoise_logits(golden.prompt, golden.canvas, previous)
    torch.testing.assert_close(logits, torch.from_numpy(golden.tensors["dec_logits_sc"]), atol=2e-4, rtol=0)


@pytest.mark.parametrize("fold", [True, False], ids=["folded", "pass by pass"])
def test_recorded_draws_replay_to_the_recorded_canvases_and_sequence(golden: Golden, fold: bool) -> None:
    """Step for step: temperature, logits, entropy, accept mask, argmax, stop, next canvas; commit; final ids."""
    engine, settings, length = golden.engine, golden.settings, len(golden.canvas)
    ids, passes = list(golden.prompt), 0
    scheduler = fly(engine, golden.prompt, fold=fold)
    (sequence,) = scheduler.flight
    for number, run in enumerate(golden.runs):
        if number:
            sequence.emit(ids[-length:])
            sequence.pending.append(tuple(ids[-length:]))
            engine.canvases.lay([sequence])
        canvas, previous, still, stopped = torch.tensor(run["init_canvas"]), None, 0, False
        for step, recorded in enumerate(run["steps"]):
            assert canvas.tolist() == list(recorded["canvas_in"])
            assert settings.max_denoising_steps - step == recorded["cur_step"]
            temperature = sampler.temperature_at(step, settings)
            engine.canvases.tokens[sequence.slot] = canvas
            padded = None
            while padded is None:
                padded = engine.passes.run(scheduler.plan())
            logits = padded[:, :length]
            if number and golden.commit:
                assert_kept(engine, sequence, golden.commit, "commit")
            if "raw_logits" in recorded:
                torch.testing.assert_close(logits[0], torch.from_numpy(recorded["raw_logits"]), atol=1e-3, rtol=0)
                assert temperature == pytest.approx(float(recorded["temperature"]), abs=1e-6)
            belief = sampler.believe(logits / temperature)
            decision = sampler.next_canvas(
                belief,
                torch.tensor(np.array(recorded["sampled"], dtype=np.int64))[None],
                torch.tensor(np.array(recorded["renoise"], dtype=np.int64))[None],
                torch.tensor([settings.entropy_bound]),
            )
            entropies = torch.tensor(np.array(recorded["entropy"], dtype=np.float32))
            torch.testing.assert_close(belief.entropy[0], entropies, atol=1e-3, rtol=0)
            assert decision.accepted[0].tolist() == [bool(mark) for mark in recorded["accepted"]]
            argmax = decision.argmax[0].tolist()
            assert argmax == list(recorded["argmax"])
            still = still + 1 if argmax == previous else 0
            stopped = sampler.is_settled(still, decision.mean_entropy.item(), settings)
            assert stopped == bool(recorded["stop"])
            canvas, previous = decision.next_canvas[0], argmax
            engine.canvases.soft[sequence.slot] = engine.model.soft_embeddings(belief.p)[0]
            sequence.stepped(False)
            passes += 1
        assert stopped or step + 1 == settings.max_denoising_steps
        ends = [at for at, token in enumerate(previous) if token in golden.end_ids]
        kept_ids = previous if not ends else previous[: ends[0] + 1] + [0] * (len(previous) - ends[0] - 1)
        ids += kept_ids
        if ends:
            break
    scheduler.retire(sequence)
    assert ids == golden.sequence
    new = [token for token in ids[len(golden.prompt) :] if token != 0]
    assert len(new) / passes == pytest.approx(golden.tokens_per_forward, abs=1e-6)
