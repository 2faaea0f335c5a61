"""Kernels that are bad on purpose, so that it is seen that the checks of compiled kernels see it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl

from tests.engine.aot import Program, recorded


@triton.jit
def _flash(q, k, v, o, stride, n, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    rm = tl.program_id(0) * BM + tl.arange(0, BM)
    d = tl.arange(0, D)
    asking = tl.load(q + rm[:, None] * stride + d[None, :])
    most = tl.full((BM,), -float("inf"), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    acc = tl.zeros((BM, D), tl.float32)
    for j in range(0, n, BN):
        rn = j + tl.arange(0, BN)
        keys = tl.load(k + rn[None, :] * stride + d[:, None], mask=rn[None, :] < n, other=0.0)
        scores = tl.where(rn[None, :] < n, tl.dot(asking, keys), -float("inf"))
        now = tl.maximum(most, tl.max(scores, 1))
        p = tl.exp2(scores - now[:, None])
        shrunk = tl.exp2(most - now)
        total = total * shrunk + tl.sum(p, 1)
        values = tl.load(v + rn[:, None] * stride + d[None, :], mask=rn[:, None] < n, other=0.0)
        acc = tl.dot(p.to(values.dtype), values, acc * shrunk[:, None])
        most = now
    tl.store(o + rm[:, None] * stride + d[None, :], (acc / total[:, None]).to(o.dtype.element_ty))


@triton.jit
def _product(a, b, c, stride, inner, B: tl.constexpr, BK: tl.constexpr):
    rows, depth = tl.arange(0, B), tl.arange(0, BK)
    acc = tl.zeros((B, B), tl.float32)
    for k in range(0, inner, BK):
        x = tl.load(a + rows[:, None] * stride + k + depth[None, :])
        w = tl.load(b + rows[:, None] * stride + k + depth[None, :])
        acc = tl.dot(x, w.T, acc)
    tl.store(c + rows[:, None] * B + rows[None, :], acc)


def programs(architecture: int) -> Iterator[tuple[str, Program]]:
    rows = torch.empty(1024, 512, dtype=torch.bfloat16, device="meta")
    out = torch.empty(64, 64, device="meta")
    with recorded(architecture) as launches:
        for warps in (4, 8):
            _flash[(16,)](rows, rows, rows, rows, 512, 1024, D=512, BM=64, BN=32, num_warps=warps, num_stages=2)
        _product[(1,)](rows, rows, out, 512, 512, B=64, BK=64)
        _product[(1,)](rows, rows, out, 500, 500, B=64, BK=64)
        _product[(1,)](rows.flatten()[4:], rows, out, 512, 512, B=64, BK=64)
    names = ("four warps", "eight warps", "aligned", "a stride of 500", "an address of 8")
    for name, one in zip(names, launches, strict=True):
        yield name, Program(one, architecture)
