"""Which tiles share a pass: first come first served, no canvas waits for another, nothing is encoded twice."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from dgbatch.engine.pages import Pages
from dgbatch.engine.scheduler import Scheduler, Tile
from dgbatch.engine.sequence import Sequence, chunks_of
from dgbatch.records import Prompt, Settings
from tests.engine.test_pages import Memory, assert_whole, letters, seen

CANVAS = 4
END = ord("$")
SETTINGS = Settings(CANVAS, 8, 0.1, 0.8, 0.4, 0.005, 1)


def sequence(name: str, text: str = "", canvases: int = 1) -> Sequence:
    """One whose prompt is this text, or a canvas's length of its name; it may generate so many canvases."""
    prompt_ids = [ord(letter) for letter in text or name * CANVAS]
    return Sequence(
        prompt=Prompt(name, 0, (), 0),
        settings=replace(SETTINGS, max_new_tokens=CANVAS * canvases),
        prompt_ids=prompt_ids,
        end_ids=frozenset({END}),
        pending=chunks_of(prompt_ids, CANVAS),
    )


def make(
    *sequences: Sequence, canvases: int = 8, prefill_tiles: int = 2, fold: bool = True, pages: Pages | None = None
) -> Scheduler:
    """A scheduler with these waiting, and more memory than they need unless told otherwise."""
    scheduler = Scheduler(pages or Pages(99, 99, CANVAS, window=6), canvases, CANVAS, prefill_tiles, fold)
    scheduler.waiting.extend(sequences)
    return scheduler


def next_pass(scheduler: Scheduler) -> list[str]:
    """Who goes into flight if there is room, then the tiles in order: `a:text` encodes, `a` is a canvas."""
    scheduler.admit()
    return told(scheduler.plan())


def told(tiles: Many[Tile]) -> list[str]:
    return [
        f"{tile.sequence.prompt.id}:{letters(tile.chunk)}" if tile.causal else tile.sequence.prompt.id for tile in tiles
    ]


def settle(scheduler: Scheduler, one: Sequence, canvas: str) -> None:
    """As the engine does it: a canvas that ends nothing is clean text for the next one."""
    ids = [ord(letter) for letter in canvas]
    one.emit(ids)
    if one.finish:
        scheduler.retire(one)
    else:
        one.pending.append(tuple(ids))


def names(sequences: Many[Sequence]) -> list[str]:
    return [one.prompt.id for one in sequences]


# Who is in flight


def test_sequences_take_the_free_places_in_the_order_they_came() -> None:
    scheduler = make(*map(sequence, "abcde"), canvases=3)
    assert names(scheduler.admit()) == ["a", "b", "c"]
    assert scheduler.admit() == []
    assert sorted(one.slot for one in scheduler.flight) == [0, 1, 2]
    assert names(scheduler.waiting) == ["d", "e"]


def test_a_finished_sequence_leaves_at_once_and_the_next_one_takes_its_place() -> None:
    scheduler = make(*map(sequence, "abc"), canvases=2)
    scheduler.admit()
    a, b = scheduler.flight
    slot = b.slot
    next_pass(scheduler)
    settle(scheduler, b, "yes$")
    assert names(scheduler.flight) == ["a"]
    assert names(scheduler.admit()) == ["c"]
    assert scheduler.flight[-1].slot == slot
    assert a.slot != slot


def test_a_sequence_that_goes_on_keeps_its_place() -> None:
    scheduler = make(sequence("a", canvases=2), sequence("b"), canvases=1)
    scheduler.admit()
    (a,) = scheduler.flight
    next_pass(scheduler)
    settle(scheduler, a, "more")
    assert next_pass(scheduler) == ["a:more", "a"]
    assert names(scheduler.flight) == ["a"]


def test_room_is_what_is_free_and_not_waited_for() -> None:
    scheduler = make(canvases=3)
    assert (scheduler.room, scheduler.idle) == (3, True)
    scheduler.waiting.append(sequence("a"))
    assert (scheduler.room, scheduler.idle) == (2, False)
    scheduler.admit()
    assert (scheduler.room, scheduler.idle) == (2, False)
    scheduler.waiting.extend(map(sequence, "bcde"))
    assert scheduler.room == 0
    scheduler.waiting.clear()
    scheduler.retire(scheduler.flight[0])
    assert (scheduler.room, scheduler.idle) == (3, True)


