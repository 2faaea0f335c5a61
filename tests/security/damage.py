"""Valid bytes, damaged: what a broken disk, a bad tool or a bad person would hand in."""

from __future__ import annotations

from hypothesis import strategies as st

NUMBERS = (b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\xff" * 8, b"\x00" * 8)  # lengths and offsets that lie


def damaged(valid: bytes) -> st.SearchStrategy[bytes]:
    """The bytes with a few of them changed, taken out or put in, at the front and the back more often than between."""
    size = len(valid)
    places = st.one_of(
        st.integers(0, size - 1), st.integers(0, min(200, size - 1)), st.integers(max(0, size - 1000), size - 1)
    )
    change = st.tuples(places, st.sampled_from("xxxcit"), st.sampled_from(NUMBERS) | st.binary(min_size=1, max_size=4))
    return st.lists(change, min_size=1, max_size=5).map(lambda changes: _apply(valid, changes))


def _apply(valid: bytes, changes: list[tuple[int, str, bytes]]) -> bytes:
    data = bytearray(valid)
    for place, kind, new in changes:
        if kind == "x":
            data[place : place + len(new)] = new
        elif kind == "c":
            del data[place : place + 40]
        elif kind == "i":
            data[place:place] = new
        else:
            del data[place:]
    return bytes(data)
