"""verify finds whatever was done to a run: rows lost, doubled, moved or changed, bytes flipped, records forged."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dgbatch.errors import DgbatchError, InputError, OutputError, StoreFailed
from dgbatch.runner.commits import COMMITS, Commit
from dgbatch.runner.layout import PLAN, RUN
from dgbatch.runner.run_folder import Run
from dgbatch.runner.schema import COMPLETION
from dgbatch.runner.spec import load_job
from dgbatch.runner.sums import BOUNDS, NOTHING, Histogram
from dgbatch.runner.verify import Verification, believable, verify
from tests.runner.conftest import JOB, prompts
from tests.runner.small_run import commit_all, forge, new_run, read, record_path, reseal, rewrite, write_attempt

ROWS, SAMPLES, SHARDS = 10, 2, 3  # shards of 4, 4 and 2 rows; r2 and r5 are in quarantine


def make(folder: Path, *overrides: str) -> Run:
    pq.write_table(prompts(ROWS), folder / "in.parquet")
    (folder / "job.yaml").write_text(JOB)
    fixed = ("input.id=id", "workers.shard_rows=4", f"generation.samples={SAMPLES}", "accept.rules=[{equals: answer}]")
    run = new_run(load_job(str(folder / "job.yaml"), [*fixed, *overrides]))
    return commit_all(run, bad=lambda row_id: row_id in ("r2", "r5"))


@pytest.fixture(scope="module", params=["parquet", "arrow"])
def original(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = make(tmp_path_factory.mktemp("original"), f"output.format={request.param}")
    run.finalise()
    return run


@pytest.fixture(scope="module")
def fresh(original: Run, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Run]:
    """A copy of the run, to be spoiled; the one before is gone then."""
    folder = tmp_path_factory.mktemp("copies")

    def copy() -> Run:
        shutil.rmtree(folder / "run", ignore_errors=True)
        shutil.copytree(original.path, folder / "run")
        return Run.open(str(folder / "run"))

    return copy


def without(table: pa.Table, row: int) -> pa.Table:
    return pa.concat_tables([table.slice(0, row), table.slice(row + 1)])


def altered(table: pa.Table, row: int, column: str) -> pa.Table:
    """The table with one cell changed to another value of its type."""
    values = table[column].to_pylist()
    old = values[row]
    kind = table.schema.field(column).type
    if pa.types.is_boolean(kind):
        values[row] = not old
    elif pa.types.is_integer(kind):
        values[row] = old + 1 if old < 2**31 - 1 else old - 1
    elif pa.types.is_list(kind):
        values[row] = [*old, 5]
    elif pa.types.is_struct(kind):
        values[row] = {name: not value for name, value in old.items()}
    else:
        values[row] = (old or "") + "x"
    position = table.schema.get_field_index(column)
    return table.set_column(position, table.schema.field(column), pa.array(values, kind))


def assert_found(run: Run) -> Verification | None:
    """A spoiled run is either refused outright or does not hold, and says where."""
    try:
        found = verify(Run.open(run.path))
    except DgbatchError:
        return None
    assert not found.holds
    assert found.examples
    return found


def test_an_honest_run_holds(original: Run) -> None:
    seen: list[tuple[int, int]] = []
    found = verify(original, on_progress=lambda done, shards: seen.append((done, shards)))
    assert found == Verification(input=20, ok=16, quarantined=4)
    assert found.holds
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert found.lines() == [
        "in 20 = ok 16 + quarantined 4",
        "missing 0, duplicate 0, unexpected 0, checksum errors 0",
        "holds: every input id is there exactly once, in files as they were written",
    ]


def test_the_json_answer_has_the_counts_of_the_contract(original: Run) -> None:
    answer = verify(original).to_json()
    expected = {"input": 20, "ok": 16, "quarantined": 4, "missing": 0, "duplicate": 0, "checksum_errors": 0}
    expected |= {"replayed": 0, "replay_mismatches": 0, "unexpected": 0, "examples": {}}
    expected |= {"damaged": [], "holds": True}
    assert answer == expected


def test_what_is_not_committed_is_missing(tmp_path: Path) -> None:
    pq.write_table(prompts(20), tmp_path / "in.parquet")
    (tmp_path / "job.yaml").write_text(JOB)
    run = new_run(load_job(str(tmp_path / "job.yaml"), ["workers.shard_rows=10"]))
    commit_all(run, shards=run.plan.shards[:1])
    write_attempt(run, run.plan.shards[1])  # not committed: never read
    found = verify(run)
    assert (found.ok, found.missing, found.holds) == (10, 10, False)
    assert found.examples == {"missing": [f"in.parquet:0:{row}" for row in range(10, 15)]}
    assert found.lines()[0] == "in 20 is not ok 10 + quarantined 0"
    assert found.lines()[-2:] == ["  missing: and 5 more", "DOES NOT HOLD"]
    assert str(found).startswith("in 20 is not ok 10 + quarantined 0; missing 10,")


rows = st.integers(0, 5)
shards = st.integers(0, SHARDS - 1)
kinds = st.sampled_from(["data", "quarantine"])
many = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@many
@given(st.data())
def test_any_flipped_byte_is_found(fresh: Callable[[], Run], data: st.DataObject) -> None:
    run = fresh()
    named = [file.name for commit in run.commits() for file in commit.files]
    records = [f"{COMMITS}/{index:06d}.json" for index in range(SHARDS)]
    name = data.draw(st.sampled_from([*named, *records, RUN, PLAN]))
    raw = bytearray(run.folder.get(name))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    run.folder.at(name).write_bytes(raw)
    assert_found(run)


@many
@given(st.data())
def test_any_lost_or_cut_file_is_found(fresh: Callable[[], Run], data: st.DataObject) -> None:
    run = fresh()
    named = [file.name for commit in run.commits() for file in commit.files]
    name = data.draw(st.sampled_from([*named, *[f"{COMMITS}/{index:06d}.json" for index in range(SHARDS)], RUN, PLAN]))
    path = run.folder.at(name)
    if data.draw(st.booleans()):
        path.unlink()
    else:
        os.truncate(path, data.draw(st.integers(0, path.stat().st_size - 1)))
    found = assert_found(run)
    if found is not None and name in named:
        assert found.missing > 0


@many
@given(shard=shards, kind=kinds, row=rows, forged=st.booleans())
def test_any_deleted_row_is_found(fresh: Callable[[], Run], shard: int, kind: str, row: int, forged: bool) -> None:
    run = fresh()
    record = getattr(run.commits()[shard], kind)
    if record is None:
        return
    table = read(run, record.name)
    gone = table.slice(row % table.num_rows, 1).to_pylist()[0]
    rewrite(run, record.name, without(table, row % table.num_rows))
    if forged:
        forge(run, shard)
    found = assert_found(run)
    assert found is not None
    assert (found.missing, found.duplicate, found.unexpected) == (1, 0, 0)
    assert found.checksum_errors == (0 if forged else 1)
    assert found.examples["missing"] == [gone["id"] + (f" (sample {gone['sample']})" if gone["sample"] else "")]


@many
@given(shard=shards, kind=kinds, row=rows, forged=st.booleans())
def test_any_doubled_row_is_found(fresh: Callable[[], Run], shard: int, kind: str, row: int, forged: bool) -> None:
    run = fresh()
    record = getattr(run.commits()[shard], kind)
    if record is None:
        return
    table = read(run, record.name)
    rewrite(run, record.name, pa.concat_tables([table, table.slice(row % table.num_rows, 1)]))
    if forged:
        forge(run, shard)
    found = assert_found(run)
    assert found is not None
    assert (found.missing, found.duplicate, found.unexpected) == (0, 1, 0)


@many
@given(shard=shards, kind=kinds, lost=rows, doubled=rows)
def test_one_row_lost_and_one_doubled_do_not_add_up(
    fresh: Callable[[], Run], shard: int, kind: str, lost: int, doubled: int
) -> None:
    run = fresh()
    record = getattr(run.commits()[shard], kind)
    if record is None:
        return
    table = read(run, record.name)
    rest = without(table, lost % table.num_rows)
    rewrite(run, record.name, pa.concat_tables([rest, rest.slice(doubled % rest.num_rows, 1)]))
    forge(run, shard)
    found = assert_found(run)
    assert found is not None
    assert (found.ok + found.quarantined, found.missing, found.duplicate) == (found.input, 1, 1)


@many
@given(pair=st.permutations(range(SHARDS)), row=rows, copied=st.booleans())
def test_any_row_moved_to_another_shard_is_found(
    fresh: Callable[[], Run], pair: list[int], row: int, copied: bool
) -> None:
    run = fresh()
    here, there = (run.commits()[index].data for index in pair[:2])
    assert here is not None and there is not None
    table = read(run, here.name)
    row %= table.num_rows
    rewrite(run, there.name, pa.concat_tables([read(run, there.name), table.slice(row, 1)]))
    if not copied:
        rewrite(run, here.name, without(table, row))
    forge(run, pair[0])
    forge(run, pair[1])
    found = assert_found(run)
    assert found is not None
    assert (found.missing, found.unexpected, found.duplicate) == (0 if copied else 1, 1, 0)


COLUMNS = [name for name, _ in COMPLETION] + ["accepted", "rules"]


@many
@given(shard=shards, row=rows, column=st.sampled_from(COLUMNS))
def test_any_altered_cell_is_found(fresh: Callable[[], Run], shard: int, row: int, column: str) -> None:
    run = fresh()
    record = run.commits()[shard].data
    assert record is not None
    table = read(run, record.name)
    rewrite(run, record.name, altered(table, row % table.num_rows, column))
    found = assert_found(run)
    assert found is not None and found.checksum_errors == 1


@many
@given(
    shard=shards,
    row=rows,
    column=st.sampled_from(["id", "sample", "tokens", "token_ids", "noise_key", "accepted", "rules"]),
)
def test_a_row_that_contradicts_itself_is_found_behind_a_forged_record(
    fresh: Callable[[], Run], shard: int, row: int, column: str
) -> None:
    run = fresh()
    record = run.commits()[shard].data
    assert record is not None
    table = read(run, record.name)
    rewrite(run, record.name, altered(table, row % table.num_rows, column))
    forge(run, shard)
    assert_found(run)


@many
@given(
    shard=shards,
    column=st.sampled_from(
        ["ok", "quarantined", "accepted", "prompt_tokens", "tokens", "canvases", "denoise_steps", "data", "quarantine"]
    ),
    more=st.integers(-3, 3).filter(bool),
)
def test_any_wrong_count_in_a_record_is_found(fresh: Callable[[], Run], shard: int, column: str, more: int) -> None:
    run = fresh()
    commit = run.commits()[shard]
    value = getattr(commit, column)
    if value is None:
        return
    wrong = replace(value, rows=value.rows + more) if column in ("data", "quarantine") else value + more
    reseal(run, shard, replace(commit, **{column: wrong}))
    found = assert_found(run)
    assert found is not None and found.checksum_errors == 1


@pytest.mark.parametrize("name", ["quarantined", "steps_per_canvas", "tokens_per_forward", "row_duration_s"])
def test_wrong_sums_in_a_record_are_found(fresh: Callable[[], Run], name: str) -> None:
    run = fresh()
    commit = run.commits()[0]
    assert commit.sums.tokens_per_forward.count == commit.ok
    wrong: object = (("prompt_too_long", commit.quarantined + 1),)
    if name in BOUNDS:
        wrong = getattr(commit.sums, name) + Histogram.of(BOUNDS[name], [1.0])
    reseal(run, 0, replace(commit, sums=replace(commit.sums, **{name: wrong})))
    found = assert_found(run)
    assert found is not None
    told = found.examples["checksum_errors"][0]
    assert told.startswith("_dgbatch/commits/000000.json: its sums say ") and name in told


def test_a_record_without_sums_is_as_good_as_it_was(fresh: Callable[[], Run]) -> None:
    run = fresh()
    for index, commit in enumerate(run.commits()):
        reseal(run, index, replace(commit, sums=NOTHING))
    assert verify(run).holds and not run.ledger().tally.sums


@pytest.mark.parametrize("spoil", ["drop", "cast", "rename", "extra", "order"])
def test_a_file_with_other_columns_is_found_behind_a_forged_record(fresh: Callable[[], Run], spoil: str) -> None:
    run = fresh()
    record = run.commits()[0].data
    assert record is not None
    table = read(run, record.name)
    if spoil == "drop":
        table = table.drop_columns(["thinking"])
    elif spoil == "cast":
        table = table.set_column(3, "thinking", pa.nulls(table.num_rows))
    elif spoil == "rename":
        table = table.rename_columns([name.replace("thinking", "thoughts") for name in table.column_names])
    elif spoil == "extra":
        table = table.append_column("extra", pa.nulls(table.num_rows))
    else:
        table = table.select(table.column_names[::-1])
    rewrite(run, record.name, table)
    forge(run, 0)
    found = assert_found(run)
    assert found is not None
    assert found.examples["checksum_errors"] == [f"{record.name}: its columns are not those of the run"]


def test_a_file_that_is_no_table_is_found_behind_a_forged_record(fresh: Callable[[], Run]) -> None:
    run = fresh()
    commit = run.commits()[0]
    assert commit.data is not None
    run.folder.at(commit.data.name).write_bytes(b"nonsense")
    digest = hashlib.sha256(b"nonsense").hexdigest()
    reseal(run, 0, replace(commit, data=replace(commit.data, bytes=8, sha256=digest)))
    found = assert_found(run)
    assert found is not None
    assert found.examples["checksum_errors"][0].startswith(f"{commit.data.name}: cannot be read: ")
    assert found.missing == 6  # r0, r1, r3 twice each


def test_a_record_that_may_not_be_read_is_an_error_with_its_name_and_no_damage(
    fresh: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fresh()
    assert len(run.plan.shards) == SHARDS

    def denied(name: str) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", name)

    monkeypatch.setattr(run.folder, "get", denied)
    with pytest.raises(OutputError, match=r"000000\.json: cannot be read: Permission denied\. Check its permissions"):
        believable(run, Verification())


def exchanged(run: Run) -> None:
    first, second = record_path(run, 0), record_path(run, 1)
    first.rename(second.with_suffix(".x"))
    second.rename(first)
    second.with_suffix(".x").rename(second)


def copied(run: Run) -> None:
    shutil.copy(record_path(run, 0), record_path(run, 1))


def beyond_the_plan(run: Run) -> None:
    commit = replace(run.commits()[0], shard=99, data=None, quarantine=None)
    record_path(run, 99).write_bytes(commit.to_json(run.fingerprint))


def of_another_run(run: Run) -> None:
    record_path(run, 0).write_bytes(run.commits()[0].to_json("another"))


def with_a_strange_name(run: Run) -> None:
    record_path(run, 0).with_name("backup.json").write_bytes(record_path(run, 0).read_bytes())


@pytest.mark.parametrize("spoil", [exchanged, copied, beyond_the_plan, of_another_run, with_a_strange_name])
def test_a_record_that_does_not_belong_is_found(fresh: Callable[[], Run], spoil: Callable[[Run], None]) -> None:
    run = fresh()
    spoil(run)
    found = assert_found(run)
    assert found is not None and found.checksum_errors > 0


def test_rows_of_another_seed_are_found_though_their_ids_are_right(fresh: Callable[[], Run], tmp_path: Path) -> None:
    run = fresh()
    other = make(tmp_path, f"output.format={run.spec.output.format}", "generation.seed=1")
    commit: Commit = other.commits()[0]
    for file in commit.files:
        shutil.copy(other.folder.at(file.name), run.folder.at(file.name))
    reseal(run, 0, commit)
    for file in Run.open(other.path).commits()[0].files:
        assert run.folder.exists(file.name)
    found = assert_found(run)
    assert found is not None
    assert "shard 0: a noise key is not that of its row" in found.examples["checksum_errors"]


def seeded(folder: Path, seeds: dict[str, int]) -> Run:
    """A run whose rows say their seeds themselves, its rows written with these."""
    table = prompts(6)
    own = ['{"seed": 3}', None, '{"stop": ["x"]}', '{"seed": -1}', "", '{"seed": 3}']
    pq.write_table(table.append_column("own", pa.array(own)), folder / "in.parquet")
    (folder / "job.yaml").write_text(JOB)
    overrides = ("input.id=id", "generation.overrides=own", "generation.seed=7", "workers.shard_rows=4")
    run = new_run(load_job(str(folder / "job.yaml"), [*overrides, "output.metrics=true"]))
    for shard in run.plan.shards:
        assert run.commit(write_attempt(run, shard, lambda row_id: row_id == "r3", seeds=seeds))
    return run


def test_rows_of_a_seed_of_their_own_hold(tmp_path: Path) -> None:
    found = verify(seeded(tmp_path, {"r0": 3, "r5": 3}))
    assert found.holds and (found.ok, found.quarantined) == (5, 1)


@pytest.mark.parametrize("seeds", [{"r0": 3}, {"r0": 7, "r5": 3}, {"r0": 3, "r5": 3, "r1": 3}])
def test_a_row_made_with_another_seed_than_its_own_is_found(tmp_path: Path, seeds: dict[str, int]) -> None:
    found = verify(seeded(tmp_path, seeds))
    assert not found.holds and found.checksum_errors == 1
    assert found.examples["checksum_errors"][0].endswith("a noise key is not that of its row")


def test_a_stray_file_in_a_finished_run_is_found(fresh: Callable[[], Run]) -> None:
    run = fresh()
    stray = write_attempt(run, run.plan.shards[0])
    assert stray.data is not None
    found = assert_found(run)
    assert found is not None
    assert found.examples["checksum_errors"] == [f"{stray.data.name}: no commit record names it. Remove it."]
    run.finalise()
    assert verify(run).holds


def test_a_changed_or_missing_input_is_an_error_of_the_input(tmp_path: Path) -> None:
    run = make(tmp_path)
    pq.write_table(prompts(ROWS).slice(1), tmp_path / "in.parquet")
    with pytest.raises(InputError, match=r"in\.parquet: the input file changed after planning"):
        verify(Run.open(run.path))
    (tmp_path / "in.parquet").unlink()
    with pytest.raises(InputError, match=r"in\.parquet: the input file is gone"):
        verify(Run.open(run.path))


def test_a_run_whose_plan_was_changed_is_refused(fresh: Callable[[], Run]) -> None:
    run = fresh()
    table = pq.read_table(pa.BufferReader(run.folder.get(PLAN)))
    pq.write_table(table.slice(0, 2), run.folder.at(PLAN))
    with pytest.raises(OutputError, match="was changed"):
        verify(run)


@pytest.mark.parametrize(
    ("error", "said"),
    [(StoreFailed(errno.EIO, "the store cannot be reached"), "the store cannot be reached"),
     (PermissionError(errno.EACCES, "Permission denied"), "Check its permissions")],
)  # fmt: skip
def test_a_file_that_nobody_can_read_now_is_an_error_and_no_damage(
    fresh: Callable[[], Run], monkeypatch: pytest.MonkeyPatch, error: OSError, said: str
) -> None:
    """What is damaged, `--repair` lets go of."""
    run = fresh()
    get = run.folder.get

    def away(name: str) -> bytes:
        if name.startswith("data/"):
            raise error
        return get(name)

    monkeypatch.setattr(run.folder, "get", away)
    with pytest.raises(DgbatchError, match=said):
        verify(run)
