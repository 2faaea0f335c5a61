"""What a step reads of a model: its own tensors, each matrix as the products want it. No weight is kept twice."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dgbatch.engine.model.config import LayerConfig
from dgbatch.engine.model.transformer import Layer, Transformer


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """Axis words: H hidden, D head_dim, I intermediate, E experts, i their width."""

    kind: LayerConfig
    before_attention: Tensor  # (H,), like all norms
    qkv: Tensor  # ((heads + kv_heads [+ kv_heads]) * D, H); full layers have no part for V
    q_norm: Tensor  # (D,)
    k_norm: Tensor  # (D,)
    o: Tensor  # (H, heads * D)
    after_attention: Tensor
    before_mlp: Tensor
    gate_up: Tensor  # (2 I, H)
    down: Tensor  # (H, I)
    after_mlp: Tensor
    router: Tensor  # (E, H)
    router_scale: Tensor  # (H,)
    expert_scale: Tensor  # (E,)
    before_experts: Tensor
    experts_gate_up: Tensor  # (E, 2 i, H)
    experts_down: Tensor  # (E, H, i)
    after_experts: Tensor
    after_both: Tensor
    scalars: Tensor  # (2,) float32: of clean text, of canvases


@dataclass(frozen=True, slots=True)
class StepWeights:
    embedding: Tensor  # (V, H), also the head
    embed_scale: float
    soft_norm: Tensor  # (H,) of the self-conditioning MLP, like its matrices
    soft_gate_up: Tensor
    soft_down: Tensor
    layers: list[LayerWeights]
    final_norm: Tensor
    frequencies: dict[LayerConfig, Tensor]  # of RoPE, (D / 2,) float32


def step_weights(model: Transformer) -> StepWeights:
    """model: prepared. The same tensors again the second time, so that several engines may share a model."""
    device, conditioning = model.embedding.device, model.self_conditioning
    return StepWeights(
        embedding=model.embedding.detach(),
        embed_scale=float(model.embed_scale),
        soft_norm=conditioning.norm.detach(),
        soft_gate_up=conditioning.mlp.joined(),
        soft_down=conditioning.mlp.down.detach(),
        layers=[_layer(layer) for layer in model.layers if isinstance(layer, Layer)],
        final_norm=model.final_norm.detach(),
        frequencies={kind: own.to(device) for kind, own in model.rope.frequencies.items()},
    )


def _layer(layer: Layer) -> LayerWeights:
    attention, router, experts = layer.attention, layer.router, layer.experts
    return LayerWeights(
        kind=attention.layer,
        before_attention=layer.before_attention.detach(),
        qkv=attention.qkv,
        q_norm=attention.q_norm.detach(),
        k_norm=attention.k_norm.detach(),
        o=attention.o.detach(),
        after_attention=layer.after_attention.detach(),
        before_mlp=layer.before_mlp.detach(),
        gate_up=layer.mlp.joined(),
        down=layer.mlp.down.detach(),
        after_mlp=layer.after_mlp.detach(),
        router=router.proj.detach(),
        router_scale=router.scale.detach(),
        expert_scale=router.per_expert_scale.detach(),
        before_experts=layer.before_experts.detach(),
        experts_gate_up=experts.gate_up.detach(),
        experts_down=experts.down.detach(),
        after_experts=layer.after_experts.detach(),
        after_both=layer.after_both.detach(),
        scalars=torch.cat([layer.encoder_scalar, layer.decoder_scalar]).float(),
    )
