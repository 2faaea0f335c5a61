"""Columns of Tiles.table as constants that a Triton kernel may name: it sees no enumeration of Python."""

from __future__ import annotations

import triton.language as tl

from dgbatch.engine.kernels.tables import Of

WIDTH = tl.constexpr(8)
SLOT = tl.constexpr(int(Of.SLOT))
CANVAS = tl.constexpr(int(Of.CANVAS))
START = tl.constexpr(int(Of.START))
ROWS = tl.constexpr(int(Of.ROWS))
CHUNK = tl.constexpr(int(Of.CHUNK))
FIRST = tl.constexpr(int(Of.FIRST))
