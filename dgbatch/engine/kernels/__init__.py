"""The operations of a denoising step. Callers use these names; the tensor's device decides what runs."""

from dgbatch.engine.kernels.reference import (
    DENSE_EXPERTS,
    attention,
    experts,
    gated_mlp,
    rms_norm,
    rope,
    rope_angles,
    route,
    soft_embeddings,
    softcap,
)

__all__ = [
    "DENSE_EXPERTS",
    "attention",
    "experts",
    "gated_mlp",
    "rms_norm",
    "rope",
    "rope_angles",
    "route",
    "soft_embeddings",
    "softcap",
]
