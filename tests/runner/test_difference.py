"""A changed job, input or model is refused with what changed, from what to what, and how to go on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dgbatch.errors import OutputError
from dgbatch.runner.difference import input_difference, job_difference, model_difference
from dgbatch.runner.fingerprint import changed_fields, fingerprint
from dgbatch.runner.plan import make_plan
from dgbatch.runner.storage.location import DEMO
from dgbatch.runner.submit import refuse_other_job, refuse_other_model
from tests.runner.conftest import MakeJob
from tests.runner.small_run import commit_all, new_run

Rows = Callable[[int], pa.Table]


def test_short_values_share_a_line_and_long_ones_stand_below_each_other(make_job, some_rows):
    old = make_job(some_rows(2)).public()
    new = make_job(
        None, "generation.seed=1", "prompt.system=Be brief.", "output.columns=[n]", "accept.rules=[{equals: answer}]",
        "prompt.template=" + "x" * 80, "workers.count=4",
    ).public()  # fmt: skip
    assert job_difference(old, old) == []
    assert job_difference(old, new) == [
        "prompt.template",
        "  - {{ prompt }}",
        "  + " + "x" * 80,
        "prompt.system: not set -> Be brief.",
        "generation.seed: 0 -> 1",
        'output.columns: [] -> ["n"]',
        'accept.rules: not set -> [{"equals": "answer"}]',
    ]


def test_demo_by_its_name_and_by_its_path_is_one_checkpoint_and_one_input(make_job, some_rows, tmp_path):
    by_name = make_job(some_rows(2), "input.path=demo")
    by_path = make_job(None, f"input.path={DEMO}", f"model.checkpoint={DEMO.parent / 'checkpoint'}")
    assert by_path.model.checkpoint != by_name.model.checkpoint
    assert job_difference(by_name.public(), by_path.public()) == []
    assert fingerprint(by_name, make_plan(by_name)) == fingerprint(by_path, make_plan(by_path))
    other = make_job(None, f"model.checkpoint={tmp_path}")
    assert "".join(job_difference(by_name.public(), other.public())).startswith("model.checkpoint")


def test_where_the_input_lies_is_no_difference_when_its_files_are_the_same(make_job, some_rows):
    here, there = (make_job(some_rows(2)).public() for _ in range(2))
    there["input"]["path"] = "elsewhere/in.parquet"
    assert job_difference(here, there) == []
    assert changed_fields(here, there, all_of_them=True) == [
        ("input.path", here["input"]["path"], "elsewhere/in.parquet")
    ]


def test_of_a_text_of_many_lines_only_those_that_differ_are_shown():
    old, new = ({"prompt": {"template": f"Solve this.\n{line}\n{{{{ prompt }}}}"}} for line in ("Slowly.", "Quickly."))
    assert job_difference(old, new) == ["prompt.template", "  - Slowly.", "  + Quickly."]


def test_values_cannot_move_the_cursor_and_blanks_are_seen():
    old, new = {"prompt": {"template": "a\x1b[2J"}}, {"prompt": {"template": " a"}}
    assert job_difference(old, new) == ['prompt.template: a\\x1b[2J -> " a"']


def test_input_files_show_what_they_were_and_are(make_job, some_rows, tmp_path):
    (tmp_path / "data").mkdir()
    for name in "abc":
        pq.write_table(some_rows(2), tmp_path / "data" / f"{name}.parquet")
    spec = make_job(None, "input.path=data")
    old = make_plan(spec)
    pq.write_table(some_rows(3), tmp_path / "data" / "a.parquet")
    os.remove(tmp_path / "data" / "b.parquet")
    pq.write_table(some_rows(2), tmp_path / "data" / "d.parquet")
    new = make_plan(spec)
    was, gone = (f"{file.rows} rows, {file.bytes:,} bytes, footer {file.digest[:12]}" for file in old.files[:2])
    now, fresh = (
        f"{file.rows} rows, {file.bytes:,} bytes, footer {file.digest[:12]}" for file in (new.files[0], new.files[2])
    )
    assert input_difference(old, new) == [
        "input file a.parquet",
        f"  - {was}",
        f"  + {now}",
        "input file b.parquet",
        f"  - {gone}",
        "  + no such file",
        "input file d.parquet",
        "  - no such file",
        f"  + {fresh}",
    ]
    assert input_difference(old, old) == []


def test_a_changed_model_shows_both_checksums():
    assert model_difference("models/x", "a" * 64, "b" * 64) == [
        "model files of models/x",
        "  - checksum aaaaaaaaaaaa",
        "  + checksum bbbbbbbbbbbb",
    ]


def test_the_refusal_says_how_much_is_done_and_both_ways_out(make_job: MakeJob, some_rows: Rows, tmp_path: Path):
    spec = make_job(some_rows(10), "input.id=id", "workers.shard_rows=4")
    run = new_run(spec)
    commit_all(run, shards=run.plan.shards[:2])
    other = make_job(None, "input.id=id", "workers.shard_rows=4", "generation.seed=7")
    with pytest.raises(OutputError) as refused:
        refuse_other_job(run, other, make_plan(other))
    assert refused.value.exit_code == 2
    assert str(refused.value) == (
        f"{run.path}: this run was begun with another job, input or model. What has changed:\n\n"
        "  generation.seed: 0 -> 7\n\n"
        "Put it back, and the run goes on: 8 of 10 rows are done. Or keep the change and start anew beside it, with "
        "--new-run or another output.path."
    )
    with pytest.raises(OutputError, match=r"    - checksum m\n    \+ checksum other\n"):
        refuse_other_model(run, spec, {"checksum": "other"})
    refuse_other_job(run, spec, run.plan)
    refuse_other_model(run, spec, {"checksum": None})
