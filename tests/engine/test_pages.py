"""Which page holds what: nothing is overwritten while someone sees it, nothing is lost, equal prefixes lie once."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgbatch.engine.pages import Chunk, Lease, Pages, View, pages_needed
from dgbatch.engine.sequence import chunks_of

PAGE = 2
ROOMY = (8, 8)


class Memory:
    """Stands in for the KV cache: a token's keys and values follow from the text up to it, so that is what it keeps."""

    def __init__(self) -> None:
        self.pools: tuple[dict[int, list[str]], dict[int, list[str]]] = ({}, {})

    def write(self, pages: tuple[int, int], before: str, chunk: Chunk) -> None:
        text = before + letters(chunk)
        for pool, page in zip(self.pools, pages, strict=True):
            pool[page] = kv(text)[len(before) :]

    def read(self, views: tuple[View, View]) -> tuple[list[str], list[str]]:
        full, sliding = (
            [token for page, first, end in view for token in pool[page][first:end]]
            for pool, view in zip(self.pools, views, strict=True)
        )
        return full, sliding


def kv(text: str) -> list[str]:
    return [text[: index + 1] for index in range(len(text))]


def seen(text: str, window: int) -> tuple[list[str], list[str]]:
    """What a tile after this text sees of it, on full and on sliding layers."""
    return kv(text), kv(text)[max(0, len(text) - window) :]


def chunks(text: str) -> deque[Chunk]:
    return chunks_of([ord(letter) for letter in text], PAGE)


def letters(chunk: Chunk) -> str:
    return "".join(map(chr, chunk))


def take_all(pages: Pages) -> tuple[list[int], list[int]]:
    """Every page there is to be had once nothing is leased, which empties the prefix cache too."""
    sliding = sorted(pages.sliding.take(1).number for _ in range(pages.sliding.size))
    return sorted(pages.full.take(1).number for _ in range(pages.full.size)), sliding


def assert_whole(pages: Pages) -> None:
    assert (pages.full.reserved, pages.sliding.reserved) == (0, 0)
    assert take_all(pages) == (list(range(pages.full.size)), list(range(pages.sliding.size)))


def begin(pages: Pages, need: tuple[int, int] = (3, 3)) -> Lease:
    lease = pages.lease(need)
    assert lease
    return lease


def encode(pages: Pages, text: str, keep: bool = True) -> int:
    """A prompt comes and goes; returns how many of its chunks were already there."""
    todo = chunks(text)
    lease = begin(pages, pages.need(len(todo), 1))
    shared = pages.share_prefix(lease, todo)
    for chunk in list(todo)[shared:]:
        pages.append(lease, chunk, keep)
        pages.slide(lease)
    pages.end(lease)
    return shared


# What a sequence sees of itself


def test_full_layers_see_all_pages_and_sliding_layers_the_window_and_not_a_token_more() -> None:
    pages, lease = Pages(*ROOMY, PAGE, window=3), Lease((4, 4))
    numbers = [pages.append(lease, chunk, keep=True) for chunk in chunks("abcdefg")]
    (a, sa), (b, sb), (c, sc), (d, sd) = numbers
    assert len({a, b, c, d}) == len({sa, sb, sc, sd}) == 4
    assert pages.views(lease) == (((a, 0, 2), (b, 0, 2), (c, 0, 2), (d, 0, 1)), ((sc, 0, 2), (sd, 0, 1)))
    pages.append(lease, chunks("hi")[0], keep=False)
    assert pages.views(lease)[1][0] == (sd, 0, 1)
    assert [end - first for _, first, end in pages.views(lease)[1]] == [1, 2]


def test_a_window_that_begins_inside_a_page_shows_the_rest_of_that_page() -> None:
    pages, lease = Pages(*ROOMY, PAGE, window=3), Lease((4, 4))
    numbers = [pages.append(lease, chunk, keep=True)[1] for chunk in chunks("abcdef")]
    assert pages.views(lease)[1] == ((numbers[1], 1, 2), (numbers[2], 0, 2))


