"""Input in an object store is the input it would be on a disk: same files, same order, same rows, same checksums."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dgbatch.errors import InputError, LocationError
from dgbatch.runner import formats, text_blocks
from dgbatch.runner.plan import make_plan
from dgbatch.runner.source import ids, rows
from dgbatch.runner.spec import JobSpec
from dgbatch.runner.storage import location, store
from dgbatch.runner.storage.folder import open_folder
from tests.stores import servers
from tests.stores.conftest import STORES

TABLE = pa.table({"id": [f"r{i:03d}" for i in range(100)], "prompt": [f"say {i}" for i in range(100)]})
NAMES = ["a.parquet", "b.parquet", "deep/c.parquet", "deep/er/d.parquet"]


def job(path: str, **blocks: object) -> JobSpec:
    data = {
        "version": 1, "name": "j", "model": {"checkpoint": "demo"}, "input": {"path": path, "id": "id"},
        "prompt": {"template": "{{ prompt }}"}, "output": {"path": "/nowhere/out"}, "workers": {"shard_rows": 40},
    }  # fmt: skip
    return JobSpec.model_validate({**data, **blocks})


def write(path: Path, name: str, table: pa.Table) -> Path:
    file = path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith("parquet"):
        pq.write_table(table, file, row_group_size=30)
    elif name.endswith("arrow"):
        with pa.ipc.new_file(str(file), table.schema) as writer:
            writer.write_table(table, max_chunksize=30)
    elif name.endswith("csv"):
        pa.csv.write_csv(table, file)
    else:
        file.write_text("".join(f'{{"id": "{row["id"]}", "prompt": "{row["prompt"]}"}}\n' for row in table.to_pylist()))
    return file


@pytest.fixture
def both(tmp_path: Path, place: str) -> tuple[str, str]:
    """The same files on this disk and in the store, with some that nobody asked for."""
    here, there = tmp_path / "here", open_folder(place)
    for number, name in enumerate(NAMES):
        table = TABLE.slice(number * 25, 25)
        there.put(name, write(here, name, table).read_bytes())
    for name in (".hidden.parquet", "_temporary/x.parquet", "notes.txt", "deep/.cache/x.parquet"):
        file = here / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"not rows")
        there.put(name, b"not rows")
    return str(here), place


@pytest.mark.parametrize("place", STORES[1:], indirect=True)
@pytest.mark.parametrize(
    "pattern", ["", "/", "/*.parquet", "/**/*.parquet", "/deep/**", "/[ab].parquet", "/deep/?.parquet", "/b.parquet"]
)
def test_the_same_files_in_the_same_order(both: tuple[str, str], pattern: str) -> None:
    here, there = (f"{root}{pattern}" for root in both)
    if pattern == "/deep/**":  # on a disk the folder itself matches too
        assert location.files(there) == ["c.parquet", "er/d.parquet"]
        return
    assert location.files(there) == location.files(here) != []


@pytest.mark.parametrize("place", STORES[1:], indirect=True)
def test_the_same_plan_and_the_same_rows(both: tuple[str, str]) -> None:
    here, there = (job(root, input={"path": root, "id": "id", "where": "id > 'r010'"}) for root in both)
    plan = make_plan(there)
    assert plan.shards == make_plan(here).shards and plan.files == make_plan(here).files
    assert [ids(shard, there.input) for shard in plan.shards] == [ids(shard, here.input) for shard in plan.shards]
    first = plan.shards[0]
    assert list(rows(first, there.input, ["prompt"])) == list(rows(first, here.input, ["prompt"]))


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow", "x.csv", "x.jsonl"])
def test_every_format_is_read_alike(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(text_blocks, "BLOCK_BYTES", 500)
    file = write(tmp_path, name, TABLE)
    open_folder(s3).put(name, file.read_bytes())
    there = formats.layout(f"{s3}/{name}")
    assert there == formats.layout(str(file))
    for group in range(len(there.groups)):
        read = [list(formats.batches(path, group, ["prompt", "id"])) for path in (f"{s3}/{name}", str(file))]
        assert pa.Table.from_batches(read[0]) == pa.Table.from_batches(read[1])


def test_an_object_that_was_written_again_is_read_again(s3: str, tmp_path: Path) -> None:
    folder = open_folder(s3)
    for text in ("first", "again"):
        table = pa.table({"prompt": [text] * 5})
        folder.put("x.parquet", write(tmp_path, "x.parquet", table).read_bytes())
        (batch,) = formats.batches(f"{s3}/x.parquet", 0, ["prompt"])
        assert batch.column(0).to_pylist() == [text] * 5


def test_what_is_not_there_is_said_with_what_is(s3: str) -> None:
    open_folder(s3).put("prompts.parquet", b"")
    with pytest.raises(InputError, match=r"no such object: s3://\S+/prompt.parquet. Beside it are: prompts.parquet"):
        location.files(f"{s3}/prompt.parquet")
    with pytest.raises(InputError, match=r"no file matches s3://\S+\*.csv"):
        location.files(f"{s3}/*.csv")
    with pytest.raises(InputError, match=r"no .parquet, .* file in s3://\S+nothing. There is nothing in it"):
        location.files(f"{s3}/nothing")
    with pytest.raises(InputError, match="no such bucket"):
        location.files("s3://nobody-made-this/x.parquet")


def test_a_run_is_no_input(s3: str) -> None:
    open_folder(s3).put("_dgbatch/run.json", b"{}")
    with pytest.raises(InputError, match=r"is a run of dgbatch\. For its completions, name the folder data in it"):
        location.files(s3)


def test_a_damaged_object_is_named(s3: str) -> None:
    open_folder(s3).put("x.parquet", b"PAR1 and no more")
    with pytest.raises(InputError, match=r"s3://\S+/x.parquet: not readable as parquet"):
        make_plan(job(f"{s3}/x.parquet"))


def test_output_among_the_input_is_refused(s3: str, tmp_path: Path) -> None:
    open_folder(s3).put("x.parquet", write(tmp_path, "x.parquet", TABLE).read_bytes())
    with pytest.raises(InputError, match="lies among the input files"):
        make_plan(job(s3, output={"path": f"{s3}/out"}))
    make_plan(job(f"{s3}/x.parquet", output={"path": f"{s3}/out"}))
    make_plan(job(s3, output={"path": f"{s3}-out"}))


def test_a_store_that_is_away_is_no_damaged_file(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "RETRY_S", 0.3)
    servers.s3(f"http://127.0.0.1:{servers.free_port()}").enter(monkeypatch)
    with pytest.raises(InputError, match=r"s3://\S+x.parquet cannot be read: .*the store cannot be reached") as refused:
        make_plan(job(f"{s3}/x.parquet"))
    assert refused.value.exit_code == 2
    with pytest.raises(InputError, match=r"x.parquet: cannot be read: .*the store cannot be reached"):
        formats.layout(f"{s3}/x.parquet")


def test_a_secret_in_a_uri_is_not_shown() -> None:
    with pytest.raises(LocationError) as refused:
        location.files("s3://key:s3cret@bucket/x.parquet", "input.path")
    assert "s3cret" not in str(refused.value)
