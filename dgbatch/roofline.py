"""The physics: bytes, operations, limits of known devices, and the fastest step they allow. Pure arithmetic, no torch.

A pass is a handful of operations. Each takes as long as its slower half: moving its bytes or doing its sums. Their
total is a floor: no launch gaps, no padding, no activations, no norms, no sampling. Left out because small: the
router, norm weights, the vision tower. Causal passes are charged every key, also those behind the mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dgbatch.engine.model.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Layer:
    """What attention of one layer is made of; a full layer takes its values from the keys' projection."""

    sliding: bool
    kv_heads: int
    head_dim: int


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model that decide its speed."""

    hidden: int
    vocab: int
    heads: int
    layers: tuple[Layer, ...]
    window: int
    dense_width: int  # of the MLP beside the experts, and of the self-conditioning MLP
    experts: int
    chosen: int
    expert_width: int
    canvas: int

    @classmethod
    def of(cls, config: ModelConfig) -> Shape:
        return cls(
            hidden=config.hidden,
            vocab=config.vocab_size,
            heads=config.heads,
            layers=tuple(Layer(one.sliding, one.kv_heads, one.head_dim) for one in config.layers),
            window=config.sliding_window,
            dense_width=config.intermediate,
            experts=config.experts,
            chosen=config.chosen_experts,
            expert_width=config.moe_intermediate,
            canvas=config.canvas_length,
        )

    @property
    def expert_weights(self) -> int:
        """Of all experts in all layers: gate, up and down of each."""
        return len(self.layers) * self.experts * 3 * self.hidden * self.expert_width

    @property
    def dense_weights(self) -> int:
        return len(self.layers) * self.conditioning_weights

    @property
    def conditioning_weights(self) -> int:
        return 3 * self.hidden * self.dense_width

    @property
    def projection_weights(self) -> int:
        """In and out of attention: queries and output, keys, and values where they are not the keys."""
        return sum(
            self.hidden * one.head_dim * (2 * self.heads + (2 if one.sliding else 1) * one.kv_heads)
            for one in self.layers
        )

    @property
    def embedding_weights(self) -> int:
        return self.vocab * self.hidden

    @property
    def weights(self) -> int:
        """All that is counted here."""
        parts = (self.expert_weights, self.dense_weights, self.conditioning_weights, self.projection_weights)
        return sum(parts) + self.embedding_weights

    def expert_coverage(self, tokens: float) -> float:
        """The share of experts that at least one of so many tokens chooses, when each is as likely as the other."""
        return 1 - (1 - self.chosen / self.experts) ** tokens


@dataclass(frozen=True, slots=True)
class Format:
    """How weights are stored. The head, self-conditioning and attention stay in `wide`."""

    weight_bytes: float
    wide: str = "bf16"
    wide_bytes: int = 2


@dataclass(frozen=True, slots=True)
class Device:
    """What a good kernel gets of it, not its data sheet."""

    name: str
    bytes_per_s: float
    flops_per_s: Mapping[str, float]  # by format


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one operation of a pass."""

    bytes: float
    flops: float
    seconds: float


FORMATS = {
    "bf16": Format(2.0),
    "fp8": Format(1.0),
    "4-bit": Format(0.5625),  # with one byte of scale for 16 weights
    "float32": Format(4.0, "float32", 4),
}
GPU_FORMATS = ("bf16", "fp8", "4-bit")
# Hopper multiplies 4-bit weights in bf16. H200: bandwidth and bf16 measured, the rest estimated.
DEVICES = (
    Device("H200", 4.30e12, {"bf16": 790e12, "fp8": 1580e12, "4-bit": 790e12}),
    Device("H100", 3.00e12, {"bf16": 700e12, "fp8": 1400e12, "4-bit": 700e12}),
    Device("PRO 6000", 1.60e12, {"bf16": 400e12, "fp8": 800e12, "4-bit": 1600e12}),
)
DIFFUSIONGEMMA_26B = Shape(
    hidden=2816,
    vocab=262_144,
    heads=16,
    layers=((*[Layer(True, 8, 256)] * 5, Layer(False, 2, 512)) * 5),
    window=1024,
    dense_width=2112,
    experts=128,
    chosen=8,
    expert_width=704,
    canvas=256,
)


def known(name: str, form: str) -> Device | None:
    """The device that calls itself by this name, such as NVIDIA H200, where its limits in this format are known."""
    return next((one for one in DEVICES if one.name in name and form in one.flops_per_s), None)


