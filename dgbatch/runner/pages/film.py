"""The denoising films of a run, and the part of a page that plays them: how each canvas turned from noise into text.

What is shown comes out of models and their users' files, so all of it travels as JSON that can close no element, and
film.js sets it as text.
"""

from __future__ import annotations

import json
from base64 import b64decode
from binascii import Error as BadBase64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgbatch.runner.filming import VERSION
from dgbatch.runner.layout import FILMS

if TYPE_CHECKING:
    from dgbatch.runner.run_folder import Run

HERE = Path(__file__).parent
ESCAPES = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026", 0x2028: "\\u2028", 0x2029: "\\u2029"}

Film = Mapping[str, Any]  # as `filming.film_bytes` writes it
TEXTS, COUNTS = ("id", "prompt", "text", "finish_reason"), ("tokens", "canvases", "denoise_steps", "revised_tokens")


def films(run: Run) -> list[Film]:
    """The films that lie in a run, in the order of its shards. One that is damaged, or of another version, is left out:
    a film proves nothing and costs nothing.

    Raises OSError when the disk or the store fails.
    """
    found = [_read(run.folder.get(name)) for name in run.folder.list(FILMS) if name.endswith(".json")]
    return [film for film in found if film is not None]


def film_html(films: Sequence[Film]) -> str:
    """An HTML fragment that plays these films: style, markup and script in one, and nothing from a network.

    It looks right in the light and in the dark, and from the width of a phone on. Empty where there is no film.
    """
    if not films:
        return ""
    data = json.dumps(list(films), ensure_ascii=False, separators=(",", ":")).translate(ESCAPES)
    page = _asset("film.html")
    for name, text in (("style", _asset("film.css")), ("script", _asset("film.js")), ("data", data)):
        page = page.replace(f"{{{{ {name} }}}}", text, 1)
    return page


def _asset(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _read(data: bytes) -> Film | None:
    try:
        film = json.loads(data)
        return film if film["version"] == VERSION and _is_whole(film) else None
    except (ValueError, KeyError, TypeError):
        return None


def _is_whole(film: Film) -> bool:
    """Whether film.js can play it: every list is as long as the canvas, and every token has a piece."""
    length, size, pieces = film["canvas_length"], film["token_bytes"], film["pieces"]
    texts, counts = [*pieces, *(film[name] for name in TEXTS)], [film[name] for name in COUNTS]
    if not (film["film"] and all(isinstance(t, str) for t in texts) and all(isinstance(n, int) for n in counts)):
        return False
    for canvas in film["film"]:
        steps = canvas["steps"]
        tokens = [canvas["noise"], *(step[name] for step in steps for name in ("tokens", "argmax"))]
        others = [(step["entropy"], 2 * length) for step in steps]
        others += [(step["accepted"], -(-length // 8)) for step in steps]
        if not steps or any(len(_raw(text)) != expected for text, expected in others):
            return False
        for raw in map(_raw, tokens):
            numbers = (int.from_bytes(raw[i : i + size], "little") for i in range(0, len(raw), size))
            if len(raw) != size * length or max(numbers) >= len(pieces):
                return False
    return True


def _raw(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except BadBase64 as error:
        raise ValueError(str(error)) from error
