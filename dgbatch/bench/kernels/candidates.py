"""Block sizes that `bench kernels --sweep` tries, kernel by kernel: a table to read and to extend. Not yet measured.

An entry has what it changes of what the kernel chooses now: a field of its choice (`CHOICE`), or in capitals a constant
of its module. The first entry of a list is what the kernel chooses now on Hopper, in full; tests hold it to that. Lists
for one canvas and for eight differ where the kernel's choice does. What all of them compile to for sm_90 a slow test
says; what does not fit there or spills has it in MARKED.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

Changes = Mapping[str, int | None]


@dataclass(frozen=True, slots=True)
class Sweep:
    """The candidates of one case of dgbatch/bench/kernels/cases.py."""

    case: str
    one: tuple[Changes, ...]  # at one canvas
    many: tuple[Changes, ...]  # at eight

    @property
    def operation(self) -> str:
        return self.case.split()[0]

    def at(self, canvases: int) -> tuple[Changes, ...]:
        return self.one if canvases == 1 else self.many


# The function of a kernel's module that chooses; what it returns has the fields.
CHOICE = {
    "experts_up": "token_tiles",
    "experts_down": "token_tiles",
    "attend": "config",
    "linear": "configuration",
    "head": "config",
    "soft_rows": "config",
    "gated": "configuration",
}
# Changes that add in another order: they may be taken for all numbers of rows at once, or for none.
# Of attend also the rows: those of a chunk see different keys, so that a block's rows decide where its parts begin.
ORDER = {
    "experts_up": {"BLOCK_K"},
    "experts_down": {"BLOCK_K"},
    "attend": {"block_rows", "block_keys", "SPLITS"},
    "linear": {"BLOCK_K"},
    "head": {"block_k"},
    "soft_rows": {"block_k", "SPLITS"},
    "gated": {"BLOCK_K"},
}

_EXPERTS_ONE = {"BLOCK_K": 64, "few": 32, "few_stages": 5, "many": 128, "many_stages": 3, "turns": 1, "num_warps": 4}
_EXPERTS_MANY = _EXPERTS_ONE | {"turns": 2, "num_warps": 8, "registers": 128}
# three programs of a multiprocessor: 75 KB and 168 registers a thread
_THREE = ({"few_stages": 3, "many_stages": 2, "registers": 168},)
_THREE_NARROW = ({"few_stages": 3, "many": 64, "registers": 168},)
_DEPTHS = ({"few_stages": 3}, {"few_stages": 4}, {"few_stages": 6}, {"few": 16}, {"num_warps": 8})
_TOKENS = (
    {"turns": 1},
    {"turns": 3},
    {"many": 64, "many_stages": 4, "turns": 1},
    {"many": 64, "many_stages": 4, "turns": 2},
    {"many": 64, "many_stages": 4, "turns": 3},
    {"many_stages": 2},
)


def _wide(name: str, block: int) -> tuple[Changes, ...]:
    """256 rows of weights by 128 tokens: one program of a multiprocessor, of which each thread keeps 128 sums."""
    return tuple(
        {name: block, "few_stages": stages, "many_stages": stages, "turns": turns, "registers": None}
        for stages in (3, 4)
        for turns in (1, 2, 3)
    )


EXPERTS_UP = Sweep(
    "experts_up",
    (
        {"BLOCK_I": 64, **_EXPERTS_ONE, "registers": None},
        *_THREE,
        *_THREE_NARROW,
        {"BLOCK_K": 128, "BLOCK_I": 32, "few_stages": 4, "many_stages": 2},
        {"BLOCK_K": 128, "BLOCK_I": 32, "few_stages": 3, "many": 64, "many_stages": 2},
        {"BLOCK_K": 128, "BLOCK_I": 64, "few_stages": 3, "many_stages": 2},
        *_DEPTHS,
    ),
    ({"BLOCK_I": 64, **_EXPERTS_MANY}, *_wide("BLOCK_I", 128), *_TOKENS),
)
EXPERTS_DOWN = Sweep(
    "experts_down",
    ({"BLOCK_H": 128, **_EXPERTS_ONE, "registers": None}, *_THREE, *_THREE_NARROW, *_DEPTHS),
    ({"BLOCK_H": 128, **_EXPERTS_MANY}, *_wide("BLOCK_H", 256), *_TOKENS),
)


def _looks(rows: int, keys: int, warps: int, stages: int) -> Changes:
    return {"block_rows": rows, "block_keys": keys, "warps": warps, "stages": stages}


_SPLITS = ({"SPLITS": 1}, {"SPLITS": 3}, {"SPLITS": 4})
_SLIDING = (
    {**_looks(128, 64, 8, 2), "SPLITS": 2},
    _looks(64, 32, 4, 2),
    _looks(64, 32, 4, 3),
    _looks(128, 32, 8, 3),
    _looks(128, 32, 8, 4),
    _looks(64, 64, 4, 2),
    *_SPLITS,
)
_FULL = ({**_looks(64, 32, 8, 2), "SPLITS": 2}, _looks(64, 16, 8, 3), _looks(64, 16, 4, 3), *_SPLITS)
ATTEND = (Sweep("attend sliding", _SLIDING, _SLIDING), Sweep("attend full", _FULL, _FULL))


def _product(rows: int, block: int, warps: int, stages: int) -> Changes:
    return {"BLOCK_ROWS": rows, "block": block, "warps": warps, "stages": stages}


def _products(now: Changes, *others: Changes) -> tuple[Changes, ...]:
    return (now, *(other for other in others if other != now))


# One program for every shape of weights: what is compiled for the first is there for the others.
_FEW_ROWS = (
    *(_product(128, 64, 4, stages) for stages in (4, 5, 6)),
    *(_product(128, 128, 8, stages) for stages in (4, 5, 6)),
    *(_product(64, 64, 4, stages) for stages in (4, 6)),
    *(_product(64, 128, 4, stages) for stages in (4, 6)),
    _product(128, 64, 8, 5),
    _product(128, 256, 8, 4),
    _product(64, 256, 8, 4),
)
_MANY_ROWS = (
    _product(128, 256, 8, 4),
    *(_product(128, 128, 8, stages) for stages in (4, 5, 6)),
    _product(128, 128, 4, 4),
    *(_product(64, 256, 8, stages) for stages in (4, 5)),
    _product(64, 256, 4, 4),
    _product(64, 128, 4, 5),
)
_LINEAR_NOW = {  # block and warps at one canvas; wide at eight
    "qkv sliding": _product(128, 128, 8, 4),
    "attention out sliding": _product(128, 64, 4, 4),
    "qkv full": _product(128, 128, 8, 4),
    "attention out full": _product(128, 64, 4, 4),
    "MLP down": _product(128, 64, 4, 4),
}
LINEAR = tuple(
    Sweep(f"linear {what}", _products(now, *_FEW_ROWS), _products(_product(128, 256, 8, 4), *_MANY_ROWS))
    for what, now in _LINEAR_NOW.items()
)
GATED = Sweep(
    "gated",
    (
        _product(128, 64, 8, 4),
        *(_product(128, 64, 8, stages) for stages in (5, 6)),
        *(_product(64, 64, 4, stages) for stages in (4, 6)),
        _product(128, 32, 4, 5),
        _product(64, 128, 8, 4),
    ),
    (
        _product(128, 128, 8, 4),
        _product(128, 128, 8, 3),
        *(_product(128, 64, 8, stages) for stages in (4, 5)),
        *(_product(64, 128, 8, stages) for stages in (4, 5)),
        _product(64, 64, 4, 4),
    ),
)


def _head(rows: int, block_k: int, warps: int, stages: int) -> Changes:
    return {"block_rows": rows, "block_k": block_k, "warps": warps, "stages": stages}


_HEAD = (
    _head(256, 64, 8, 4),
    _head(256, 64, 8, 3),
    _head(128, 64, 8, 4),
    _head(128, 64, 4, 3),
    _head(128, 64, 4, 4),
    _head(128, 128, 8, 3),
    _head(256, 128, 8, 2),
)
HEAD = Sweep("head", _HEAD, _HEAD)


def _soft(rows: int, columns: int, warps: int, stages: int) -> Changes:
    return {"block_rows": rows, "block_columns": columns, "warps": warps, "stages": stages}


_SOFT = (
    {**_soft(128, 256, 8, 4), "block_k": 64, "SPLITS": 6},
    _soft(128, 256, 8, 3),
    _soft(64, 256, 4, 4),
    _soft(64, 256, 8, 4),
    _soft(128, 128, 4, 4),
    _soft(128, 128, 8, 4),
    _soft(64, 128, 4, 4),
    {"SPLITS": 4},
    {"SPLITS": 8},
    {"SPLITS": 12},
)
SOFT_ROWS = Sweep("soft_rows", _SOFT, _SOFT)

# The most valuable first: what a limit of seconds leaves out is the end.
SWEEPS = (EXPERTS_UP, EXPERTS_DOWN, *ATTEND, *LINEAR, HEAD, SOFT_ROWS, GATED)

SPILLS, DOES_NOT_FIT = "spills", "does not fit"
# Of the compiler for sm_90, by case or operation: told and not measured there.
MARKED: dict[str, tuple[tuple[Changes, str], ...]] = {
    "experts_up": ((_THREE[0], SPILLS),),  # 128 sums a thread and 168 registers
    "experts_down": ((_THREE[0], SPILLS),),
    "attend sliding": ((_looks(64, 64, 4, 2), SPILLS),),
    "attend full": ((_looks(64, 16, 4, 3), SPILLS),),  # 256 sums a thread
}


def marked(sweep: Sweep, changes: Changes) -> str | None:
    """What is known against a candidate on Hopper."""
    known = (*MARKED.get(sweep.case, ()), *MARKED.get(sweep.operation, ()))
    return next((mark for candidate, mark in known if candidate == changes), None)


def other_order(sweep: Sweep, canvases: int, changes: Changes) -> bool:
    """Whether a candidate says of itself that it adds in another order than now."""
    now = sweep.at(canvases)[0]
    return any(changes[name] != now[name] for name in ORDER[sweep.operation] & changes.keys())


def named(only: tuple[str, ...]) -> Iterator[Sweep]:
    """Of cases or operations; (): all."""
    return (sweep for sweep in SWEEPS if not only or {sweep.case, sweep.operation} & set(only))
