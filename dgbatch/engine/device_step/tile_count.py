"""How many tiles a pass has room for. Knows no torch.

Every count is a CUDA graph of its own, so there are few: 1, 2, 3, 4, 6, 8, 12, 16, 24, 32 and on like this. Room for
tiles that are not there costs launches of programs that return at once; a tile without room waits for a pass.
"""

from __future__ import annotations

from dgbatch.engine.kernels.tables import ROW_QUANTUM


def tile_rows(canvas_length: int) -> int:
    return -(-canvas_length // ROW_QUANTUM) * ROW_QUANTUM


def rung(tiles: int) -> int:
    """The smallest count with a graph that holds so many: a power of two, or one and a half times one."""
    power = 1
    while power < tiles:
        if power > 1 and 3 * power // 2 >= tiles:
            return 3 * power // 2
        power *= 2
    return power


def tile_count(prompt_tiles: int, canvases: int, ending: int, fold: bool) -> int:
    """Room for this pass.

    prompt_tiles: all of them must be in it, for others may share their pages already; canvases: that are or may be at
    work; ending: those of them that are near their end, so that their text may come beside the canvas after it
    """
    if not fold:
        return rung(prompt_tiles + canvases)
    return rung(prompt_tiles + canvases + (canvases if prompt_tiles else ending))


def most_tiles(canvases: int, prefill_tiles: int) -> int:
    """The largest that tile_count ever says."""
    return rung(prefill_tiles + 2 * canvases)
