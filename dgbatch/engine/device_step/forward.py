"""One denoising step read top to bottom: tokens in, layers, beliefs, decisions.

It allocates, launches and reads nothing back, so it can be captured whole.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dgbatch.engine.device_step.state import State
from dgbatch.engine.device_step.weights import LayerWeights, StepWeights
from dgbatch.engine.kernels import operations as op
from dgbatch.engine.kernels.tables import Tiles
from dgbatch.engine.model.config import LayerConfig, ModelConfig

Angles = dict[LayerConfig, tuple[Tensor, Tensor]]


class Step:
    """What `count` tiles of work are, whatever they hold."""

    def __init__(self, config: ModelConfig, weights: StepWeights, state: State, fold: bool):
        self.config, self.weights, self.state, self.fold = config, weights, state, fold
        self._beside = Beside(state.arena.device)

    def __call__(self, count: int) -> None:
        config, weights, slots = self.config, self.weights, self.state.slots
        tiles = self.state.tiles(count)
        op.plan_tiles(slots, tiles, config.canvas_length, self.fold)
        x, h, angles = self._embed(tiles)
        following = [layer.before_attention for layer in weights.layers[1:]] + [weights.final_norm]
        for layer, pool, next_norm in zip(weights.layers, self.state.pools, following, strict=True):
            # of clean text the last layer is there for its keys and values alone
            span = tiles.canvases if layer is weights.layers[-1] else tiles.everyone
            attended = self._attend(layer, h, angles, tiles, pool, span)
            x, h = self._mlps(layer, x, attended, tiles, next_norm, span)
        canvases = min(count, len(slots.numbers))
        e, totals, moments, maxima, argmaxima = op.head(h, weights.embedding, slots, tiles, config.softcap, canvases)
        entropy, argmax, drawn, fresh, factors = op.decide(e, totals, moments, maxima, argmaxima, slots, tiles)
        op.soft_rows(e, factors, weights.embedding, weights.embed_scale, slots, tiles)
        op.advance(slots, tiles, entropy, argmax, drawn, fresh)

    def _embed(self, tiles: Tiles) -> tuple[Tensor, Tensor, Angles]:
        """The rows as the first layer takes them, its first norm of them, and by kind cos and sin, (M, D / 2)."""
        weights, slots, eps = self.weights, self.state.slots, self.config.norm_eps
        embedded, conditioned, positions = op.embed_rows(
            slots, tiles, weights.embedding, weights.embed_scale, weights.soft_norm, eps
        )
        inner = op.gated(conditioned, weights.soft_gate_up, tiles.canvases)
        branch = op.linear(inner, weights.soft_down, tiles.canvases)
        x, h = op.condition(embedded, branch, tiles, weights.layers[0].before_attention, eps)
        angles = {}
        for kind, frequencies in weights.frequencies.items():
            angle = (
                positions.float().unsqueeze(1) * frequencies
            )  # as kernels.rope_angles, of which both halves are alike
            angles[kind] = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        return x, h, angles

    def _attend(
        self, layer: LayerWeights, h: Tensor, angles: Angles, tiles: Tiles, pool: Tensor, span: Tensor
    ) -> Tensor:
        config, slots, sliding = self.config, self.state.slots, layer.kind.sliding
        qkv = op.linear(h, layer.qkv, tiles.everyone)
        q = op.place_heads(
            qkv, *angles[layer.kind], layer.q_norm, layer.k_norm, slots, tiles, pool, sliding, config.heads,
            config.norm_eps,
        )  # fmt: skip
        seen = op.attend(q, slots, tiles, pool, sliding, config.sliding_window, span)
        return op.linear(seen, layer.o, span)

    def _mlps(
        self, layer: LayerWeights, x: Tensor, attended: Tensor, tiles: Tiles, next_norm: Tensor, span: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The dense MLP, beside the experts of each row."""
        eps, chosen = self.config.norm_eps, self.config.chosen_experts
        x, dense_in, experts_in, unit = op.residual_norms(
            x, attended, layer.after_attention, layer.before_mlp, layer.before_experts, eps, span
        )
        dense = self._beside.run(lambda: op.linear(op.gated(dense_in, layer.gate_up, span), layer.down, span))
        weights, index = op.choose_experts(unit, layer.router, layer.router_scale, layer.expert_scale, chosen, span)
        counts, places = op.group_rows(index, self.config.experts, span)
        inner = op.experts_up(experts_in, layer.experts_gate_up, counts, places, chosen)
        outer = op.experts_down(inner, layer.experts_down, counts, places)
        self._beside.join()
        return op.combine(
            x, dense, outer, weights, layer.after_mlp, layer.after_experts, layer.after_both, layer.scalars, tiles,
            next_norm, eps, span,
        )  # fmt: skip


class Beside:
    """A second stream for work that need not wait for its neighbours; on a CPU there is none, and it is done at once.

    Memory needs no record_stream: what the work reads is held by the caller until `join`, and what it returns was
    allocated on the second stream, which gets its next work only behind a later `run`, when the first one is done
    with it.
    """

    def __init__(self, device: torch.device):
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def run(self, work: Callable[[], Tensor]) -> Tensor:
        if self._stream is None:
            return work()
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            return work()

    def join(self) -> None:
        if self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