def test_a_sequence_needs_pages_for_its_prompt_and_all_canvases_but_the_last() -> None:
    scheduler = make(pages=Pages(99, 99, CANVAS, window=6), prefill_tiles=2)
    assert scheduler.need(sequence("a", "0123")) == (1, 1)
    assert scheduler.need(sequence("a", "01234", canvases=3)) == (4, 4)
    one = sequence("a", "0123" * 9)
    assert scheduler.need(one) == (9, 6)  # of the sliding pages 2 in the window, 2 cut, and 2 of the next pass
    one.settings = replace(SETTINGS, max_new_tokens=CANVAS + 1)
    assert scheduler.need(one) == (10, 6)


def test_one_without_memory_waits_and_those_behind_it_wait_too() -> None:
    pages = Pages(4, 4, CANVAS, window=6)
    scheduler = make(sequence("a"), sequence("b", "b" * 16), sequence("c"), pages=pages)
    assert names(scheduler.admit()) == ["a"]
    assert names(scheduler.waiting) == ["b", "c"]
    assert scheduler.waiting[0].lease is None
    assert scheduler.admit() == []
    scheduler.retire(scheduler.flight[0])
    assert names(scheduler.admit()) == ["b"]
    scheduler.retire(scheduler.flight[0])
    assert names(scheduler.admit()) == ["c"]


def test_retiring_in_the_middle_of_a_prompt_frees_its_pages_and_its_place() -> None:
    pages = Pages(4, 4, CANVAS, window=6)
    scheduler = make(sequence("a", "a" * 16), canvases=1, prefill_tiles=1, pages=pages)
    assert next_pass(scheduler) == ["a:aaaa"]
    assert pages.full.reserved == 4
    scheduler.retire(scheduler.flight[0])
    assert (scheduler.idle, scheduler.room) == (True, 1)
    assert_whole(pages)


# What shares a pass


def test_a_canvas_runs_in_the_pass_that_encodes_what_comes_before_it() -> None:
    scheduler = make(sequence("a", "01234567", canvases=2))
    assert next_pass(scheduler) == ["a:0123", "a:4567", "a"]
    assert next_pass(scheduler) == ["a"]
    settle(scheduler, scheduler.flight[0], "more")
    assert next_pass(scheduler) == ["a:more", "a"]
    assert next_pass(scheduler) == ["a"]


def test_without_folding_a_canvas_runs_one_pass_later() -> None:
    scheduler = make(sequence("a", "01234567", canvases=2), fold=False)
    assert next_pass(scheduler) == ["a:0123", "a:4567"]
    assert next_pass(scheduler) == ["a"]
    settle(scheduler, scheduler.flight[0], "more")
    assert next_pass(scheduler) == ["a:more"]
    assert next_pass(scheduler) == ["a"]


def test_without_folding_a_canvas_waits_for_pages_that_another_fills_in_the_same_pass() -> None:
    scheduler = make(sequence("a", "same"), sequence("b", "same"), fold=False)
    assert next_pass(scheduler) == ["a:same"]
    assert next_pass(scheduler) == ["a", "b"]


def test_a_long_prompt_goes_in_a_few_tiles_a_pass_and_leaves_room_for_those_behind_it() -> None:
    scheduler = make(sequence("a"), sequence("b", "b123" * 5), sequence("c"))
    assert next_pass(scheduler) == ["a:aaaa", "b:b123", "a"]
    assert next_pass(scheduler) == ["b:b123", "c:cccc", "a", "c"]
    assert next_pass(scheduler) == ["b:b123", "b:b123", "a", "c"]
    assert next_pass(scheduler) == ["b:b123", "a", "b", "c"]


def test_what_encodes_comes_before_every_canvas() -> None:
    scheduler = make(*map(sequence, "abc"), prefill_tiles=3)
    assert next_pass(scheduler) == ["a:aaaa", "b:bbbb", "c:cccc", "a", "b", "c"]


def test_settled_canvases_are_encoded_whatever_prompts_take() -> None:
    both = sequence("b", canvases=2), sequence("c", canvases=2)
    scheduler = make(sequence("a", "a123" * 4), *both, prefill_tiles=1)
    while both[1].pending:
        next_pass(scheduler)
    scheduler.waiting.append(sequence("d", "d123" * 2))
    for one in both:
        settle(scheduler, one, "more")
    assert next_pass(scheduler) == ["b:more", "c:more", "d:d123", "a", "b", "c"]


