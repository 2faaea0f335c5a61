"""The gate of a gated MLP inside kernels; plain.gelu_gate is the same in PyTorch."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def gate_with_gelu(gate, up, dtype: tl.constexpr):
    """gelu_tanh(gate) * up of two float32 tiles, rounded to `dtype` wherever the model of torch operations rounds.

    gelu_tanh(x) = x / (1 + exp(-2c (x + 0.044715 x^3))), c = sqrt(2 / pi): no tanh is needed, and far from zero the
    exponential is 0 or infinite, which gives x and 0.
    """
    gate = gate.to(dtype).to(tl.float32)
    up = up.to(dtype).to(tl.float32)
    slope: tl.constexpr = 1.5957691216057308  # 2 sqrt(2 / pi)
    gate = gate / (1.0 + tl.exp(-slope * (gate + 0.044715 * gate * gate * gate)))
    return (gate.to(dtype).to(tl.float32) * up).to(dtype)
