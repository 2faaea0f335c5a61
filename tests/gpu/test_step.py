"""The whole step: what transformers makes of the same tokens, graphs, company, a second run."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dgbatch.engine.device_step.cuda_graph import Graphs
from dgbatch.engine.kernels.tables import Frame
from dgbatch.engine.model.config import ModelConfig
from dgbatch.engine.weights import load_transformer
from tests.engine import tiny
from tests.gpu.machine import DEVICE, same
from tests.gpu.stepping import MAX_STEPS, TEMPERATURES, Stepping

pytestmark = pytest.mark.gpu


def bfloat16_model() -> Stepping:
    """Two layers of each kind with the head sizes of the demo model."""
    text = {
        "hidden_size": 128, "head_dim": 32, "intermediate_size": 96, "moe_intermediate_size": 64, "num_experts": 8,
        "num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2,
        "per_layer_config": {at: {"head_dim": 64, "num_key_value_heads": 1} for at in ("1", "3")},
    }  # fmt: skip
    config = ModelConfig.from_dict(tiny.config_dict(**text))
    return Stepping.of(tiny.random_model(config).to(torch.bfloat16), slots=4)


def seat_all(stepping: Stepping, slots: dict[int, int]) -> None:
    """Texts 0, 1, 2, by slot: each with its own prompt, noise and canvas."""
    config = stepping.model.config
    for slot, text in slots.items():
        made = torch.Generator().manual_seed(text)
        ids = torch.randint(0, config.vocab_size, (40,), generator=made).tolist()
        stepping.seat(slot, ids[: (5, 17, 24)[text]], ids[-config.canvas_length :], key=text + 1)


def test_a_graph_replays_what_the_kernels_do_one_by_one() -> None:
    eager, graphed = bfloat16_model(), bfloat16_model()
    graphs = Graphs(graphed.step, torch.device(DEVICE))
    for stepping in (eager, graphed):
        seat_all(stepping, {0: 0, 2: 1, 3: 2})
    for turn, tiles in enumerate((8, 4, 4, 4, 8, 4)):  # the first of each size is captured, others are replayed
        eager.step(tiles)
        graphs.run(tiles)
        assert not same(eager.snapshot(), graphed.snapshot()), turn


def test_two_runs_are_the_same_to_the_bit() -> None:
    runs = []
    for _ in range(2):
        stepping = bfloat16_model()
        seat_all(stepping, {0: 0, 1: 1, 2: 2})
        for _ in range(6):
            stepping.step(8)
        runs.append(stepping.snapshot())
    assert not same(*runs)


def test_a_text_denoises_the_same_alone_and_in_company() -> None:
    """In another slot, with other counts of tiles, beside prompts that are encoded."""
    crowd, alone = bfloat16_model(), bfloat16_model()
    seat_all(crowd, {0: 0, 1: 1, 2: 2})
    seat_all(alone, {3: 1})
    for turn in range(6):
        crowd.step(12 if turn else 16)
        alone.step(2 if turn else 4)
        for row in Frame:
            assert torch.equal(crowd.frame(1, row), alone.frame(3, row)), (turn, row.name)
        assert torch.equal(crowd.state.slots.soft[1], alone.state.slots.soft[3]), turn


transformers = pytest.importorskip("transformers.models.diffusion_gemma", reason="no transformers with DiffusionGemma")

from transformers import DynamicCache  # noqa: E402

from tests.engine.theirs import GATHERED, WINDOWED, Case, their_model  # noqa: E402


@pytest.mark.parametrize("case", [WINDOWED, GATHERED], ids=["windowed", "gathered"])
def test_a_step_believes_what_transformers_believes(case: Case) -> None:
    """Prompt and canvas in one pass, then a step with self-conditioning, then a settled canvas and the next.

    float32, in which products run in full: 1e-3 of entropies and 5e-4 of soft embeddings of a few units, for sums in
    another order behind five layers.
    """
    their = their_model(case)
    with tempfile.TemporaryDirectory() as folder:
        their.save_pretrained(folder)
        ours = Stepping.of(load_transformer(Path(folder)), slots=2)
    their = their.to(DEVICE)
    made = torch.Generator().manual_seed(case.seed)
    sizes = (case.prompt, case.canvas, case.canvas, case.canvas)
    words = case.vocab - 3  # the last three stand for images, which transformers before 5.23 takes out of a text
    prompt, canvas, settled, second = (torch.randint(0, words, (size,), generator=made) for size in sizes)
    ours.seat(1, prompt.tolist(), canvas.tolist())
    cache = DynamicCache(config=their.config.text_config)
    start, end = TEMPERATURES
    with torch.no_grad():
        their.model.encoder(input_ids=on_device(prompt), past_key_values=cache)
        ours.step(8)
        logits = their(past_key_values=cache, decoder_input_ids=on_device(canvas)).logits
        assert_same_belief(ours, logits / start)

        tokens = ours.frame(1, Frame.TOKENS).long()
        ours.step(2)
        # transformers believes at the temperature of the step before
        logits = their(
            past_key_values=cache, decoder_input_ids=on_device(tokens), self_conditioning_logits=logits / start
        ).logits
        assert_same_belief(ours, logits / (end + (start - end) * (MAX_STEPS - 1) / MAX_STEPS))

        ours.settle(1, settled.tolist(), second.tolist())
        ours.step(2)
        their.model.encoder(input_ids=on_device(settled), past_key_values=cache)
        logits = their(past_key_values=cache, decoder_input_ids=on_device(second)).logits
        assert_same_belief(ours, logits / start)


def on_device(ids: Tensor) -> Tensor:
    return ids.to(DEVICE)[None]


def assert_same_belief(ours: Stepping, z: Tensor) -> None:
    (z,) = z.float()
    p = z.softmax(-1)
    entropy = torch.distributions.Categorical(logits=z).entropy()
    torch.testing.assert_close(ours.frame(1, Frame.ENTROPY), entropy, atol=1e-3, rtol=0)
    best = z.gather(1, ours.frame(1, Frame.ARGMAX).long()[:, None])
    torch.testing.assert_close(best.squeeze(1), z.amax(1), atol=1e-3, rtol=0)  # of two as good, either
    soft = ours.model.soft_embeddings(p)
    torch.testing.assert_close(ours.state.slots.soft[1, : len(z)], soft, atol=5e-4, rtol=0)
