"""What is remembered of pieces that failed, as the bytes of _dgbatch/attempts.json: the next submit goes on from there.

It is bookkeeping. A run without it, or with one that is damaged, tries its pieces from zero and comes to the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, get_args

from dgbatch.runner.dispatch import Tries
from dgbatch.runner.piece import Key
from dgbatch.runner.poison import Blame, Code, Search
from dgbatch.runner.sealed import sealed, unsealed

if TYPE_CHECKING:
    from dgbatch.runner.plan import Shard


def to_json(tries: Mapping[Key, Tries], run: str) -> bytes:
    """What dispatch knows, with its own checksum and its run's fingerprint in it."""
    body = {"run": run, "pieces": {_name(key): _plain(each) for key, each in sorted(tries.items())}}
    return sealed(body)


def from_json(data: bytes, run: str, shards: Sequence[Shard]) -> dict[Key, Tries]:
    """What `to_json` wrote about pieces of these shards. ValueError says what is wrong with it."""
    body = unsealed(data)
    if body.get("run") != run:
        raise ValueError("it belongs to another run")
    selected = {shard.index: shard.selected for shard in shards}
    try:
        pieces = ((_key(name), each) for name, each in body["pieces"].items())
        return {key: _tries(each, key, selected[key[0]]) for key, each in pieces}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it is not written as dgbatch writes it: {error!r}") from None


def _name(key: Key) -> str:
    return "-".join(map(str, key))


def _key(name: str) -> Key:
    index, first, stop = (int(number) for number in name.split("-"))
    if _name((index, first, stop)) != name:
        raise ValueError(f"{name!r} is no piece")
    return index, first, stop


def _plain(tries: Tries) -> dict[str, Any]:
    counted = {"attempts": tries.attempts, "faults": tries.faults}
    return {**counted, "search": asdict(tries.search)} if tries.search.on or tries.search.poison else counted


def _tries(plain: dict[str, Any], key: Key, selected: int) -> Tries:
    _, first, stop = key
    search = Search(first, stop)
    if "search" in plain:
        kept = dict(plain["search"])
        poison = {int(row): Blame(**blame) for row, blame in kept.pop("poison").items()}
        search = Search(poison=poison, **kept)
    tries = Tries(search, plain["attempts"], plain["faults"])
    numbers = (tries.attempts, tries.faults, search.first, search.stop, search.low, search.high, search.left)
    if not (
        all(type(number) is int and number >= 0 for number in numbers)
        and all(type(flag) is bool for flag in (search.on, search.struck, search.last_try))
        and (search.first, search.stop) == (first, stop)
        and first < stop <= selected
        and search.low <= search.high <= stop
        and all(first <= row < stop for row in search.poison)
        and all(blame.code in get_args(Code) for blame in search.poison.values())
    ):
        raise ValueError(f"its numbers cannot be: {plain}")
    return tries
