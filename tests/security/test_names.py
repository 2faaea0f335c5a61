"""Names and ids are data and never paths, and files are as open as the umask says."""

from __future__ import annotations

import functools
import os
import stat
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dgbatch.errors import OutputError
from dgbatch.runner import submit as steps
from dgbatch.runner.catalog import sql
from dgbatch.runner.export import export
from dgbatch.runner.run_folder import Run
from tests.cli.command import dgbatch
from tests.fake_engine import PATH, fake_job
from tests.runner.small_run import commit_all, new_run, reseal

IDS = [
    "../../x", "/tmp/dgbatch-was-here", "a\0b", "a\nb", "_SUCCESS", "data/part-000000-abcd.parquet", "..",
    "C:\\x", "$(touch x)", "'; drop table completions; --", "{{ 1 }}", "[red]x[/red]",
]  # fmt: skip


@pytest.mark.parametrize("fmt", ["parquet", "arrow"])
def test_ids_that_look_like_paths_stay_data(tmp_path, capfd, monkeypatch, local_ray, fmt):
    monkeypatch.setattr(steps, "submit", functools.partial(steps.submit, engine=PATH))
    job = fake_job(tmp_path / "a" / "b", ["x"] * 11 + ["!reject"], output={"format": fmt})
    table = pq.read_table(tmp_path / "a" / "b" / "prompts.parquet")
    pq.write_table(table.set_column(0, "id", pa.array(IDS)), tmp_path / "a" / "b" / "prompts.parquet")
    outside = {path for path in tmp_path.rglob("*") if path.is_file()}

    assert dgbatch(capfd, "submit", job).code == 3
    run = tmp_path / "a" / "b" / "out"
    found = sql(Run.open(str(run)), "select id from completions union all select id from quarantine").column(0)
    assert sorted(found.to_pylist()) == sorted(IDS)
    assert dgbatch(capfd, "verify", str(run)).code == 0

    made = {path for path in tmp_path.rglob("*") if path.is_file()} - outside
    assert {path for path in made if run not in path.parents} == set()
    names = {str(path.relative_to(run)) for path in made}
    assert "_SUCCESS" in names and not any(Path(name).name == "x" or "abcd" in name for name in names)
    assert not Path("/tmp/dgbatch-was-here").exists()


@pytest.mark.parametrize("name", ["../outside.parquet", "/etc/passwd", "data/../../x.parquet", "data/part-000000-x/y"])
def test_commit_record_that_names_a_file_elsewhere_is_not_believed(make_job, some_rows, name):
    run = commit_all(new_run(make_job(some_rows(3))))
    commit = run.commits()[0]
    reseal(run, 0, replace(commit, data=replace(commit.data, name=name)))
    with pytest.raises(OutputError, match="cannot be trusted"):
        run.commits()


@pytest.mark.parametrize(("umask", "allowed"), [(0o077, 0o700), (0o027, 0o750), (0o022, 0o755)])
def test_files_are_open_to_nobody_whom_the_umask_shuts_out(make_job, some_rows, tmp_path, umask, allowed):
    was = os.umask(umask)
    try:
        run = commit_all(new_run(make_job(some_rows(5), "output.path=made/out")), bad=lambda row_id: row_id == "r0")
        run.event("started")
        for fmt in ("parquet", "jsonl", "csv", "duckdb"):
            export(run, str(tmp_path / "made" / f"all.{fmt}"), fmt)
        run.finalise()
    finally:
        os.umask(was)
    made = [tmp_path / "made", *(tmp_path / "made").rglob("*")]
    assert len(made) > 12
    for path in made:
        assert stat.S_IMODE(path.stat().st_mode) & ~allowed == 0, path


def test_what_a_query_spills_is_readable_by_its_owner_alone(make_job, some_rows, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    run = commit_all(new_run(make_job(some_rows(3))))
    seen = []
    monkeypatch.setattr("dgbatch.runner.catalog._shards", lambda *_: seen.extend((tmp_path / "tmp").iterdir()) or EMPTY)
    modes = []
    monkeypatch.setattr("dgbatch.runner.catalog._whole_numbers", lambda table: modes.extend(map(mode, seen)) or table)
    sql(run, "select 1 as x")
    assert modes == [0o700]
    assert list((tmp_path / "tmp").iterdir()) == []


EMPTY = pa.table({"x": [1]})


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
