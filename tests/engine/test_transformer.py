"""What the model computes for whom, and what `prepare` changes: nothing that can be seen from outside."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dgbatch.engine import kernels
from dgbatch.engine.model.transformer import Transformer
from tests.engine import tiny

ROWS = 12


@pytest.fixture
def model() -> Transformer:
    return tiny.tiny_model()


def causal(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = torch.ones(len(k), len(k), dtype=torch.bool).tril()[len(k) - len(q) :]
    return kernels.attention(q, k, v, mask)


def run(model: Transformer, context: int = 0) -> Tensor:
    ids = torch.arange(ROWS) * 5 % model.config.vocab_size
    return model.run_layers(model.embed_context(ids), torch.arange(ROWS), ids >= 0, causal, context)


@torch.no_grad()
def test_a_prepared_model_computes_what_it_computed_before(model: Transformer) -> None:
    names = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = run(model)
    torch.testing.assert_close(run(model.prepare()), before, atol=1e-6, rtol=1e-6)
    assert all(torch.equal(tensor, names[name]) for name, tensor in model.state_dict().items())
    assert model.prepare() is model


@torch.no_grad()
def test_layer_scalars_are_applied_to_rows_of_their_mode_prepared_or_not(model: Transformer) -> None:
    for layer in model.layers:
        layer.encoder_scalar.fill_(1.0)
        layer.decoder_scalar.fill_(1.0)
    plain = run(model.prepare())
    for layer in model.layers:
        layer.encoder_scalar.fill_(2.0)
    scaled = run(model)
    assert torch.equal(scaled, plain)  # until it is prepared again
    assert not torch.allclose(run(model.prepare()), plain)


def test_a_prepared_model_can_be_trained_on(model: Transformer) -> None:
    model.prepare().requires_grad_(True)
    run(model).square().mean().backward()
    query = model.layers[0].attention.q
    assert query.grad is not None and query.grad.abs().sum() > 0
    with torch.no_grad():
        before = run(model)
        query.add_(1.0)
        assert not torch.allclose(run(model), before)


@torch.no_grad()
def test_context_rows_leave_keys_and_values_behind_and_nothing_else(model: Transformer) -> None:
    """The last rows come out the same; of the first ones the last layer asks for keys and values alone."""
    seen: dict[int, tuple[int, int]] = {}
    everything = run(model)

    def watching(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen[layer] = len(q), len(k)
        return causal(layer, q, k, v)

    ids = torch.arange(ROWS) * 5 % model.config.vocab_size
    last = model.run_layers(model.embed_context(ids), torch.arange(ROWS), ids >= 0, watching, context=8)
    torch.testing.assert_close(last, everything[8:], atol=1e-6, rtol=1e-6)
    final = len(model.layers) - 1
    assert seen == {**dict.fromkeys(range(final), (ROWS, ROWS)), final: (4, ROWS)}


@torch.no_grad()
def test_a_pass_of_context_alone_computes_the_keys_and_values_of_the_last_layer_and_returns_no_row(
    model: Transformer,
) -> None:
    seen = []

    def watching(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen.append((layer, len(k)))
        return causal(layer, q, k, v)

    ids = torch.arange(ROWS)
    out = model.run_layers(model.embed_context(ids), ids, ids >= 0, watching, context=ROWS)
    assert out.shape == (0, model.config.hidden)
    assert seen == [(layer, ROWS) for layer in range(len(model.layers))]
