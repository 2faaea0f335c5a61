"""Parity (b): our model, sampler and chat template against transformers itself, on random tiny configurations.

float32 on a CPU; 1e-4 is what the order of float32 sums may do to softcapped logits of at most 30.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

transformers = pytest.importorskip(
    "transformers", minversion="5.23", reason="transformers is not installed: pip install 'dgbatch[dev]'"
)

from transformers import DynamicCache  # noqa: E402
from transformers.models.diffusion_gemma import generation_diffusion_gemma as theirs  # noqa: E402

from dgbatch.engine import sampler  # noqa: E402
from dgbatch.engine.engine import Engine  # noqa: E402
from dgbatch.engine.sequence import Sequence  # noqa: E402
from dgbatch.engine.tokenizer import Tokenizer  # noqa: E402
from dgbatch.engine.weights import load_transformer  # noqa: E402
from tests.engine import tiny  # noqa: E402
from tests.engine.theirs import GATHERED, WINDOWED, Case, their_model  # noqa: E402

LOGITS, KV = {"atol": 1e-4, "rtol": 0}, {"atol": 5e-5, "rtol": 0}


@st.composite
def cases(draw: st.DrawFn) -> Case:
    heads = draw(st.sampled_from([2, 4, 6]))
    kv_heads = st.sampled_from([count for count in (1, 2, 3) if heads % count == 0])
    experts = draw(st.integers(2, 12))
    earlier = draw(st.lists(st.sampled_from(["sliding_attention", "full_attention"]), max_size=3))
    return Case(
        kinds=(*earlier, "full_attention"),
        sliding=(draw(kv_heads), draw(st.sampled_from([4, 8, 12]))),
        full=(draw(kv_heads), draw(st.sampled_from([8, 16, 24]))),
        heads=heads,
        hidden=draw(st.sampled_from([16, 24, 40])),
        experts=experts,
        chosen=draw(st.integers(1, min(experts, 4))),
        window=draw(st.integers(2, 12)),
        prompt=draw(st.integers(1, 24)),
        canvas=draw(st.integers(1, 12)),
        vocab=draw(st.integers(12, 48)),
        rotated=draw(st.sampled_from([0.25, 0.5, 1.0])),
        attention=draw(st.sampled_from(["eager", "sdpa"])),
        seed=draw(st.integers(0, 2**31)),
    )


def our_engine(model: transformers.DiffusionGemmaForBlockDiffusion) -> Engine:
    """The same weights, by way of a checkpoint on disk."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = load_transformer(Path(folder))
    return tiny.wordless(loaded)


def assert_same_cache(engine: Engine, sequence: Sequence, expected: DynamicCache) -> None:
    for index, layer in enumerate(expected.layers):
        ours = tiny.kept(engine, sequence, index).unbind(1)
        for mine, other in zip(ours, (layer.keys[0], layer.values[0]), strict=True):
            torch.testing.assert_close(mine.transpose(0, 1), other, **KV)


@settings(max_examples=40)
@given(case=cases())
@example(case=WINDOWED)
@example(case=GATHERED)
def test_keys_values_and_logits_equal_those_of_transformers(case: Case) -> None:
    """Prompt, canvas without and with self-conditioning, then a canvas encoded after it and the next canvas."""
    model = their_model(case)
    engine = our_engine(model)
    generator = torch.Generator().manual_seed(case.seed + 1)
    prompt, canvas, settled, second = (
        torch.randint(0, case.vocab, (size,), generator=generator)
        for size in (case.prompt, case.canvas, case.canvas, case.canvas)
    )
    with torch.no_grad():
        scheduler, expected = tiny.fly(engine, prompt.tolist()), DynamicCache(config=model.config.text_config)
        (sequence,) = scheduler.flight
        tiny.encode(engine, scheduler)
        model.model.encoder(input_ids=prompt[None], past_key_values=expected)
        assert_same_cache(engine, sequence, expected)

        first = model(past_key_values=expected, decoder_input_ids=canvas[None]).logits
        torch.testing.assert_close(engine.denoise_logits(prompt.tolist(), canvas.tolist()), first[0], **LOGITS)

        z = first / 0.7
        believing = model(past_key_values=expected, decoder_input_ids=canvas[None], self_conditioning_logits=z).logits
        ours = engine.denoise_logits(prompt.tolist(), canvas.tolist(), z[0])
        torch.testing.assert_close(ours, believing[0], **LOGITS)
        assert_same_cache(engine, sequence, expected)  # a canvas leaves no trace in the cache

        sequence.emit(settled.tolist())
        sequence.pending.append(tuple(settled.tolist()))
        engine.canvases.lay([sequence])
        engine.canvases.tokens[sequence.slot] = second
        ours = engine.passes.run(scheduler.plan())  # the settled canvas and the next one
        model.model.encoder(input_ids=settled[None], past_key_values=expected)
        assert_same_cache(engine, sequence, expected)
        after = model(past_key_values=expected, decoder_input_ids=second[None]).logits
        torch.testing.assert_close(ours[:, : case.canvas], after, **LOGITS)


@st.composite
def step_logits(draw: st.DrawFn) -> torch.Tensor:
    """(batch, canvas, vocab): noise, with some positions peaked at a token."""
    batch, canvas, vocab = draw(st.integers(1, 3)), draw(st.integers(1, 40)), draw(st.integers(2, 60))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    z = torch.randn(batch, canvas, vocab, generator=generator) * draw(st.sampled_from([0.1, 1.0, 5.0]))
    peaked = torch.rand(batch, canvas, generator=generator) < draw(st.sampled_from([0.0, 0.3, 0.9]))
    heights = torch.rand(batch, canvas, generator=generator) * draw(st.sampled_from([10.0, 40.0, 75.0]))
    at = torch.randint(0, vocab, (batch, canvas, 1), generator=generator)
    return z.scatter_add(-1, at, (peaked * heights)[..., None])


