"""Two runs side by side, made without an engine: what of them is the same, and what is not."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest

from dgbatch.errors import OutputError
from dgbatch.runner.pages import row_difference as rows
from dgbatch.runner.pages.comparison import Measure, change, compare, number
from dgbatch.runner.pages.row_difference import RowDifference
from dgbatch.runner.run_folder import Run
from dgbatch.runner.sums import NOTHING
from tests.runner.conftest import make_job, prompts
from tests.runner.small_run import commit_all, completion, new_run, write_attempt

__all__ = ["make_job"]

SETTINGS = ("input.id=id", "workers.shard_rows=4", "accept.rules=[{equals: answer}]")


@pytest.fixture
def make(make_job):
    """A run in a folder of this name, of the job with these overrides, nothing committed."""

    def made(name: str, *overrides: str, table: pa.Table | None = None) -> Run:
        table = prompts(10) if table is None else table
        return new_run(make_job(table, f"output.path={name}", *SETTINGS, *overrides))

    return made


def test_two_runs_of_one_job_agree(make):
    found = compare(commit_all(make("a")), commit_all(make("b")))
    assert replace(found.rows, ids=("", "")) == RowDifference(
        both=10, same=10, same_text=0, different=0, only_a=0, only_b=0, only_a_lost=0, only_b_lost=0, accepted_both=10,
        accepted_a=0, accepted_b=0, accepted_none=0,
    )  # fmt: skip
    assert found.rows.agree and not found.nothing_in_common
    assert (found.deciding, found.other, found.input, found.model) == ((), (), (), ())


def test_rows_are_counted_by_what_became_of_them(make):
    a = commit_all(make("a"), bad=lambda row_id: row_id == "r8")
    b = make("b")
    first, second, third = b.plan.shards
    assert b.commit(write_attempt(b, first))
    assert b.commit(write_attempt(b, second, text="wrong"))
    assert b.commit(write_attempt(b, third, bad=lambda row_id: row_id == "r9"))
    found = compare(a, b).rows
    assert (found.both, found.same, found.different, found.same_text) == (8, 4, 4, 0)
    assert (found.only_a, found.only_a_lost, found.only_b, found.only_b_lost) == (1, 1, 1, 1)
    assert (found.accepted_both, found.accepted_a, found.accepted_b, found.accepted_none) == (4, 4, 0, 0)
    assert not found.agree
    example = found.examples[0]
    assert example.id in {"r4", "r5", "r6", "r7"} and (example.a.text, example.b.text) == (example.id[1:], "wrong")
    assert (example.a.accepted, example.b.accepted) == (True, False)
    assert {each.id for each in found.examples} == {"r4", "r5", "r6", "r7"}
    assert len(compare(a, b, examples=2).rows.examples) == 2


def test_same_text_from_other_tokens_is_told_apart(make, monkeypatch):
    a = commit_all(make("a"))
    monkeypatch.setattr("tests.runner.small_run.completion", _other_tokens)
    found = compare(a, commit_all(make("b"))).rows
    assert (found.same, found.same_text, found.different) == (0, 10, 0)
    assert len(found.examples) == 5


def _other_tokens(*arguments):
    return replace(completion(*arguments), token_ids=(9, 9, 1))


def test_samples_are_rows_of_their_own(make):
    a, b = (commit_all(make(name, "generation.samples=2")) for name in ("a", "b"))
    assert compare(a, b).rows.same == 20


def test_runs_without_a_common_id_say_so_and_how_rows_are_matched(make):
    a = commit_all(make("a"))
    table = prompts(3).set_column(0, "id", pa.array(["x1", "x2", "x3"]))
    found = compare(a, commit_all(make("b", table=table)))
    assert (found.rows.both, found.rows.only_a, found.rows.only_b) == (0, 10, 3)
    assert found.nothing_in_common == (
        "No id is in both runs, so no row can be compared: A has rows like 'r0', B like 'x1'. Rows are matched by the "
        "column that input.id names, and their sample."
    )
    assert found.input[0] == "input file in.parquet"


def test_run_that_is_not_complete_is_compared_as_far_as_it_is(make):
    a, b, empty = commit_all(make("a")), make("b"), make("empty")
    b.commit(write_attempt(b, b.plan.shards[0]))
    found = compare(a, b)
    assert found.b.caution == "is not complete (failed): 4 of 10 rows are committed, and only they are compared"
    assert (found.rows.both, found.rows.only_a) == (4, 6)
    assert compare(a, empty).nothing_in_common == f"{empty.path} has no completed rows yet, so no row can be compared."


def test_runs_of_other_columns_formats_and_rules_are_compared_all_the_same(make):
    a = commit_all(make("a", "output.columns=[n]"))
    b = commit_all(make("b", "output.format=arrow", "output.metrics=true", "accept=null"))
    found = compare(a, b)
    assert (found.rows.both, found.rows.different) == (10, 0)
    assert found.rows.accepted_both + found.rows.accepted_a + found.rows.accepted_none == 0
    accepted = next(each for each in found.quality if each.name == "accepted")
    assert (accepted.a, accepted.b, accepted.change) == (1.0, None, None)
    assert {path for path, _, _ in found.deciding} == {
        "output.format", "output.columns", "output.metrics", "accept.rules",
    }  # fmt: skip


def test_settings_that_decide_and_those_that_do_not_are_kept_apart(make):
    a = commit_all(make("a"))
    b = commit_all(make("b", "generation.seed=7", "workers.canvases=2", "name=other"))
    found = compare(a, b)
    assert found.deciding == (("generation.seed", 0, 7),)
    assert found.other == (("workers.canvases", "auto", 2),)
    b.note_model("other")
    assert compare(a, b).model == (("checksum of the model", "m", "other"),)


def test_quality_has_codes_finish_reasons_and_speed_its_time_shares(make):
    a = commit_all(make("a"), bad=lambda row_id: row_id in ("r1", "r2"))
    b = commit_all(make("b"))
    b.event("worker_stats", worker="w0", seconds={"denoise": 6.0, "load": 2.0})
    b.event("worker_stats", worker="w1", seconds={"denoise": 2.0})
    found = compare(a, b)
    quality = {each.name: (each.a, each.b) for each in found.quality}
    assert quality["rows completed"] == (8, 10)
    assert quality["in quarantine"] == (2, 0)
    assert quality["ended by end_of_turn"] == (1.0, 1.0)
    assert quality["accepted"] == (1.0, 1.0)
    speed = {each.name: (each.a, each.b) for each in found.speed}
    assert speed["time in denoise"] == (None, 0.8)
    assert speed["steps per canvas"] == (3.0, 3.0)
    assert speed["tokens per second"][0] > 0


@pytest.mark.parametrize(
    ("measure", "said", "verdict"),
    [
        (Measure("x", 0.5, 0.6, "share", 1), "+10.0 pts", "better"),
        (Measure("x", 100.0, 80.0, better=1), "-20.0 %", "worse"),
        (Measure("x", 100.0, 80.0, better=-1), "-20.0 %", "better"),
        (Measure("x", 0, 5, "count", -1), "+5", "worse"),
        (Measure("x", 3, 3, "count", -1), "", ""),
        (Measure("x", None, 3, better=1), "-", ""),
        (Measure("x", 1.0, 2.0), "+100.0 %", ""),
    ],
)
def test_change_is_in_points_or_in_hundredths_and_is_judged_where_it_can_be(measure, said, verdict):
    assert (change(measure), measure.verdict) == (said, verdict)


def test_numbers_are_written_by_their_kind():
    assert [number(1234.56), number(12.345), number(3, "count"), number(0.1234, "share"), number(None)] == [
        "1,235", "12.35", "3", "12.3%", "-",
    ]  # fmt: skip


def test_files_are_read_some_at_a_time_and_memory_is_bounded(make, monkeypatch):
    a, b = commit_all(make("a")), commit_all(make("b"))
    monkeypatch.setattr(rows, "PART_FILES", 1)
    assert compare(a, b).rows.same == 10
    with rows._connection("64MB") as connection:
        ((limit,),) = connection.execute("select current_setting('memory_limit')").fetchall()
    assert limit == "61.0 MiB"


def test_damaged_file_is_an_error_that_says_how_to_find_it(make):
    a, b = commit_all(make("a")), commit_all(make("b"))
    for name in b.folder.list("data"):
        b.folder.put(name, b"PAR1 no more")
    with pytest.raises(
        OutputError, match=rf"the rows cannot be read: .*dgbatch verify {a.path}, and dgbatch verify {b.path}"
    ):
        compare(a, b)


def test_codes_of_a_run_whose_records_do_not_tell_them_are_not_known(make):
    """Records of an older version have no sums."""
    a, b = make("a"), commit_all(make("b"), bad=lambda row_id: row_id == "r1")
    for shard in a.plan.shards:
        assert a.commit(replace(write_attempt(a, shard, bad=lambda row_id: row_id in ("r1", "r2")), sums=NOTHING))
    lines = {each.name: (each.a, each.b) for each in compare(a, b).quality}
    assert (lines["in quarantine"], lines["  prompt_too_long"]) == ((2, 1), (None, 1))
