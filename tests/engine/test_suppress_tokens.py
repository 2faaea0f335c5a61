"""Tokens that a job or a row never wants written."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dgbatch.engine.canvases import Canvases
from dgbatch.engine.model.transformer import Transformer
from dgbatch.engine.sequence import Sequence
from dgbatch.engine.tokenizer import Tokenizer
from dgbatch.records import Completion, Generation, Prompt, Rejection
from tests.engine import tiny

VOCAB = len(tiny.VOCABULARY)


def asking(number: int, *ids: int) -> Prompt:
    one = tiny.prompt(number)
    return replace(one, generation=replace(one.generation, suppress_tokens=ids))


def test_suppressed_tokens_are_never_written_and_those_beside_are_untouched(
    model: Transformer, tokenizer: Tokenizer
) -> None:
    """Each of six prompts suppresses what it wrote before, but for one, which runs in their company."""

    def engine():
        return tiny.make_engine(tokenizer, model, canvases=3)

    before = tiny.by_id(engine().generate([tiny.prompt(number) for number in range(6)]))
    prompts = [asking(0), *(asking(n, *sorted(set(before[tiny.prompt(n).id].token_ids))) for n in range(1, 6))]
    after = tiny.by_id(engine().generate(prompts))
    assert after[prompts[0].id] == before[prompts[0].id]
    for prompt in prompts[1:]:
        assert isinstance(after[prompt.id], Completion)
        assert not set(prompt.generation.suppress_tokens or ()) & set(after[prompt.id].token_ids)
        alone = tiny.by_id(engine().generate([prompt]))
        assert alone[prompt.id] == after[prompt.id]


@pytest.mark.parametrize("greedy", [False, True])
def test_a_suppressed_token_is_masked_in_its_own_sequence_alone(model: Transformer, greedy: bool) -> None:
    """The model is sure of token 9 everywhere; one of two sequences must not write it."""
    own = tiny.settings(greedy=greedy, entropy_bound=1e9)
    canvases = Canvases(model, 2, [])
    one, other = (
        Sequence(tiny.prompt(slot), settings, [1], frozenset(), slot=slot)
        for slot, settings in enumerate((replace(own, suppress_tokens=(9, 2)), own))
    )
    canvases.lay([one, other])
    z = torch.randn(2, 2 * tiny.CANVAS, VOCAB, generator=torch.Generator().manual_seed(0))
    z[..., 9] = 30.0
    canvases.step([one, other], z)
    assert not {9, 2} & {*canvases.tokens[0].tolist(), *canvases.argmax[0].tolist()}
    assert set(canvases.tokens[1].tolist()) == set(canvases.argmax[1].tolist()) == {9}


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ((1, VOCAB), f"suppress_tokens has the id {VOCAB}; those of this checkpoint go from 0 to {VOCAB - 1}"),
        ((-1,), "suppress_tokens has the id -1;"),
        ((2**70,), "suppress_tokens has the id "),
        (tuple(range(VOCAB)), "suppress_tokens leaves no token to write"),
        (
            tuple(set(range(VOCAB)) - {tiny.VOCABULARY["<pad>"], tiny.VOCABULARY["<bos>"]}),
            "suppress_tokens leaves no token to write",  # what is left is never written anyway
        ),
    ],
)
def test_ids_that_cannot_be_suppressed_cost_that_row(
    model: Transformer, tokenizer: Tokenizer, ids: tuple[int, ...], says: str
) -> None:
    engine = tiny.make_engine(tokenizer, model, canvases=2)
    results = tiny.by_id(engine.generate([asking(0, *ids), asking(1)]))
    bad, good = results[tiny.prompt(0).id], results[tiny.prompt(1).id]
    assert isinstance(bad, Rejection) and bad.error_code == "bad_generation"
    assert says in bad.error_message
    assert isinstance(good, Completion) and engine.stats.rejections == 1


def test_nothing_said_is_nothing_suppressed() -> None:
    assert Generation().or_else(tiny.SETTINGS).suppress_tokens == ()
    assert Generation(suppress_tokens=()).or_else(replace(tiny.SETTINGS, suppress_tokens=(1,))).suppress_tokens == ()
