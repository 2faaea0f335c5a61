"""Which rows of a job are filmed, and their films as the bytes of _dgbatch/films/000042.json.

A film is for looking at. No record names it, nothing is decided by it, and a row is done whether it was kept or not.
"""

from __future__ import annotations

import json
import logging
import sys
from array import array
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dgbatch.runner.layout import FILMS

if TYPE_CHECKING:
    from dgbatch.records import Completion, Film, Prompt
    from dgbatch.runner.open_piece import OpenPiece
    from dgbatch.runner.plan import Shard
    from dgbatch.runner.sink import OutputRow
    from dgbatch.runner.storage.folder import Folder

VERSION = 1
FILMED_ROWS = 8  # at the start of such a shard: the one that took most steps is kept, the others show less
PROMPT_CHARACTERS = 2000  # of the last message, which is shown above the film

LOG = logging.getLogger(__name__)


def filmed_shards(shards: Sequence[Shard], films: int) -> frozenset[int]:
    """Indexes of the shards that one row of is filmed: so many of them, evenly spaced, or all where there are fewer."""
    count = min(films, len(shards))
    return frozenset(shards[number * len(shards) // count].index for number in range(count))


def film_name(shard: int) -> str:
    return f"{FILMS}/{shard:06d}.json"


class Filming:
    """The films of one worker, from asking for them to keeping them."""

    def __init__(self, folder: Folder, shards: frozenset[int]):
        self._folder = folder
        self._shards = shards
        self._asked: dict[tuple[int, str], str] = {}  # the prompt's last message, by shard and row

    def ask(self, prompt: Prompt, opened: OpenPiece, number: int) -> Prompt:
        """The prompt; to be filmed where it is the first sample of one of its shard's first rows, due to be run."""
        shard, task = opened.place[0], opened.task
        if number >= FILMED_ROWS or prompt.sample or shard not in self._shards or task.again or task.probe is not None:
            return prompt
        self._asked[shard, prompt.id] = prompt.messages[-1]["content"]
        return replace(prompt, film=True)

    def keep(self, shard: int, rows: Iterable[OutputRow]) -> None:
        """Put the film of the row that took most steps, where a row of this shard has one and none lies there yet."""
        done = [row.completion for row in rows if row.completion.film is not None]
        prompts = {each.id: self._asked.pop((shard, each.id), "") for each in done}
        best = max(done, key=lambda each: each.denoise_steps, default=None)
        if best is None or best.film is None:
            return
        try:
            data = film_bytes(shard, prompts[best.id], best, best.film)
            self._folder.put_if_absent(film_name(shard), data)
        except Exception as error:  # noqa: BLE001  # whatever is wrong with a picture, the row is fine
            LOG.warning("the film of shard %d was not kept: %s: %s", shard, type(error).__name__, error)


def film_bytes(shard: int, prompt: str, completion: Completion, film: Film) -> bytes:
    """A film as JSON. Tokens are numbers in `pieces`, which holds the text of each.

    What has a value per position is base64: of 16-bit little-endian numbers (tokens: 32-bit where `token_bytes` is 4),
    but `accepted` of bits, the first position the lowest bit of the first byte.
    """
    numbers = {id: number for number, id in enumerate(film.pieces)}
    typecode = "H" if len(numbers) <= 1 << 16 else "I"

    def tokens(ids: Iterable[int]) -> str:
        return _base64(typecode, (numbers[id] for id in ids))

    canvases: list[dict[str, Any]] = [
        {
            "noise": tokens(canvas.noise),
            "steps": [
                {
                    "tokens": tokens(frame.tokens),
                    "accepted": _bits(frame.accepted),
                    "argmax": tokens(frame.argmax),
                    "entropy": _base64("H", frame.entropy),  # 1/32 of a nat
                }
                for frame in canvas.frames
            ],
        }
        for canvas in film.canvases
    ]
    body = {
        "version": VERSION,
        "shard": shard,
        "id": completion.id,
        "sample": completion.sample,
        "prompt": prompt[:PROMPT_CHARACTERS],
        "prompt_cut": len(prompt) > PROMPT_CHARACTERS,
        "text": completion.text,
        "thinking": completion.thinking,
        "finish_reason": completion.finish_reason,
        "tokens": completion.tokens,
        "denoise_steps": completion.denoise_steps,
        "revised_tokens": completion.revised_tokens,
        "canvases": completion.canvases,  # all of them, also those beyond what was filmed
        "canvas_length": len(film.canvases[0].noise),
        "token_bytes": 2 if typecode == "H" else 4,
        "pieces": list(film.pieces.values()),
        "special": sorted(numbers[id] for id in film.special),
        "film": canvases,
    }
    return (json.dumps(body, ensure_ascii=False, separators=(",", ":")) + "\n").encode()


def _base64(typecode: str, values: Iterable[int]) -> str:
    packed = array(typecode, values)
    if sys.byteorder == "big":
        packed.byteswap()
    return b64encode(packed.tobytes()).decode()


def _bits(flags: Sequence[bool]) -> str:
    packed = bytearray(-(-len(flags) // 8))
    for position, flag in enumerate(flags):
        packed[position // 8] |= flag << position % 8
    return b64encode(packed).decode()
