"""What a step reads of a model is the model's own memory."""

from __future__ import annotations

import torch

from dgbatch.engine.device_step.weights import step_weights
from dgbatch.engine.model.transformer import Transformer
from tests.engine import tiny


def prepared() -> Transformer:
    return tiny.tiny_model().prepare()


def test_joined_matrices_are_those_of_the_model_in_order() -> None:
    model = prepared()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights = step_weights(model)
    for index, layer in enumerate(weights.layers):
        own = [before[f"layers.{index}.mlp.{name}"] for name in ("gate", "up")]
        assert torch.equal(layer.gate_up, torch.cat(own))
        heads = [before.get(f"layers.{index}.attention.{name}") for name in ("q", "k", "v")]
        assert torch.equal(layer.qkv, torch.cat([each for each in heads if each is not None]))
        scalars = [float(before[f"layers.{index}.{kind}_scalar"]) for kind in ("encoder", "decoder")]
        assert layer.scalars.tolist() == scalars
        assert (layer.scalars.dtype, scalars[0] == scalars[1]) == (torch.float32, False)
    soft = [before[f"self_conditioning.mlp.{name}"] for name in ("gate", "up")]
    assert torch.equal(weights.soft_gate_up, torch.cat(soft))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_no_weight_is_in_memory_twice() -> None:
    model = prepared()
    weights = step_weights(model)
    spans = [(one.data_ptr(), one.data_ptr() + one.nbytes) for one in (weights.soft_gate_up, weights.layers[0].gate_up)]
    mlps = [model.self_conditioning.mlp, model.layers[0].mlp]
    for (first, end), mlp in zip(spans, mlps, strict=True):
        assert mlp.gate.data_ptr() == first
        assert mlp.up.data_ptr() + mlp.up.nbytes == end
    assert weights.layers[0].experts_gate_up.data_ptr() == model.layers[0].experts.gate_up.data_ptr()
    assert weights.embedding.data_ptr() == model.embedding.data_ptr()


def test_two_engines_over_one_model_share_its_matrices() -> None:
    model = prepared()
    first = step_weights(model)
    second = step_weights(model.prepare())
    for one, other in zip(first.layers, second.layers, strict=True):
        assert (one.qkv.data_ptr(), one.gate_up.data_ptr()) == (other.qkv.data_ptr(), other.gate_up.data_ptr())
    assert first.soft_gate_up.data_ptr() == second.soft_gate_up.data_ptr()


def test_a_model_whose_weights_were_replaced_is_joined_anew() -> None:
    model = prepared()
    before = step_weights(model).layers[0].gate_up
    model.layers[0].mlp.up.data = torch.zeros_like(model.layers[0].mlp.up)
    after = step_weights(model).layers[0].gate_up
    assert after.data_ptr() != before.data_ptr()
    assert not after[len(after) // 2 :].any() and after[: len(after) // 2].any()


def test_the_scale_of_embeddings_is_rounded_as_the_weights_are() -> None:
    assert step_weights(tiny.tiny_model().to(torch.bfloat16).prepare()).embed_scale == 5.65625  # sqrt(32) in bfloat16