def test_a_settled_canvas_is_encoded_in_a_pass_whose_prompts_take_all_they_may() -> None:
    scheduler = make(sequence("b", "same"))
    next_pass(scheduler)
    settle(scheduler, scheduler.flight[0], "end$")
    scheduler.waiting.extend([sequence("a", "a123" * 9), sequence("b", "same", canvases=2)])
    assert next_pass(scheduler) == ["a:a123", "b"]
    settle(scheduler, scheduler.flight[1], "more")
    assert next_pass(scheduler) == ["a:a123", "a:a123", "b:more", "b"]


def test_sliding_pages_are_given_back_as_the_window_moves_on_through_a_long_prompt() -> None:
    pages = Pages(99, 99, CANVAS, window=6, keep=False)
    scheduler = make(sequence("a", "0123" * 6), prefill_tiles=1, pages=pages)
    held_pages = []
    for _ in range(7):
        next_pass(scheduler)
        held_pages.append((99 - pages.full.free, 99 - pages.sliding.free))
    assert held_pages == [(1, 1), (2, 2), (3, 3), (4, 3), (5, 3), (6, 3), (6, 2)]


def test_a_tile_sees_the_pages_of_its_own_text_before_it() -> None:
    scheduler = make(sequence("a", "0123456789"), prefill_tiles=3)
    scheduler.admit()
    first, second, third, canvas = scheduler.plan()
    pages = [tile.pages[0] for tile in (first, second, third)]
    assert [(tile.start, tile.rows) for tile in (first, second, third, canvas)] == [(0, 4), (4, 4), (8, 2), (10, 4)]
    assert (first.full, second.full) == ((), ((pages[0], 0, 4),))
    assert canvas.full == ((pages[0], 0, 4), (pages[1], 0, 4), (pages[2], 0, 2))
    assert [end - begin for _, begin, end in canvas.sliding] == [4, 2]
    assert canvas.pages == (-1, -1)


# Shared prefixes


def test_a_prompt_that_begins_alike_encodes_only_what_differs() -> None:
    scheduler = make(sequence("a", "samesamea"), sequence("b", "samesameb"), prefill_tiles=9)
    assert next_pass(scheduler) == ["a:same", "a:same", "a:a", "b:b", "a", "b"]


def test_a_prompt_equal_to_one_before_it_encodes_nothing() -> None:
    scheduler = make(sequence("a", "sametext"), canvases=1)
    next_pass(scheduler)
    settle(scheduler, scheduler.flight[0], "end$")
    scheduler.waiting.append(sequence("b", "sametext"))
    assert next_pass(scheduler) == ["b"]


def test_shared_chunks_cost_nothing_of_what_prompts_may_take_in_a_pass() -> None:
    scheduler = make(sequence("a", "samesame"), sequence("b", "samesamesame"), prefill_tiles=2)
    assert next_pass(scheduler) == ["a:same", "a:same", "a"]
    assert next_pass(scheduler) == ["b:same", "a", "b"]


def test_settled_canvases_are_not_kept_for_other_prompts() -> None:
    scheduler = make(sequence("a", "text", canvases=2))
    next_pass(scheduler)
    settle(scheduler, scheduler.flight[0], "more")
    assert next_pass(scheduler) == ["a:more", "a"]
    scheduler.waiting.append(sequence("b", "textmore"))
    assert next_pass(scheduler) == ["b:more", "a", "b"]


def test_nothing_is_taken_over_in_the_middle_of_a_pass() -> None:
    """It moves the window on: pages that this pass still sees would go to whoever asks next, in the same pass."""
    pages = Pages(4, 4, CANVAS, window=2 * CANVAS)
    for text in ("0000111122223333", "00001111"):
        scheduler = make(sequence("a", text), prefill_tiles=4, pages=pages)
        next_pass(scheduler)
        settle(scheduler, scheduler.flight[0], "end$")
    pages.sliding.release(pages.sliding.take(CANVAS))  # that of 2222, the least recently used
    scheduler = make(sequence("a", "0000111122223333"), prefill_tiles=1, pages=pages)
    scheduler.admit()
    tiles = scheduler.plan()
    assert told(tiles) == ["a:2222"]
    assert all(map(held, tiles))
    assert next_pass(scheduler) == ["a"]
    assert pages.hit_tokens == 8 + 12


# All of it at once


