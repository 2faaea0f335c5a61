"""The whole text model, read top to bottom: embed, layers, logits. It knows no cache, no batch and no sampler."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgbatch.engine import kernels
from dgbatch.engine.model.attention import Attend, Attention
from dgbatch.engine.model.config import ModelConfig
from dgbatch.engine.model.layers import GatedMLP, Rope, SelfConditioning, weight
from dgbatch.engine.model.moe import Experts, Router


class Layer(nn.Module):
    """Attention, then a dense MLP beside the experts, each between two norms; a scalar per mode at the end."""

    encoder_scalar: Tensor
    decoder_scalar: Tensor

    def __init__(self, config: ModelConfig, index: int):
        super().__init__()
        hidden, self.eps = config.hidden, config.norm_eps
        self.before_attention = weight(hidden)
        self.attention = Attention(config, config.layers[index], index)
        self.after_attention = weight(hidden)
        self.before_mlp = weight(hidden)
        self.mlp = GatedMLP(hidden, config.intermediate)
        self.after_mlp = weight(hidden)
        self.router = Router(config)
        self.before_experts = weight(hidden)
        self.experts = Experts(config)
        self.after_experts = weight(hidden)
        self.after_both = weight(hidden)
        self.unscaled = False
        self.register_buffer("encoder_scalar", torch.ones(1))
        self.register_buffer("decoder_scalar", torch.ones(1))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, causal: Tensor, attend: Attend, context: int = 0) -> Tensor:
        """x: (..., hidden); cos, sin: (..., head_dim); causal: (...) bool, rows in encoder mode; returns like x.

        context: of the first so many rows nothing is wanted but keys and values; they are not returned
        """
        norm = kernels.rms_norm
        attended = self.attention(norm(x, self.before_attention, self.eps), cos, sin, attend, context)
        x, causal = x[context:], causal[context:]
        if not x.numel():
            return x
        x = kernels.add_rms_norm(x, attended, self.after_attention, self.eps)
        unit = norm(x.float(), None, self.eps)
        dense = norm(self.mlp((unit * self.before_mlp).to(x.dtype)), self.after_mlp, self.eps)
        routed = self.router(unit.to(x.dtype).flatten(0, -2))
        chosen = self.experts((unit * self.before_experts).to(x.dtype).flatten(0, -2), *routed)
        mixed = kernels.add_rms_norm(dense, chosen.view_as(x), self.after_experts, self.eps)
        x = kernels.add_rms_norm(x, mixed, self.after_both, self.eps)
        if self.unscaled:
            return x
        return x * torch.where(causal.unsqueeze(-1), self.encoder_scalar, self.decoder_scalar)

    def prepare(self) -> None:
        """For inference, once the weights are there."""
        self.attention.prepare()
        self.unscaled = bool(self.encoder_scalar == 1 and self.decoder_scalar == 1)


class Transformer(nn.Module):
    """One DiffusionGemma text model. Rows in encoder mode and canvas rows may share a pass."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embedding = weight(config.vocab_size, config.hidden)  # also the head
        self.self_conditioning = SelfConditioning(config.hidden, config.intermediate, config.norm_eps)
        self.layers = nn.ModuleList([Layer(config, index) for index in range(len(config.layers))])
        self.final_norm = weight(config.hidden)
        self.rope = Rope(config.layers)

    def prepare(self) -> Transformer:
        """For inference, once the weights are there; returns itself."""
        for layer in self.layers:
            assert isinstance(layer, Layer)
            layer.prepare()
        return self

    @property
    def embed_scale(self) -> Tensor:
        """sqrt(hidden), rounded to the weights' dtype as the reference does: 53.0 in bfloat16 for the 26B model."""
        return torch.tensor(self.config.hidden**0.5, dtype=self.embedding.dtype, device=self.embedding.device)

    def embed_context(self, ids: Tensor) -> Tensor:
        """Clean tokens, for rows in encoder mode. ids: (...) int64; returns (..., hidden)."""
        return F.embedding(ids, self.embedding) * self.embed_scale

    def embed_canvas(self, ids: Tensor, soft: Tensor | None) -> Tensor:
        """Canvas tokens with what the last step believed. ids: (...) int64; soft: (..., hidden) or None."""
        return self.self_conditioning(self.embed_context(ids), soft)

    def run_layers(
        self,
        x: Tensor,
        positions: Tensor,
        causal: Tensor,
        attend: Attend,
        context: int = 0,
        only: Sequence[int] | None = None,
    ) -> Tensor:
        """x: (..., hidden); positions: (...) int64; causal: (...) bool; returns like x, not yet normed.

        context: the first so many rows are there for their keys and values: the last layer computes nothing else of
        them, and they are not returned
        only: indices of the layers to run, for a rehearsal; None for all
        """
        angles = self.rope(positions)
        for index in range(len(self.layers)) if only is None else only:
            cos, sin = angles[self.config.layers[index]]
            leave = context if index == len(self.layers) - 1 else 0
            x = self.layers[index](x, cos.to(x.dtype), sin.to(x.dtype), causal, attend, leave)
        return x

    def logits(self, x: Tensor) -> Tensor:
        """x: (..., hidden) after the layers; returns (..., vocab) float32, softcapped, before any temperature."""
        normed = kernels.rms_norm(x, self.final_norm, self.config.norm_eps)
        return kernels.softcap(F.linear(normed, self.embedding), self.config.softcap)

    def soft_embeddings(self, p: Tensor) -> Tensor:
        """p: (..., vocab) float32, what a step believes; returns (..., hidden): the next step's `soft`."""
        return kernels.soft_embeddings(p, self.embedding) * self.embed_scale

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Random weights for training and tests: matrices scaled by their inputs, norms and scales at one."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0)
            else:
                std = 0.02 if name == "embedding" else parameter.shape[-1] ** -0.5
                parameter.normal_(0.0, std, generator=generator)
        for buffer in self.buffers():  # the layer scalars
            buffer.fill_(1.0)
