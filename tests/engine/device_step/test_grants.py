"""What the host gives ahead of time, step by step: pages for prompts, and for canvases that have not settled yet."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dgbatch.engine.device_step.grants import AHEAD, NEAR, Grants, Turn
from dgbatch.engine.pages import Pages
from dgbatch.engine.scheduler import Scheduler
from dgbatch.engine.sequence import Sequence, chunks_of
from tests.engine import tiny

C, WINDOW = 8, 11


class Flight:
    """A scheduler, pages, and the grants for whoever is in flight."""

    def __init__(self, canvases: int = 3, prefill_tiles: int = 4, pages: int = 60, share: bool = True):
        self.pages = Pages(pages, pages, C, WINDOW, share, AHEAD)
        self.scheduler = Scheduler(self.pages, canvases, C, prefill_tiles)
        self.grants = Grants(self.pages, C, fold=True)

    def board(self, ids: list[int], **settings: object) -> Sequence:
        own = tiny.settings(**({"max_new_tokens": 5 * C} | settings))
        one = Sequence(tiny.prompt(len(ids)), own, ids, frozenset(), chunks_of(ids, C))
        self.scheduler.waiting.append(one)
        (admitted,) = self.scheduler.admit()
        self.grants.admit(admitted)
        return admitted

    def turn(self) -> Turn:
        return self.grants.turn(self.scheduler)


def test_a_prompt_gets_its_pages_chunk_by_chunk_and_its_canvases_two_ahead() -> None:
    flight = Flight(prefill_tiles=2)
    one = flight.board([*range(29)])  # 8, 8, 8 and 5 tokens
    first = flight.turn()
    (grant,) = first.grants
    assert (grant.slot, grant.first, len(grant.pages), grant.granted) == (one.slot, 0, 2, 2)
    assert grant.encoded == (0, 0)
    assert (first.prompt_tiles, first.prompt_tokens, first.canvases) == (2, 16, [])
    second = flight.turn()
    (grant,) = second.grants
    assert (grant.first, len(grant.pages), grant.granted) == (2, 4, 6)  # two of the prompt, and for two canvases
    assert grant.encoded == (2, 16)
    assert (second.prompt_tiles, second.prompt_tokens, second.canvases) == (2, 13, [one])
    assert flight.turn().grants == []


def test_every_canvas_that_comes_into_a_page_gets_one_more_granted_but_for_the_last() -> None:
    """Five canvases: the fifth ends the text and is never encoded."""
    flight = Flight()
    one = flight.board([1, 2, 3])
    assert flight.turn().grants[0].granted == 1 + 2
    granted = []
    for committed in range(5):
        one.step = 3
        encoded = 3 + committed * C
        assert flight.grants.told(one, encoded, settled=False, mean_entropy=1.0) == (1 if committed else 0)
        granted += [grant.granted for grant in flight.turn().grants]
    assert granted == [4, 5]
    assert len(one.lease.full) == 1 + 4  # type: ignore[union-attr]


def test_pages_of_a_prompt_that_others_have_computed_count_as_encoded() -> None:
    flight = Flight()
    flight.board([*range(24)])
    flight.turn()
    flight.board([*range(16), 99, 98])
    (grant,) = flight.turn().grants
    assert grant.encoded == (2, 16)
    assert (grant.first, grant.granted) == (0, 3 + AHEAD)
    first, second = flight.scheduler.flight
    assert first.lease and second.lease
    assert [page.number for page in first.lease.full[:2]] == [full for full, _ in grant.pages[:2]]


def test_a_chunk_is_shared_in_the_very_pass_that_computes_it_so_that_pass_has_room_for_all_that_may_be() -> None:
    flight = Flight(canvases=2)
    for _ in range(2):
        flight.board([*range(24)])
    turn = flight.turn()
    assert turn.prompt_tiles == 3
    assert [grant.encoded for grant in turn.grants] == [(0, 0), (3, 24)]
    assert turn.tiles >= 3 + 2 + 2  # two canvases, and each might settle and begin another


def test_a_page_behind_the_window_of_the_next_row_is_nobodys_and_said_as_page_0() -> None:
    flight = Flight(prefill_tiles=1, pages=60)
    flight.board([*range(80)])
    for _ in range(10):
        flight.turn()
    flight.board([*range(80), 5])
    (grant,) = flight.turn().grants
    assert grant.encoded == (10, 80)
    window = WINDOW + AHEAD * C  # what a row at 80 sees, and what it saw two canvases earlier
    behind = (80 - window) // C
    assert [sliding for _, sliding in grant.pages[:behind]] == [0] * behind
    assert all(sliding == flight_page for (_, sliding), flight_page in zip(
        grant.pages[behind:10], [page.number for page in flight.scheduler.flight[1].lease.sliding], strict=False,  # type: ignore[union-attr]
    ))  # fmt: skip


def test_a_canvas_is_near_its_end_by_its_entropy_its_steps_or_because_it_settled() -> None:
    flight = Flight(canvases=1)
    one = flight.board([1, 2], confidence=0.01, max_denoising_steps=9)
    flight.turn()

    def room(step: int, settled: bool, mean_entropy: float) -> int:
        one.step = step
        flight.grants.told(one, 2, settled, mean_entropy)
        return flight.turn().tiles

    assert room(3, False, 1.0) == 1
    assert room(3, False, 0.99 * NEAR * 0.01) == 2
    assert room(3, False, float("inf")) == 1
    assert room(0, True, 1.0) == 2
    assert room(9 - AHEAD, False, 1.0) == 2


def test_a_canvas_of_very_few_steps_has_room_from_the_start() -> None:
    flight = Flight(canvases=1)
    flight.board([1, 2], max_denoising_steps=1)
    assert flight.turn().tiles >= 1 + 1 + 1
    assert flight.turn().tiles == 2


@given(
    prompts=st.lists(st.integers(1, 70), min_size=1, max_size=3),
    prefill_tiles=st.integers(1, 4),
    lag=st.integers(0, 3),
    settles=st.lists(st.booleans(), min_size=40, max_size=40),
)
def test_no_page_is_given_away_that_a_row_still_sees(
    prompts: list[int], prefill_tiles: int, lag: int, settles: list[bool]
) -> None:
    """A device that settles a canvas now and then, told of `lag` passes late; pages just enough for these sequences."""
    sequences = []
    need = [0, 0]
    measure = Pages(1, 1, C, WINDOW, True, AHEAD)
    for tokens in prompts:
        own = measure.need(-(-tokens // C) + 4, prefill_tiles)
        need = [need[0] + own[0], need[1] + own[1]]
    flight = Flight(canvases=len(prompts), prefill_tiles=prefill_tiles, share=False)
    flight.pages = Pages(need[0], need[1], C, WINDOW, False, AHEAD)
    flight.scheduler._pages = flight.grants._pages = flight.pages
    for number, tokens in enumerate(prompts):
        sequences.append(flight.board([number + 10 * place for place in range(tokens)]))
    table: dict[Sequence, list[tuple[int, int]]] = {one: [] for one in sequences}
    holds: list[dict[int, tuple[Sequence, int]]] = [{}, {}]  # of both pools: what was last written where
    encoded = dict.fromkeys(sequences, 0)
    chunks = dict.fromkeys(sequences, 0)
    text = {one: len(one.prompt_ids) for one in sequences}
    unread: list[dict[Sequence, int]] = []
    for settle in settles:
        turn = flight.turn()
        by_slot = {one.slot: one for one in sequences}
        for grant in turn.grants:
            one = by_slot[grant.slot]
            assert grant.first == len(table[one])
            table[one] += grant.pages
            if grant.encoded is not None:
                assert grant.encoded == (chunks[one], encoded[one])  # the host knows how far a prompt is
        seen = []  # all keys and values of a pass are written before anybody looks
        for one in sequences:  # what plan_tiles and attend do
            while chunks[one] < len(table[one]) and encoded[one] < text[one]:
                start = encoded[one]
                end = min(start + C, len(one.prompt_ids)) if start < len(one.prompt_ids) else start + C
                for pool in range(2):
                    holds[pool][table[one][chunks[one]][pool]] = one, chunks[one]
                seen.append((one, start, chunks[one]))
                chunks[one] += 1
                encoded[one] = end
            if encoded[one] == text[one]:
                seen.append((one, text[one], chunks[one]))
                if settle and text[one] < len(one.prompt_ids) + 4 * C:
                    text[one] += C
        for one, start, before in seen:
            look_back(one, start, table[one], before, holds)
        unread.append(dict(encoded))
        if len(unread) > lag:
            for one, tokens in unread.pop(0).items():
                flight.grants.told(one, tokens, False, 1.0)
    for one in sequences:
        assert one.lease
        assert len(one.lease.full) <= one.lease.need[0]
        assert len(one.lease.sliding) <= one.lease.need[1]


def look_back(
    one: Sequence, start: int, table: list[tuple[int, int]], chunks: int, holds: list[dict[int, tuple[Sequence, int]]]
) -> None:
    """A row at `start` finds its own text in the pages of the chunks before it, as far back as its layers see."""
    prompt = len(one.prompt_ids)
    of_prompt = -(-prompt // C)
    for chunk in range(chunks):
        end = min((chunk + 1) * C, prompt) if chunk < of_prompt else prompt + (chunk + 1 - of_prompt) * C
        assert holds[0][table[chunk][0]] == (one, chunk)
        if end > start - WINDOW:
            assert holds[1][table[chunk][1]] == (one, chunk)