def held(tile: Tile) -> bool:
    """Whether all pages that a tile sees are its sequence's own, so that nobody takes them before the pass is over."""
    lease = tile.sequence.lease
    assert lease
    full, sliding = ({page.number for page in pages} for pages in (lease.full, lease.sliding))
    return full.issuperset(p for p, _, _ in tile.full) and sliding.issuperset(p for p, _, _ in tile.sliding)


PROMPTS = st.builds(  # few, so that many are equal or begin alike
    lambda common, own: "a" * common + own,
    st.sampled_from([1, 3, 8, 12]),
    st.sampled_from(["", "b", "bbbb", "bbaabba"]),
)


@settings(max_examples=400)
@given(
    sizes=st.tuples(st.integers(3, 12), st.integers(3, 7)),
    window=st.integers(0, 9),
    canvases=st.integers(1, 4),
    prefill_tiles=st.integers(1, 4),
    fold=st.booleans(),
    keep=st.sampled_from([True, True, True, False]),
    prompts=st.lists(st.tuples(PROMPTS, st.integers(1, 3)), min_size=3, max_size=14),
    settling=st.lists(st.sampled_from(["", "", "aaaa", "abab", "end$"]), max_size=80),
)
def test_every_text_is_encoded_once_in_order_and_every_tile_sees_exactly_what_is_before_it(
    sizes: tuple[int, int],
    window: int,
    canvases: int,
    prefill_tiles: int,
    fold: bool,
    keep: bool,
    prompts: list[tuple[str, int]],
    settling: list[str],
) -> None:
    pages, memory = Pages(*sizes, CANVAS, window, keep), Memory()
    scheduler = make(canvases=canvases, prefill_tiles=prefill_tiles, fold=fold, pages=pages)
    texts = {f"{number}": text for number, (text, _) in enumerate(prompts)}
    source = [sequence(name, text, most) for (name, text), (_, most) in zip(texts.items(), prompts, strict=True)]
    source = [one for one in source if pages.fits(scheduler.need(one))]
    came, encoded, shared, events = names(source), dict.fromkeys(texts, 0), 0, iter(settling)
    admitted: list[str] = []
    for _ in range(1000):
        while source and scheduler.room:
            scheduler.waiting.append(source.pop(0))
        admitted += names(scheduler.admit())
        flight = list(scheduler.flight)
        assert len({one.slot for one in flight}) == len(flight) <= canvases
        assert {one.slot for one in flight} <= set(range(canvases))
        waited = {one for one in flight if one.pending}
        tiles = scheduler.plan()
        encoding = [tile for tile in tiles if tile.causal]
        assert tiles[: len(encoding)] == encoding
        assert sum(not tile.sequence.canvas for tile in encoding) <= prefill_tiles
        for tile in encoding:  # a pass writes all its pages before anyone looks
            name, chunk = tile.sequence.prompt.id, letters(tile.chunk)
            gap = tile.start - encoded[name]
            assert gap >= 0
            assert not gap or not tile.sequence.canvas
            shared += gap
            encoded[name] = tile.start + len(chunk)
            assert texts[name][tile.start : encoded[name]] == chunk
            memory.write(tile.pages, texts[name][: tile.start], tile.chunk)
        denoised = [tile.sequence for tile in tiles if not tile.causal]
        for tile in tiles:
            text = texts[tile.sequence.prompt.id]
            if not tile.causal:
                assert tile.start == len(text)
                shared += tile.start - encoded[tile.sequence.prompt.id]
                encoded[tile.sequence.prompt.id] = tile.start
            assert memory.read((tile.full, tile.sliding)) == seen(text[: tile.start], window)
            assert held(tile)
        for one in flight:
            assert one.lease
            assert len(one.lease.full) <= one.lease.need[0]
            assert len(one.lease.sliding) <= one.lease.need[1]
        ready = [one for one in flight if not one.pending and (fold or one not in waited)]
        assert denoised == ready, "each canvas runs as soon as its text is encoded, and runs in every pass"
        for one in denoised:
            canvas = next(events, "end$")
            if canvas:
                texts[one.prompt.id] += canvas
                settle(scheduler, one, canvas)
        if not source and scheduler.idle:
            break
        assert tiles or waited, "nothing runs, and somebody waits"
    assert not source
    assert scheduler.idle
    assert admitted == came
    assert shared == pages.hit_tokens
    assert_whole(pages)