def denoise(shape: Shape, device: Device, form: str, canvases: float, prefix: float) -> dict[str, Cost]:
    """One denoising step of canvases that each see `prefix` tokens and themselves, with self-conditioning.

    Fractions are means over many steps.
    """
    tokens = canvases * shape.canvas
    body = _body(shape, device, form, tokens, canvases, prefix, shape.canvas)
    wide = FORMATS[form].wide_bytes
    logits = shape.embedding_weights * wide + tokens * shape.vocab * wide, 2 * tokens * shape.embedding_weights
    mlp = shape.conditioning_weights * wide, 2 * tokens * shape.conditioning_weights
    return body | {
        "head": _wide(device, form, *logits),
        "soft embeddings": _wide(device, form, *logits),
        "self-conditioning MLP": _wide(device, form, *mlp),
    }


def commit(shape: Shape, device: Device, form: str, canvases: int, prefix: int) -> dict[str, Cost]:
    """Settled canvases on their way into the KV cache."""
    return _body(shape, device, form, canvases * shape.canvas, canvases, prefix, shape.canvas)


def next_tokens(shape: Shape, device: Device, form: str, sequences: int, prefix: int) -> dict[str, Cost]:
    """The same weights used autoregressively: one token of each sequence."""
    wide = FORMATS[form].wide_bytes
    logits = shape.embedding_weights * wide + sequences * shape.vocab * wide, 2 * sequences * shape.embedding_weights
    return _body(shape, device, form, sequences, sequences, prefix, 0) | {"head": _wide(device, form, *logits)}


def seconds(costs: Mapping[str, Cost]) -> float:
    """One operation after the other."""
    return sum(cost.seconds for cost in costs.values())


def seconds_overlapped(device: Device, costs: Mapping[str, Cost], form: str) -> float:
    """If all memory traffic hid behind all arithmetic, or the other way round; a bound nobody reaches."""
    rates = device.flops_per_s
    wide = ("attention", "head", "soft embeddings", "self-conditioning MLP")
    sums = sum(one.flops / rates[FORMATS[form].wide if name in wide else form] for name, one in costs.items())
    return max(sum(one.bytes for one in costs.values()) / device.bytes_per_s, sums)


def diffusion_tokens_per_s(shape: Shape, device: Device, form: str, canvases: int, prefix: int, steps: int) -> float:
    """Whole canvases at so many steps and one commit each."""
    step = seconds(denoise(shape, device, form, canvases, prefix))
    return shape.canvas * canvases / (steps * step + seconds(commit(shape, device, form, canvases, prefix)))


def autoregressive_tokens_per_s(shape: Shape, device: Device, form: str, sequences: int, prefix: int) -> float:
    return sequences / seconds(next_tokens(shape, device, form, sequences, prefix))


def autoregressive_wins_from(
    shape: Shape, device: Device, form: str, prefix: int, steps: int, numbers: Iterable[int] = range(1, 1025)
) -> int | None:
    """The fewest sequences at which one token a pass gives more than as many canvases; None where it never does."""
    for number in numbers:
        ours = diffusion_tokens_per_s(shape, device, form, number, prefix, steps)
        if autoregressive_tokens_per_s(shape, device, form, number, prefix) > ours:
            return number
    return None


def _body(
    shape: Shape, device: Device, form: str, tokens: float, sequences: float, prefix: float, own: int
) -> dict[str, Cost]:
    """The layers. Each sequence reads its prefix and its `own` new keys."""
    stored = FORMATS[form].weight_bytes
    costs = {
        "experts": (
            shape.expert_coverage(tokens) * shape.expert_weights * stored,
            2 * tokens * shape.expert_weights * shape.chosen / shape.experts,
        ),
        "attention projections": (shape.projection_weights * stored, 2 * tokens * shape.projection_weights),
        "dense MLP": (shape.dense_weights * stored, 2 * tokens * shape.dense_weights),
    }
    keys = [(one, own + (min(prefix, shape.window) if one.sliding else prefix)) for one in shape.layers]
    wide = FORMATS[form].wide_bytes
    read = sequences * 2 * wide * sum(one.kv_heads * one.head_dim * seen for one, seen in keys)
    looked = 4 * tokens * shape.heads * sum(one.head_dim * seen for one, seen in keys)
    body = {name: _cost(device, device.flops_per_s[form], *cost) for name, cost in costs.items()}
    return body | {"attention": _wide(device, form, read, looked)}


def _wide(device: Device, form: str, moved: float, flops: float) -> Cost:
    return _cost(device, device.flops_per_s[FORMATS[form].wide], moved, flops)


def _cost(device: Device, rate: float, moved: float, flops: float) -> Cost:
    return Cost(moved, flops, max(moved / device.bytes_per_s, flops / rate))