@settings(max_examples=150)
@given(z=step_logits(), bound=st.sampled_from([0.01, 0.1, 1.0, 5.0]), seed=st.integers(0, 1000))
def test_next_canvas_equals_that_of_the_entropy_bound_sampler(z: torch.Tensor, bound: float, seed: int) -> None:
    batch, canvas, vocab = z.shape
    entropies = torch.distributions.Categorical(logits=z).entropy()
    ordered = entropies.sort(-1).values
    before = ordered.cumsum(-1) - ordered
    # Where two positions tie, or the sum meets the bound, the last bit of an entropy decides, and it may differ.
    last = (before <= bound).sum(-1, keepdim=True) - 1
    border = ordered.gather(-1, torch.cat([last, (last + 1).clamp(max=canvas - 1)], -1))
    assume((border[:, 1] - border[:, 0] > 1e-5).logical_or(last[:, 0] == canvas - 1).all())
    assume((before - bound).abs().min() > 1e-5)

    generator = torch.Generator().manual_seed(seed)
    drawn, fresh, old = (torch.randint(0, vocab, (batch, canvas), generator=generator) for _ in range(3))
    judge = theirs.EntropyBoundSampler(theirs.EntropyBoundSamplerConfig(bound), canvas, vocab, 48)
    judge.initialize_canvas = lambda size, device: fresh
    expected = judge.renoise_canvas(judge.accept_canvas(old, drawn, z, 48), 48)

    decision = sampler.next_canvas(sampler.believe(z), drawn, fresh, torch.full((batch,), bound))
    assert torch.equal(decision.accepted, judge.accepted_token_mask)
    assert torch.equal(decision.next_canvas, expected)
    torch.testing.assert_close(decision.mean_entropy, entropies.mean(-1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bound", [0.1, 3.0, 30.0])
@pytest.mark.parametrize(
    "z",
    [torch.zeros(2, 9, 50), torch.zeros(1, 300, 7), torch.nn.functional.one_hot(torch.arange(9), 50)[None] * 200.0],
    ids=["flat", "flat and long", "certain"],
)
def test_tied_positions_are_accepted_in_the_same_number(z: torch.Tensor, bound: float) -> None:
    """Which of equals transformers accepts is up to an unstable sort; how many is not."""
    judge = theirs.EntropyBoundSampler(theirs.EntropyBoundSamplerConfig(bound), z.shape[1], z.shape[2], 48)
    tokens = torch.zeros(z.shape[:2], dtype=torch.int64)
    judge.accept_canvas(tokens, tokens, z, 48)
    decision = sampler.next_canvas(sampler.believe(z), tokens, tokens, torch.full(z.shape[:1], bound))
    assert torch.equal(decision.accepted.sum(-1), judge.accepted_token_mask.sum(-1))


@given(steps=st.integers(1, 64), end=st.floats(0.01, 1.0), fall=st.floats(0.01, 1.0))
def test_temperature_falls_as_in_transformers(steps: int, end: float, fall: float) -> None:
    own = tiny.settings(max_denoising_steps=steps, temperature_start=end + fall, temperature_end=end)
    schedule = theirs.LinearTemperatureScheduleLogitsProcessor(end, end + fall, steps)
    for step in range(steps):
        divided = schedule(None, torch.ones(1, dtype=torch.float64), cur_step=steps - step)
        assert 1 / sampler.temperature_at(step, own) == pytest.approx(divided.item(), rel=1e-12)


@settings(max_examples=40)
@given(
    stability=st.integers(0, 3),
    confidence=st.sampled_from([0.01, 0.2, 0.6]),
    history=st.lists(st.tuples(st.integers(0, 1), st.sampled_from([0.2, 1.5, 3.0, 9.0])), min_size=1, max_size=12),
)
def test_a_canvas_settles_at_the_step_where_transformers_stops(
    stability: int, confidence: float, history: list[tuple[int, float]]
) -> None:
    own = tiny.settings(stability=stability, confidence=confidence)
    judge = theirs.StableAndConfidentStoppingCriteria(stability, confidence)
    sequence = Sequence(tiny.prompt(0), own, [1], frozenset())
    previous = torch.full((4,), -1)
    for winner, sharpness in history:
        z = torch.zeros(1, 4, 3)
        z[..., winner] = sharpness
        argmax = z.argmax(-1)
        sequence.stepped(bool((argmax[0] == previous).all()))
        previous = argmax[0]
        settled = sampler.is_settled(sequence.still, sampler.believe(z).entropy.mean().item(), own)
        assert settled == judge(argmax, z).item()


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "  sort 3 1 2 "}],
        [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}],
        [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b<tag>"},
            {"role": "user", "content": "é"},
        ],
    ],
    ids=["user", "system", "turns"],
)
def test_a_chat_becomes_the_tokens_transformers_makes_of_it(
    checkpoint: Path, messages: list[dict[str, str]], thinking: bool
) -> None:
    judge = transformers.PreTrainedTokenizerFast.from_pretrained(checkpoint)
    expected = judge.apply_chat_template(
        messages, add_generation_prompt=True, enable_thinking=thinking, tokenize=True, return_dict=False
    )
    assert Tokenizer.load(checkpoint).encode_chat(messages, thinking) == expected