@pytest.mark.parametrize(("window", "kept"), [(0, 0), (1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (99, 3)])
def test_sliding_gives_back_the_pages_that_lie_wholly_before_the_window(window: int, kept: int) -> None:
    pages = Pages(*ROOMY, PAGE, window, keep=False)
    lease = begin(pages)
    for chunk in chunks("abcdef"):
        pages.append(lease, chunk, keep=True)
    views = pages.views(lease)
    assert pages.sliding.free == 5
    pages.slide(lease)
    assert (pages.full.free, pages.sliding.free) == (5, 8 - kept)
    assert pages.views(lease) == views
    pages.slide(lease)
    assert pages.sliding.free == 8 - kept


def test_a_window_of_nothing_is_seen_as_nothing() -> None:
    pages, lease = Pages(*ROOMY, PAGE, window=0), Lease((4, 4))
    assert pages.views(lease) == ((), ())
    pages.append(lease, (1, 2), keep=True)
    assert pages.views(lease)[1] == ()


# Reserving


def test_a_text_needs_a_full_page_a_chunk_and_sliding_pages_for_its_window_and_one_pass() -> None:
    assert Pages(*ROOMY, 4, window=9).need(chunks=20, chunks_a_pass=3) == (20, 8)  # 3 in the window, 2 cut, 3 a pass
    assert pages_needed(5, 3, page_tokens=4, window=9) == (5, 5)


def test_a_text_longer_than_a_pool_never_fits_and_one_as_long_does() -> None:
    pages = Pages(4, 3, PAGE, window=3)
    assert pages.fits((4, 3))
    assert not pages.fits((5, 3))
    assert not pages.fits((4, 4))


@pytest.mark.parametrize("need", [(3, 1), (1, 3)])
def test_nobody_gets_pages_that_others_reserved_whichever_pool_is_short(need: tuple[int, int]) -> None:
    pages = Pages(4, 4, PAGE, window=3)
    first = begin(pages, (2, 2))
    assert pages.lease(need) is None
    assert (pages.full.reserved, pages.sliding.reserved) == (2, 2)
    second = begin(pages, (2, 2))
    assert pages.lease((1, 0)) is None
    pages.end(first)
    third = begin(pages, (1, 1))
    assert (pages.full.reserved, pages.sliding.reserved) == (3, 3)
    pages.end(second)
    pages.end(third)
    assert_whole(pages)


def test_a_sequence_that_ends_early_returns_its_pages_and_all_that_it_reserved() -> None:
    pages = Pages(*ROOMY, PAGE, window=3, keep=False)
    lease = begin(pages, (8, 5))
    pages.append(lease, (1, 2), keep=True)
    pages.end(lease)
    assert (pages.full.free, pages.sliding.free) == ROOMY
    assert_whole(pages)


# Sharing


def test_an_equal_prefix_is_shared_page_by_page_and_counted() -> None:
    pages = Pages(*ROOMY, PAGE, window=3)
    first, second = begin(pages), begin(pages)
    numbers = [pages.append(first, chunk, keep=True) for chunk in chunks("abcdef")]
    assert pages.share_prefix(second, chunks("abcdxy")) == 2
    assert (pages.hit_tokens, second.encoded) == (4, 4)
    assert pages.views(second)[0] == tuple((full, 0, 2) for full, _ in numbers[:2])
    assert pages.views(second)[1] == ((numbers[0][1], 1, 2), (numbers[1][1], 0, 2))
    assert pages.full.free == 5  # nothing was taken
    pages.end(first)
    pages.end(second)
    assert_whole(pages)


def test_a_prefix_stays_when_the_sequence_that_computed_it_is_gone() -> None:
    pages = Pages(*ROOMY, PAGE, window=3)
    assert encode(pages, "abcdef") == 0
    assert encode(pages, "abcdef") == 3
    assert encode(pages, "abcd") == 2
    assert encode(pages, "abcdefgh") == 3
    assert pages.hit_tokens == 6 + 4 + 6


def test_another_beginning_is_not_shared_nor_an_equal_chunk_behind_it() -> None:
    pages = Pages(*ROOMY, PAGE, window=3)
    encode(pages, "abcd")
    assert encode(pages, "xycd") == 0
    assert encode(pages, "cd") == 0
    assert encode(pages, "abxycd") == 1


def test_a_chunk_cut_short_is_another_chunk() -> None:
    pages = Pages(*ROOMY, PAGE, window=3)
    encode(pages, "abc")
    assert encode(pages, "abcd") == 1
    assert encode(pages, "abc") == 2


def test_what_is_not_to_be_kept_is_not_shared_nor_is_anything_after_it() -> None:
    pages = Pages(*ROOMY, PAGE, window=3)
    lease = begin(pages, (4, 4))
    for chunk, keep in zip(chunks("abcdef"), (True, False, True), strict=True):
        pages.append(lease, chunk, keep)
    assert pages.share_prefix(lease, chunks("gh")) == 0
    pages.end(lease)
    assert encode(pages, "abef") == 1
    assert encode(pages, "abcdef") == 1


def test_a_text_that_begins_with_something_not_kept_never_takes_over_another_text() -> None:
    pages = Pages(*ROOMY, PAGE, window=3)
    encode(pages, "cd")
    lease = begin(pages)
    pages.append(lease, chunks("ab")[0], keep=False)
    assert pages.share_prefix(lease, chunks("cd")) == 0
    pages.append(lease, chunks("xy")[0], keep=True)
    assert encode(pages, "xy") == 0


def test_without_a_prefix_cache_nothing_is_shared_and_every_page_comes_back() -> None:
    pages = Pages(*ROOMY, PAGE, window=3, keep=False)
    for _ in range(3):
        assert encode(pages, "abcdef") == 0
    assert pages.hit_tokens == 0
    assert (pages.full.free, pages.sliding.free) == ROOMY


def test_a_prefix_is_shared_while_it_still_grows() -> None:
    pages = Pages(*ROOMY, PAGE, window=3)
    first, second = begin(pages), begin(pages)
    todo = chunks("abcdef")
    for chunk in todo:
        pages.append(first, chunk, keep=True)
        assert pages.share_prefix(second, list(todo)[second.encoded // PAGE :]) == 1
        pages.slide(first)
    assert pages.views(first) == pages.views(second)


# Forgetting


def test_when_memory_is_short_the_least_recently_used_prefix_is_forgotten() -> None:
    pages = Pages(3, 8, PAGE, window=3)
    for text in ("ab", "cd", "ef"):
        encode(pages, text)
    assert encode(pages, "ab") == 1  # used again, so cd is the oldest
    encode(pages, "xy")
    assert [encode(pages, text) for text in ("ab", "ef", "xy")] == [1, 1, 1]
    assert encode(pages, "cd") == 0


def test_a_prefix_computed_again_counts_as_used() -> None:
    pages = Pages(3, 2, PAGE, window=2)
    for text in ("ab", "cd", "ef"):
        encode(pages, text)  # the last one takes the sliding page of ab
    assert encode(pages, "ab") == 0
    encode(pages, "xy")  # takes the full page of cd
    assert encode(pages, "ab") == 1


def test_a_prefix_is_forgotten_from_its_end() -> None:
    pages = Pages(4, 8, PAGE, window=8)
    encode(pages, "abcdef")
    encode(pages, "uvxy")
    assert encode(pages, "abcdef") == 2


def test_a_prefix_in_use_is_not_forgotten() -> None:
    pages = Pages(3, 3, PAGE, window=8)
    reader = begin(pages, (2, 2))
    for chunk in chunks("abcd"):
        pages.append(reader, chunk, keep=True)
    for text in ("ef", "gh", "xy"):
        encode(pages, text)
    assert encode(pages, "ab") == 1
    assert pages.share_prefix(begin(pages, (0, 0)), chunks("abcd")) == 2


def test_sliding_pages_are_forgotten_first_and_the_full_pages_stay() -> None:
    pages = Pages(8, 3, PAGE, window=2)
    encode(pages, "abcdef")
    encode(pages, "xy")  # takes the sliding page of ab
    assert (pages.full.free, pages.sliding.free) == (4, 0)
    assert encode(pages, "abcdef") == 3  # only ef lies in the window


def test_a_prefix_whose_window_was_given_back_is_not_taken_over() -> None:
    pages = Pages(8, 3, PAGE, window=3)
    encode(pages, "abcdef")
    encode(pages, "xy")  # takes the sliding page of ab
    assert encode(pages, "ab") == 0  # and put it back: now cd's is gone
    assert encode(pages, "abcd") == 1


def test_a_prefix_is_taken_over_as_far_as_its_window_is_kept() -> None:
    pages = Pages(9, 4, PAGE, window=2)
    encode(pages, "abcdefgh")
    for text in ("st", "uv"):
        encode(pages, text)  # take the sliding pages of ab and cd
    assert pages.share_prefix(begin(pages, (0, 0)), chunks("abcdefxy")) == 3
    assert pages.share_prefix(begin(pages, (0, 0)), chunks("abcdxy")) == 0


def test_a_chunk_computed_again_takes_no_second_full_page() -> None:
    """Its sliding page was given back. Were its full page a second one, the first could not be forgotten: the rest of
    the prompt hangs on it, in use; and a sequence would run out of the pages it reserved."""
    pages = Pages(3, 3, PAGE, window=2)
    encode(pages, "ab")
    other = begin(pages, (0, 3))
    for page in [pages.sliding.take(PAGE) for _ in range(3)]:
        pages.sliding.release(page)
    pages.end(other)
    lease, memory, text = begin(pages), Memory(), ""
    assert pages.share_prefix(lease, chunks("abcdef")) == 0
    for chunk in chunks("abcdef"):
        memory.write(pages.append(lease, chunk, keep=True), text, chunk)
        text += letters(chunk)
    assert memory.read(pages.views(lease)) == seen("abcdef", 2)
    pages.end(lease)
    assert encode(pages, "abcdef") == 3
    assert_whole(pages)


# All of it at once


@dataclass
class Reader:
    """A text on its way into the pages, a few chunks a pass."""

    lease: Lease
    text: str
    prompt: deque[Chunk]
    canvases: deque[Chunk]

    @property
    def done(self) -> bool:
        return not self.prompt and not self.canvases

    def encode(self, pages: Pages, memory: Memory, tiles: int) -> None:
        pages.slide(self.lease)
        for _ in range(pages.share_prefix(self.lease, self.prompt)):
            self.prompt.popleft()
        for _ in range(tiles):
            if not self.done:
                keep = bool(self.prompt)
                chunk = (self.prompt or self.canvases).popleft()
                before = self.text[: self.lease.encoded]
                memory.write(pages.append(self.lease, chunk, keep), before, chunk)

    def check(self, pages: Pages, memory: Memory) -> None:
        lease = self.lease
        assert memory.read(pages.views(lease)) == seen(self.text[: lease.encoded], pages.window)
        assert len(lease.full) <= lease.need[0]
        assert len(lease.sliding) <= lease.need[1]


def start(pages: Pages, prompt: str, canvases: str, tiles: int) -> Reader | None:
    todo = chunks(prompt), chunks(canvases)
    lease = pages.lease(pages.need(sum(map(len, todo)), tiles))
    return Reader(lease, prompt + canvases, *todo) if lease else None


PROMPTS = st.builds(
    lambda common, own: "a" * common + "b" + own, st.sampled_from([0, 1, 3, 7, 11]), st.text("ab", max_size=6)
)  # much in common, and long beside the pools


@settings(max_examples=400)
@given(
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 6)),
    window=st.integers(0, 5),
    tiles=st.integers(1, 3),
    keep=st.sampled_from([True, True, True, False]),
    texts=st.lists(st.tuples(PROMPTS, st.sampled_from(["", "ab", "aabb"])), min_size=3, max_size=16),
    moves=st.lists(st.tuples(st.integers(0, 7), st.sampled_from(["start", "encode", "encode", "end"])), max_size=60),
)
def test_every_text_sees_itself_whatever_the_others_do_and_no_page_is_lost(
    sizes: tuple[int, int],
    window: int,
    tiles: int,
    keep: bool,
    texts: list[tuple[str, str]],
    moves: list[tuple[int, str]],
) -> None:
    pages, memory = Pages(*sizes, PAGE, window, keep), Memory()
    waiting, reading, turns = deque(texts), list[Reader](), iter(moves)
    while waiting or reading:
        choice, move = next(turns, (0, "start" if not reading else "encode" if not reading[0].done else "end"))
        if move == "start" and waiting:
            prompt, canvases = waiting.popleft()
            if pages.fits(pages.need(len(chunks(prompt)) + len(chunks(canvases)), tiles)):
                reader = start(pages, prompt, canvases, tiles)
                assert reader or reading, "nothing is leased, and still there is no room"
                if reader:
                    reading.append(reader)
                else:
                    waiting.append((prompt, canvases))
        elif move == "encode" and reading:
            reading[choice % len(reading)].encode(pages, memory, tiles)
        elif move == "end" and reading:
            pages.end(reading.pop(choice % len(reading)).lease)
        for reader in reading:
            reader.check(pages, memory)
        for pool, number in ((pages.full, 0), (pages.sliding, 1)):
            assert pool.reserved == sum(reader.lease.need[number] for reader in reading) <= pool.size
    assert pages.hit_tokens == 0 or keep
    assert_whole(pages)


def test_ten_thousand_sequences_through_a_small_pool_leave_it_whole() -> None:
    rng = random.Random(0)
    pages, memory, reading = Pages(24, 16, PAGE, window=3), Memory(), deque[Reader]()
    for _ in range(10_000):
        prompt = rng.choice(("", "aaaa", "aaaabb", "cccc")) + "".join(rng.choices("abc", k=rng.randint(1, 5)))
        while (reader := start(pages, prompt, "ab" * rng.randint(0, 2), 2)) is None:
            done = reading.popleft()
            done.encode(pages, memory, 2)
            done.check(pages, memory)
            pages.end(done.lease)
        reading.append(reader)
        reader.encode(pages, memory, 2)
        reader.check(pages, memory)
    for reader in reading:
        pages.end(reader.lease)
    assert pages.hit_tokens > 10_000
    assert_whole(pages)
