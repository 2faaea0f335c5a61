"""Every operation of the model in plain PyTorch: what runs without a GPU, and what kernels are held against.

Axis words: `rows` is any flattened set of positions; leading axes may be more than one where "..." stands.
Formulas follow DiffusionGemma as implemented in transformers 5.23 (models/diffusion_gemma).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Below this many experts it is cheaper to run every row through all of them in two plain GEMMs
# than to gather rows per expert (docs/lab_log.md).
DENSE_EXPERTS = 8


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """y = x / sqrt(mean(x^2) + eps) * w, in float32; the weight multiplies as w, not 1 + w.

    x: (..., hidden) any float dtype; weight: (hidden,) or None for no scale; returns like x.
    """
    wide = x.float()
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    if weight is not None:
        normed = normed * weight.float()
    return normed.to(x.dtype)


def rope_angles(positions: Tensor, head_dim: int, theta: float, rotated_pairs: int) -> tuple[Tensor, Tensor]:
    """cos and sin of position * theta^(-2i/head_dim); pairs past `rotated_pairs` do not rotate.

    positions: (...) int; returns two (..., head_dim) float32, both halves alike (pairs are i, i + head_dim/2).
    The exponent runs over the whole head_dim also where only some pairs rotate ("proportional" RoPE).
    """
    pair = torch.arange(head_dim // 2, device=positions.device, dtype=torch.float32)
    frequency = torch.where(pair < rotated_pairs, theta ** (-2.0 * pair / head_dim), torch.zeros_like(pair))
    angle = positions.float().unsqueeze(-1) * frequency
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos(), angle.sin()


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x * cos + rotate_half(x) * sin.

    x: (..., heads, head_dim); cos, sin: (..., head_dim) in x's dtype; returns like x.
    """
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return x * cos.unsqueeze(-2) + turned * sin.unsqueeze(-2)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T) v with scale 1: q and k are normed instead. Query heads share KV heads in groups.

    q: (..., rows, heads, head_dim); k, v: (..., keys, kv_heads, head_dim); mask: (..., rows, keys) bool, True
    where a row may look, or None for everywhere; returns like q.
    """
    # Heads of a group become rows of their KV head, and there are four axes: what torch's fast CPU kernel asks for.
    rows, kv_heads = q.shape[-3], k.shape[-2]
    grouped = q.unflatten(-2, (kv_heads, -1)).movedim(-4, -2)  # (..., kv_heads, groups, rows, head_dim)
    groups = grouped.shape[-3]
    flat = grouped.reshape(-1, kv_heads, groups * rows, q.shape[-1])
    if mask is not None:
        mask = mask.repeat(*[1] * (mask.dim() - 2), groups, 1).reshape(-1, 1, groups * rows, mask.shape[-1])
    out = F.scaled_dot_product_attention(
        flat,
        k.transpose(-3, -2).reshape(-1, kv_heads, *k.shape[-3::2]),
        v.transpose(-3, -2).reshape(-1, kv_heads, *v.shape[-3::2]),
        attn_mask=mask,
        scale=1.0,
    )
    return out.view_as(grouped).movedim(-2, -4).flatten(-3, -2)


def gated_mlp(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """down(gelu_tanh(gate x) * (up x)).

    x: (..., hidden); gate, up: (intermediate, hidden); down: (hidden, intermediate); returns like x.
    """
    return F.linear(F.gelu(F.linear(x, gate), approximate="tanh") * F.linear(x, up), down)


def route(
    x: Tensor, proj: Tensor, scale: Tensor, per_expert_scale: Tensor, chosen: int, eps: float
) -> tuple[Tensor, Tensor]:
    """Which experts a row goes to and how much each counts. x is the raw residual, not a normed copy.

    x: (rows, hidden); proj: (experts, hidden); scale: (hidden,); per_expert_scale: (experts,)
    returns: (rows, chosen) float32 weights, (rows, chosen) int64 experts, the likeliest first
    """
    scores = F.linear(rms_norm(x, None, eps) * scale * x.shape[-1] ** -0.5, proj)
    top, index = scores.float().softmax(-1).topk(chosen, dim=-1)
    top = top / top.sum(-1, keepdim=True)
    return top * per_expert_scale[index].float(), index


def experts(x: Tensor, weights: Tensor, index: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """sum over a row's chosen experts of weight * down(gelu_tanh(gate x) * (up x)), in slot order.

    x: (rows, hidden); weights: (rows, chosen) float32; index: (rows, chosen) int64
    gate_up: (experts, 2 * intermediate, hidden), gate rows first; down: (experts, hidden, intermediate)
    """
    if gate_up.shape[0] <= DENSE_EXPERTS:
        return _experts_dense(x, weights, index, gate_up, down)
    return _experts_gathered(x, weights, index, gate_up, down)


def _experts_dense(x: Tensor, weights: Tensor, index: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    count, double, hidden = gate_up.shape
    share = torch.zeros(x.shape[0], count, dtype=weights.dtype, device=x.device).scatter(1, index, weights)
    gate, up = F.linear(x, gate_up.reshape(count * double, hidden)).view(-1, count, double).chunk(2, dim=-1)
    inner = F.gelu(gate, approximate="tanh") * up * share.to(x.dtype).unsqueeze(-1)
    return inner.reshape(x.shape[0], -1) @ down.transpose(1, 2).reshape(-1, hidden)


def _experts_gathered(x: Tensor, weights: Tensor, index: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    rows, chosen = index.shape
    slots = torch.empty(rows * chosen, x.shape[-1], dtype=x.dtype, device=x.device)
    flat = index.flatten()
    for expert in flat.unique().tolist():
        slot = (flat == expert).nonzero().squeeze(1)
        gate, up = gate_up[expert].chunk(2, dim=0)
        slots[slot] = gated_mlp(x[slot // chosen], gate, up, down[expert])
    return (slots.view(rows, chosen, -1).float() * weights.unsqueeze(-1)).sum(1).to(x.dtype)


def softcap(logits: Tensor, cap: float) -> Tensor:
    """cap * tanh(logits / cap), in float32."""
    return cap * torch.tanh(logits.float() / cap)


def soft_embeddings(p: Tensor, embedding: Tensor) -> Tensor:
    """The mean embedding under p: what self-conditioning hands to the next step.

    p: (..., vocab) float32, probabilities; embedding: (vocab, hidden); returns (..., hidden) in embedding's dtype.
    The probabilities are rounded to that dtype before the product, as vLLM and mlx do.
    """
    return p.to(embedding.dtype) @ embedding
