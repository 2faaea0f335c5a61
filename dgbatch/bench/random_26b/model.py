"""The model that is measured: the sizes of DiffusionGemma 26B-A4B, or tiny ones, with random weights.

Random weights are honest for milliseconds per step: routing is near uniform, as 256 real tokens reach nearly every
expert too, and no operation's work depends on a value. They say nothing about steps per canvas or quality.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dgbatch.engine.device_step.weights import step_weights
from dgbatch.engine.model.config import LayerConfig, ModelConfig
from dgbatch.engine.model.transformer import Transformer

NAME, SEED = "random-26b", 26
SLIDING = LayerConfig(sliding=True, kv_heads=8, head_dim=256, rope_theta=1e4, rotated_pairs=128)
FULL = LayerConfig(sliding=False, kv_heads=2, head_dim=512, rope_theta=1e6, rotated_pairs=64)
REAL = ModelConfig(
    vocab_size=262_144,
    hidden=2816,
    heads=16,
    layers=(*[SLIDING] * 5, FULL) * 5,
    sliding_window=1024,
    intermediate=2112,
    experts=128,
    chosen_experts=8,
    moe_intermediate=704,
    canvas_length=256,
    max_positions=262_144,
)
TINY = ModelConfig(
    vocab_size=320,
    hidden=64,
    heads=4,
    layers=(
        LayerConfig(sliding=True, kv_heads=2, head_dim=16, rope_theta=1e4, rotated_pairs=8),
        LayerConfig(sliding=True, kv_heads=2, head_dim=16, rope_theta=1e4, rotated_pairs=8),
        LayerConfig(sliding=False, kv_heads=1, head_dim=32, rope_theta=1e6, rotated_pairs=4),
    ),
    sliding_window=24,
    intermediate=48,
    experts=8,
    chosen_experts=2,
    moe_intermediate=16,
    canvas_length=16,
    max_positions=4096,
)


@torch.no_grad()
def random_model(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> Transformer:
    """Made on the device, in its dtype: 50.5 GB of bfloat16 for the real sizes."""
    with torch.device("meta"):
        model = Transformer(config)
    model = model.to(dtype).to_empty(device=device)
    model.reset_parameters(torch.Generator(device).manual_seed(SEED))
    model.eval().requires_grad_(False).prepare()
    step_weights(model)  # matrices that our step wants joined are joined now: everybody holds parts of the same ones
    return model


def prefix_of(config: ModelConfig, layer: int, sequence: int, tokens: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Made-up keys and values of a prefix, (tokens, kv_heads, head_dim) each, the same for every engine.

    Of unit size, as norms leave them. Of a sliding layer only those that a canvas can see; the others are zero.
    """
    own = config.layers[layer]
    seen = min(tokens, config.sliding_window - 1) if own.sliding else tokens
    generator = torch.Generator(like.device).manual_seed(SEED + 1000 * sequence + layer)
    made = torch.zeros(2, tokens, own.kv_heads, own.head_dim, device=like.device, dtype=like.dtype)
    made[:, tokens - seen :].normal_(generator=generator)
    keys, values = made
    return keys, values
