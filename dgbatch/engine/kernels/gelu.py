"""The gate of a gated MLP inside kernels; plain.gelu_gate is the same in PyTorch."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def gate_with_gelu(gate, up, dtype: tl.constexpr):
    """gelu_tanh(gate) * up of two float32 tiles, rounded to `dtype` wherever the model of torch operations rounds.

    gelu_tanh(x) = x sigmoid(z), z = 2c (x + 0.044715 x^3), c = sqrt(2 / pi); of the two ways to write the sigmoid each
    takes the one whose exponential cannot overflow.
    """
    gate = gate.to(dtype).to(tl.float32)
    up = up.to(dtype).to(tl.float32)
    z = 1.5957691216057308 * (gate + 0.044715 * gate * gate * gate)  # 2c
    small = tl.exp(-tl.abs(z))
    gate = gate * tl.where(z > 0, 1.0, small) / (1.0 + small)
    return (gate.to(dtype).to(tl.float32) * up).to(dtype)
