"""transformers' DiffusionGemma with random weights, for tests that hold ours against it. Needs no hypothesis."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import transformers


@dataclass(frozen=True)
class Case:
    kinds: tuple[str, ...]
    sliding: tuple[int, int]  # kv heads, head size
    full: tuple[int, int]
    heads: int
    hidden: int
    experts: int
    chosen: int
    window: int
    prompt: int
    canvas: int
    vocab: int
    rotated: float
    attention: str
    seed: int


WINDOWED = Case(
    kinds=("sliding_attention", "sliding_attention", "full_attention", "sliding_attention", "full_attention"),
    sliding=(2, 8), full=(1, 16), heads=4, hidden=32, experts=8, chosen=2, window=5, prompt=17, canvas=8,
    vocab=40, rotated=0.25, attention="eager", seed=1,
)  # fmt: skip
GATHERED = Case(
    kinds=("full_attention", "sliding_attention", "full_attention"),
    sliding=(1, 4), full=(2, 24), heads=4, hidden=24, experts=9, chosen=3, window=3, prompt=9, canvas=5,
    vocab=29, rotated=0.5, attention="sdpa", seed=2,
)  # fmt: skip


def their_model(case: Case) -> transformers.DiffusionGemmaForBlockDiffusion:
    """Random weights everywhere, norms and scalars included; the two modes have different layer scalars."""
    text = transformers.DiffusionGemmaTextConfig(
        vocab_size=case.vocab,
        hidden_size=case.hidden,
        intermediate_size=20,
        num_hidden_layers=len(case.kinds),
        layer_types=list(case.kinds),
        num_attention_heads=case.heads,
        num_key_value_heads=case.sliding[0],
        head_dim=case.sliding[1],
        num_global_key_value_heads=case.full[0],
        global_head_dim=case.full[1],
        num_experts=case.experts,
        top_k_experts=case.chosen,
        moe_intermediate_size=12,
        sliding_window=case.window,
        max_position_embeddings=128,
        use_bidirectional_attention="vision",
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": {"rope_type": "proportional", "partial_rotary_factor": case.rotated, "rope_theta": 1e6},
        },
    )
    vision = {
        "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
        "num_key_value_heads": 1, "head_dim": 8, "global_head_dim": 8, "patch_size": 4, "position_embedding_size": 8,
        "default_output_length": 4, "pooling_kernel_size": 2,
    }  # fmt: skip
    config = transformers.DiffusionGemmaConfig(
        text_config=text, vision_config=vision, canvas_length=case.canvas,
        image_token_id=case.vocab - 1, boi_token_id=case.vocab - 2, eoi_token_id=case.vocab - 3,
    )  # fmt: skip
    config._attn_implementation = case.attention
    model = transformers.DiffusionGemmaForBlockDiffusion(config).eval().float()
    generator = torch.Generator().manual_seed(case.seed)
    decoder = model.model.decoder
    scalars = [layer.layer_scalar for layer in (*decoder.layers, *model.model.encoder.language_model.layers)]
    with torch.no_grad():
        for parameter in decoder.parameters():
            spread = 0.2 if parameter.dim() == 1 else 0.3 if parameter is decoder.embed_tokens.weight else None
            parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, spread or parameter.shape[-1] ** -0.5,
                              generator=generator)  # fmt: skip
        for scalar in scalars:
            scalar.uniform_(0.7, 1.2, generator=generator)
    return model
