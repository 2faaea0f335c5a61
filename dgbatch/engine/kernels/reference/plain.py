"""Every operation of the model in plain PyTorch: what runs without a GPU, and what kernels are held against.

Axis words: `rows` is any flattened set of positions; leading axes may be more than one where "..." stands.
Formulas follow DiffusionGemma as implemented in transformers 5.23 (models/diffusion_gemma).
"""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

GROUP_ROWS = 16  # fewer rows, and libraries sum a row otherwise (docs/lab_log.md)


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """y = x / sqrt(mean(x^2) + eps) * w, in float32; the weight multiplies as w, not 1 + w.

    x: (..., hidden) any float dtype; weight: (hidden,) or None for no scale; returns like x.
    """
    return _normed(x.float(), weight, eps).to(x.dtype)


def add_rms_norm(residual: Tensor, x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """residual + rms_norm(x); all but the weight alike in shape, (..., hidden)."""
    if x.dtype == torch.float32:
        return torch.addcmul(residual, _normed(x, None, eps), weight)
    return residual + rms_norm(x, weight, eps)


def _normed(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    # the length of a row in one reduction, and no tensor of squares
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    scale = torch.addcmul(_constant(eps, x.device), length, length, value=1 / x.shape[-1]).rsqrt_()
    normed = x * scale
    if weight is None:
        return normed
    return normed * weight if torch.is_grad_enabled() else normed.mul_(weight)


@lru_cache(maxsize=64)
def _constant(value: float, device: torch.device) -> Tensor:
    """() float32. A Python number becomes a tensor each time it meets one, which costs as much as a small operation."""
    with torch.inference_mode(False):
        return torch.tensor(value, device=device)


def rope_frequencies(head_dim: int, theta: float, rotated_pairs: int) -> Tensor:
    """theta^(-2i/head_dim) of each pair i, (head_dim / 2,) float32; pairs past `rotated_pairs` do not rotate.

    The exponent runs over the whole head_dim also where only some pairs rotate ("proportional" RoPE).
    """
    pair = torch.arange(head_dim // 2, dtype=torch.float32)
    return torch.where(pair < rotated_pairs, theta ** (-2.0 * pair / head_dim), torch.zeros_like(pair))


def rope_angles(positions: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of position * frequency.

    positions: (...) int; frequencies: (head_dim / 2,); returns two (..., head_dim) float32, both halves alike (pairs
    are i, i + head_dim/2).
    """
    angle = positions.float().unsqueeze(-1) * frequencies
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos(), angle.sin()


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x * cos + rotate_half(x) * sin.

    x: (..., heads, head_dim); cos, sin: (..., head_dim) in x's dtype; returns like x.
    """
    half = x.shape[-1] // 2
    sin = sin[..., :half].unsqueeze(-2)  # both halves are alike
    turned = x * cos.unsqueeze(-2)
    turned[..., :half].addcmul_(x[..., half:], sin, value=-1)
    turned[..., half:].addcmul_(x[..., :half], sin)
    return turned


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T) v with scale 1: q and k are normed instead. Query heads share KV heads in groups.

    q: (..., rows, heads, head_dim); k, v: (..., keys, kv_heads, head_dim); mask: (..., rows, keys) bool, True
    where a row may look, or None for everywhere; returns like q.
    """
    out = grouped_attention(group_heads(q, k.shape[-2]), k.movedim(-2, -3), v.movedim(-2, -3), mask)
    return ungroup_heads(out)


def group_heads(q: Tensor, kv_heads: int) -> Tensor:
    """(..., rows, heads, head_dim) -> (..., kv_heads, rows, groups, head_dim): heads that share keys become rows."""
    return q.unflatten(-2, (kv_heads, q.shape[-2] // kv_heads)).movedim(-3, -4).contiguous()


def ungroup_heads(x: Tensor) -> Tensor:
    """The way back from group_heads."""
    return x.movedim(-4, -3).flatten(-3, -2)


def grouped_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T) v by KV head.

    q: (..., kv_heads, rows, groups, head_dim); k, v: (..., kv_heads, keys, head_dim); mask: (..., rows, keys) bool,
    True where a row may look, or None for everywhere; returns like q.
    """
    rows, groups = q.shape[-3:-1]
    asking = q.flatten(-3, -2)
    if mask is not None:
        mask = mask.repeat_interleave(groups, dim=-2).unsqueeze(-3)
    if q.device.type == "cpu" and q.dim() == 4:
        # For a few hundred keys a CPU does this faster than torch's fused kernel (docs/lab_log.md).
        scores = torch.bmm(asking, k.mT)
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        out = torch.bmm(scores.softmax(-1), v)
    else:
        out = F.scaled_dot_product_attention(asking, k, v, attn_mask=mask, scale=1.0)
    return out.unflatten(-2, (rows, groups))


def gelu_gate(gate: Tensor, up: Tensor) -> Tensor:
    """gelu_tanh(gate) * up, alike in shape.

    gelu_tanh(x) = x/2 (1 + tanh(c (x + 0.044715 x^3))) = x sigmoid(2c (x + 0.044715 x^3)), c = sqrt(2 / pi)
    """
    if gate.device.type != "cpu" or gate.dtype != torch.float32 or torch.is_grad_enabled():
        return F.gelu(gate, approximate="tanh") * up
    # On a CPU torch's own takes twice as long as these five passes (docs/lab_log.md).
    slope = 2 * (2 / torch.pi) ** 0.5
    inner = torch.addcmul(_constant(slope, gate.device), gate, gate, value=slope * 0.044715)
    return inner.mul_(gate).sigmoid_().mul_(gate).mul_(up)


def gated_mlp(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """down(gelu_tanh(gate x) * (up x)).

    x: (..., hidden); gate, up: (intermediate, hidden); down: (hidden, intermediate); returns like x.
    """
    return F.linear(gelu_gate(F.linear(x, gate), F.linear(x, up)), down)


def route(unit: Tensor, proj: Tensor, scale: Tensor, per_expert_scale: Tensor, chosen: int) -> tuple[Tensor, Tensor]:
    """Which experts a row goes to and how much each counts.

    unit: (rows, hidden), the raw residual after a norm without weight, not a copy of what the experts read
    proj: (experts, hidden); scale: (hidden,); per_expert_scale: (experts,)
    returns: (rows, chosen) float32 weights, (rows, chosen) int64 experts, the likeliest first
    """
    scores = F.linear(unit * scale * unit.shape[-1] ** -0.5, proj)
    top, index = scores.float().softmax(-1).topk(chosen, dim=-1)
    top = top / top.sum(-1, keepdim=True)
    return top * per_expert_scale.take(index).float(), index


def experts(x: Tensor, weights: Tensor, index: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """sum over a row's chosen experts of weight * down(gelu_tanh(gate x) * (up x)), in slot order.

    x: (rows, hidden); weights: (rows, chosen) float32; index: (rows, chosen) int64
    gate_up: (experts, 2 * intermediate, hidden), gate rows first; down: (experts, hidden, intermediate)
    """
    if torch.is_grad_enabled():
        return _experts_dense(x, weights, index, gate_up, down)
    return _experts_grouped(x, weights, index, gate_up, down)


def _experts_grouped(x: Tensor, weights: Tensor, index: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Rows sorted by expert, each expert's to a multiple of GROUP_ROWS, so that a row is computed as in any company."""
    count, double, hidden = gate_up.shape
    rows, chosen = index.shape
    expert, order = index.flatten().sort(stable=True)
    have = expert.bincount(minlength=count).tolist()
    sizes = [-(-size // GROUP_ROWS) * GROUP_ROWS for size in have]
    padding = accumulate((size - own for size, own in zip(sizes, have, strict=True)), initial=0)
    moved = torch.tensor([*padding][:-1], device=x.device)  # how far rows move for the padding before them
    place = moved.index_select(0, expert).add_(torch.arange(rows * chosen, device=x.device))
    source = order if chosen == 1 else order // chosen
    row = source.new_zeros(sum(sizes)).scatter_(0, place, source)  # padding computes row 0 and is not looked at
    gathered = x.index_select(0, row)
    inner, outer = x.new_empty(len(row), double), x.new_empty(len(row), hidden)
    _multiply(gathered, gate_up, sizes, inner)
    _multiply(gelu_gate(*inner.chunk(2, dim=-1)), down, sizes, outer)
    slot = torch.empty_like(order).scatter_(0, order, place)
    first, *others = [outer.index_select(0, own).float() for own in slot.view(rows, chosen).unbind(1)]
    total = first.mul_(weights[:, :1])
    for other, weight in zip(others, weights[:, 1:].unsqueeze(-1).unbind(1), strict=True):
        total.addcmul_(other, weight)
    return total.to(x.dtype)


def _multiply(x: Tensor, matrices: Tensor, sizes: list[int], out: Tensor) -> None:
    """The first sizes[0] rows by the first matrix, and so on."""
    first = 0
    for matrix, size in zip(matrices, sizes, strict=True):
        if size:
            torch.mm(x[first : first + size], matrix.t(), out=out[first : first + size])
        first += size


def _experts_dense(x: Tensor, weights: Tensor, index: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Every row through all experts, with a gradient: for training small models."""
    count, double, hidden = gate_up.shape
    share = torch.zeros(x.shape[0], count, dtype=weights.dtype, device=x.device).scatter(1, index, weights)
    gate, up = F.linear(x, gate_up.reshape(count * double, hidden)).view(-1, count, double).chunk(2, dim=-1)
    inner = gelu_gate(gate, up) * share.to(x.dtype).unsqueeze(-1)
    return inner.reshape(x.shape[0], -1) @ down.transpose(1, 2).reshape(-1, hidden)


def softcap(logits: Tensor, cap: float) -> Tensor:
    """cap * tanh(logits / cap), in float32."""
    return cap * torch.tanh(logits.float() / cap)


def soft_embeddings(p: Tensor, embedding: Tensor) -> Tensor:
    """The mean embedding under p: what self-conditioning hands to the next step.

    p: (..., vocab) float32, probabilities; embedding: (vocab, hidden); returns (..., hidden) in embedding's dtype.
    The probabilities are rounded to that dtype before the product, as vLLM and mlx do.
    """
    return p.to(embedding.dtype) @ embedding
