"""The operations of a denoising step. Callers use these names; the tensor's device decides what runs."""

from dgbatch.engine.kernels.reference.plain import (
    GROUP_ROWS,
    add_rms_norm,
    attention,
    experts,
    gated_mlp,
    gelu_gate,
    group_heads,
    grouped_attention,
    rms_norm,
    rope,
    rope_angles,
    rope_frequencies,
    route,
    soft_embeddings,
    softcap,
    ungroup_heads,
)

__all__ = [
    "GROUP_ROWS",
    "add_rms_norm",
    "attention",
    "experts",
    "gated_mlp",
    "gelu_gate",
    "group_heads",
    "grouped_attention",
    "rms_norm",
    "rope",
    "rope_angles",
    "rope_frequencies",
    "route",
    "soft_embeddings",
    "softcap",
    "ungroup_heads",
]
