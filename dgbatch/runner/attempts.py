"""What is remembered of shards that failed, as the bytes of _dgbatch/attempts.json: the next submit goes on from there.

It is bookkeeping. A run without it, or with one that is damaged, tries its shards from zero and comes to the same rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dgbatch.runner.dispatch import Tries
from dgbatch.runner.poison import Search

if TYPE_CHECKING:
    from dgbatch.runner.plan import Shard


def to_json(tries: Mapping[int, Tries], run: str) -> bytes:
    """What dispatch knows, with its own checksum and its run's fingerprint in it."""
    body = {"run": run, "shards": {str(index): _plain(each) for index, each in sorted(tries.items())}}
    return (json.dumps({**body, "sha256": _digest(body)}) + "\n").encode()


def from_json(data: bytes, run: str, shards: Sequence[Shard]) -> dict[int, Tries]:
    """What `to_json` wrote about these shards. ValueError says what is wrong with it."""
    body = json.loads(data)
    if not isinstance(body, dict) or body.pop("sha256", None) != _digest(body):
        raise ValueError("its content does not match its own checksum")
    if body.get("run") != run:
        raise ValueError("it belongs to another run")
    selected = {str(shard.index): shard.selected for shard in shards}
    try:
        return {int(index): _tries(each, selected[index]) for index, each in body["shards"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it is not written as dgbatch writes it: {error!r}") from None


def _plain(tries: Tries) -> dict[str, Any]:
    counted = {"attempts": tries.attempts, "faults": tries.faults}
    return {**counted, "search": asdict(tries.search)} if tries.search.on or tries.search.poison else counted


def _tries(plain: dict[str, Any], rows: int) -> Tries:
    search = Search(rows)
    if "search" in plain:
        kept = dict(plain["search"])
        search = Search(poison={int(row): str(reason) for row, reason in kept.pop("poison").items()}, **kept)
    tries = Tries(search, plain["attempts"], plain["faults"])
    numbers = (tries.attempts, tries.faults, search.rows, search.low, search.high, search.left)
    if not (
        all(type(number) is int and number >= 0 for number in numbers)
        and all(type(flag) is bool for flag in (search.on, search.struck, search.last_try))
        and search.rows == rows
        and search.low <= search.high <= rows
        and all(0 <= row < rows for row in search.poison)
    ):
        raise ValueError(f"its numbers cannot be: {plain}")
    return tries


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
