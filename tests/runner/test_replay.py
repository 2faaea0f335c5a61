"""Rows generated again: equal where nothing was touched, and found where anything that decides tokens was."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dgbatch.errors import InputError, OutputError
from dgbatch.records import EngineConfig
from dgbatch.runner import replay as module
from dgbatch.runner.commits import FileRecord
from dgbatch.runner.fingerprint import fingerprint
from dgbatch.runner.model import ENGINE, describe_model
from dgbatch.runner.piece import Piece, Task
from dgbatch.runner.plan import make_plan
from dgbatch.runner.replay import chosen
from dgbatch.runner.run_folder import Run
from dgbatch.runner.spec import load_job
from dgbatch.runner.verify import Verification, verify
from dgbatch.runner.worker import Worker
from tests.fake_engine import PATH, FakeEngine, fake_checkpoint, fake_job
from tests.runner.small_run import read, respell, rewrite

ALL = 1_000_000


def worked(job: str, *overrides: str, engine: str = PATH, checksum: str | None = "fake", shards: int = ALL) -> Run:
    """The run that a worker makes of a job, without Ray; its first shards alone where so many are asked for."""
    spec = load_job(job, overrides)
    plan = make_plan(spec)
    model = {**describe_model(spec, engine), "checksum": checksum}
    run = Run.create(spec.output.path, spec.public(), plan, fingerprint(spec, plan), {}, model)
    config = EngineConfig(canvases=4, device="cpu", threads=1)
    worker = Worker("w0", spec, plan.schema, run.path, config, engine)
    given = [Task(Piece.whole(shard), 1) for shard in plan.shards[:shards]]
    wanted, committed = len(given), 0
    while committed < wanted:
        report = worker.exchange(given)
        assert report.fatal is None and not report.failures
        given = []
        for receipt in report.receipts:
            assert run.commit(receipt)
            committed += 1
    worker.exchange(closing_s=0.0)
    for thread in threading.enumerate():
        if thread.name == "engine":
            thread.join(20)
    return run


def replayed(run: Run, count: int = ALL, **arguments: Any) -> Verification:
    """What is found in a run that was opened again."""
    found = Verification()
    module.replay(Run.open(run.path), count, found, **{"engine": PATH, **arguments})
    return found


PROMPTS = [f"prompt {n}" for n in range(20)]


def test_rows_that_nobody_touched_are_token_for_token_the_same(tmp_path: Path) -> None:
    run = worked(fake_job(tmp_path, PROMPTS))
    seen: list[tuple[int, int]] = []
    found = verify(run)
    module.replay(run, 7, found, engine=PATH, on_progress=lambda done, rows: seen.append((done, rows)))
    assert (found.replayed, found.replay_mismatches, found.holds) == (7, 0, True)
    assert seen == [(done, 7) for done in range(1, 8)]
    assert found.lines()[2] == "replayed 7 of 20 rows: token for token the same"


@pytest.mark.parametrize("count", [20, 21, ALL])
def test_more_rows_than_there_are_means_all_of_them(tmp_path: Path, count: int) -> None:
    assert replayed(worked(fake_job(tmp_path, PROMPTS)), count) == Verification(replayed=20)


@pytest.mark.parametrize("fmt", ["parquet", "arrow"])
def test_a_changed_token_behind_a_forged_record_is_found(tmp_path: Path, fmt: str) -> None:
    run = worked(fake_job(tmp_path, PROMPTS, output={"format": fmt}, generation={"samples": 2}))
    record = run.commits()[1].data
    assert record is not None
    tokens = read(run, record.name)["token_ids"][5].as_py()
    respell(run, 1, 5, [*tokens[:2], 77, *tokens[3:]])
    found = verify(Run.open(run.path))
    assert found.holds  # nothing else can see it
    module.replay(run, ALL, found, engine=PATH)
    assert (found.replayed, found.replay_mismatches, found.holds) == (40, 1, False)
    assert found.examples["replay_mismatches"] == [f"r0010 (sample 1): token 3 is 77, generated again {tokens[2]}"]
    assert "replayed 40 of 40 rows: 1 not the same" in found.lines()


def test_a_completion_cut_short_or_gone_on_is_found(tmp_path: Path) -> None:
    run = worked(fake_job(tmp_path, ["ab", "cd"]))
    record = run.commits()[0].data
    assert record is not None
    first, second = read(run, record.name)["token_ids"].to_pylist()
    rewrite_tokens = {0: first[:-1], 1: [*second, 9]}
    for row, tokens in rewrite_tokens.items():
        respell(run, 0, row, tokens)
    assert replayed(run).examples["replay_mismatches"] == [
        "r0000: token 4 is none, generated again 1",
        "r0001: token 5 is 9, generated again none",
    ]


def test_settings_and_seeds_of_each_row_are_replayed(tmp_path: Path) -> None:
    """The fake engine writes its settings, and a token that follows from the seed."""
    said = [{"seed": 3, "max_new_tokens": 5}, None, {"stop": ["x"], "seed": 4}, {"max_new_tokens": -5}]
    job = fake_job(
        tmp_path, ["!generation"] * 4, generation={"overrides": "own", "samples": 2, "seed": 9}, output={"columns": []}
    )
    rows = pq.read_table(tmp_path / "prompts.parquet")
    own = pa.array([None if row is None else json.dumps(row) for row in said])
    pq.write_table(rows.append_column("own", own), tmp_path / "prompts.parquet")
    assert replayed(worked(job)) == Verification(replayed=6)


def test_quarantined_rows_are_never_replayed(tmp_path: Path) -> None:
    run = worked(fake_job(tmp_path, ["a", None, "!reject", "b", *["!reject"] * 12, "c"]))
    assert [commit.ok for commit in run.commits()] == [2, 0, 1]
    assert replayed(run) == Verification(replayed=3)


def test_a_run_without_completions_loads_no_model(tmp_path: Path) -> None:
    run = worked(fake_job(tmp_path, [None, None]))
    found = replayed(run, engine="no_such_engine:Engine")
    assert found == Verification()
    assert found.replay_line() == "replayed nothing: the dataset has no rows"


def test_what_is_committed_of_half_a_run_is_replayed(tmp_path: Path) -> None:
    assert replayed(worked(fake_job(tmp_path, PROMPTS), shards=2)) == Verification(replayed=16)


def test_only_files_with_chosen_rows_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = worked(fake_job(tmp_path, [f"prompt {n}" for n in range(80)]))
    names: list[str] = []
    whole = module.read_file
    monkeypatch.setattr(
        module, "read_file", lambda run, file, *rest: names.append(file.name) or whole(run, file, *rest)
    )
    assert replayed(run, 2, seed=1).replayed == 2
    assert len(names) in (1, 2)


def test_a_seed_decides_the_rows_and_each_set_of_rows_is_as_likely() -> None:
    files = [(index, FileRecord(f"f{index}", rows, 0, "")) for index, rows in enumerate((3, 1, 2))]
    sets: Counter[tuple[tuple[int, int], ...]] = Counter()
    for seed in range(3000):
        picks = [
            (shard, place) for shard, _, places in chosen(files, 2, module.random.Random(seed)) for place in places
        ]
        assert len(set(picks)) == 2
        sets[tuple(picks)] += 1
    assert len(sets) == 15
    assert all(140 < times < 260 for times in sets.values())  # 200 each, and four times their spread around it


def test_another_checkpoint_is_refused(tmp_path: Path) -> None:
    run = worked(fake_job(tmp_path, PROMPTS, {"checksum": "0123456789abcdef"}), checksum="0123456789abcdef")
    assert replayed(run, 3).replayed == 3
    fake_checkpoint(tmp_path / "checkpoint", checksum="fedcba9876543210")
    with pytest.raises(OutputError, match=r"checksum 0123456789ab, and the one at .*checkpoint has fedcba987654\. Put"):
        replayed(run, 3)


def test_a_run_that_does_not_know_its_checkpoint_is_replayed_with_the_one_that_is_there(tmp_path: Path) -> None:
    assert replayed(worked(fake_job(tmp_path, PROMPTS), checksum=None), 3) == Verification(replayed=3)


def test_another_device_than_that_of_the_run_is_refused(tmp_path: Path) -> None:
    run = worked(fake_job(tmp_path, PROMPTS))
    run.note_canvases("NVIDIA H200", 8, ())
    with pytest.raises(OutputError, match="was made on NVIDIA H200, and this machine has fake, which rounds otherwise"):
        replayed(run, 3)
    run.note_canvases("fake", 8, ())
    assert replayed(run, 3).replayed == 3


@pytest.mark.parametrize(
    ("workers", "made_on", "expected"),
    [
        ({"canvases": 4}, [], EngineConfig(canvases=4, device="auto", threads=1)),
        ({"canvases": "auto", "gpus": 0}, [], EngineConfig(canvases=8, device="cpu", threads=1)),
        ({}, ["cpu"], EngineConfig(canvases=4, device="cpu", threads=1)),
        ({}, ["cpu", "fake"], EngineConfig(canvases=4, device="auto", threads=1)),
    ],
)
def test_engine_is_told_what_a_worker_would_tell_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: dict[str, Any], made_on: list[str], expected: EngineConfig
) -> None:
    run = worked(fake_job(tmp_path, PROMPTS, workers=workers))
    for device in made_on:
        run.note_canvases(device, 8, ())
    told: list[EngineConfig] = []

    def load(checkpoint: str, config: EngineConfig, revision: str | None = None) -> FakeEngine:
        told.append(config)
        engine = FakeEngine(config, {})
        engine.device_name = made_on[0] if made_on else "fake"
        return engine

    monkeypatch.setattr(FakeEngine, "load", load)
    assert replayed(run, 3).replayed == 3
    assert told == [expected]


def test_rows_whose_input_is_another_now_are_mismatches(tmp_path: Path) -> None:
    run = worked(fake_job(tmp_path, ["a", "b", "c", "d", "e"]))
    rows = pq.read_table(tmp_path / "prompts.parquet")
    rows = rows.set_column(0, "id", pa.array(["r0000", "gone", "r0002", "r0003", "r0004"]))
    rows = rows.set_column(1, "prompt", pa.array(["a", "b", None, "!reject", "x"]))
    pq.write_table(rows, tmp_path / "prompts.parquet")
    found = replayed(run)
    assert (found.replayed, found.replay_mismatches) == (5, 4)
    assert sorted(found.examples["replay_mismatches"]) == [
        "r0001: the input has no such row in its shard",
        "r0002: null_prompt: the template prints a null: prompt",
        "r0003: prompt_too_long: the prompt says so",
        "r0004: token 1 is 101, generated again 120",
    ]


def test_input_that_lost_rows_is_an_error_of_the_input(tmp_path: Path) -> None:
    run = worked(fake_job(tmp_path, PROMPTS))
    pq.write_table(pq.read_table(tmp_path / "prompts.parquet").slice(0, 3), tmp_path / "prompts.parquet")
    with pytest.raises(InputError, match="was planned with 8 rows and now has 3"):
        replayed(run)


@pytest.mark.parametrize("spoil", ["gone", "nonsense", "rows", "columns"])
def test_rows_of_a_file_that_cannot_be_read_are_mismatches(tmp_path: Path, spoil: str) -> None:
    run = worked(fake_job(tmp_path, PROMPTS))
    record = run.commits()[2].data
    assert record is not None
    path, table = run.folder.at(record.name), read(run, record.name)
    if spoil == "gone":
        path.unlink()
    elif spoil == "nonsense":
        path.write_bytes(b"nonsense")
    else:
        rewrite(run, record.name, table.slice(1) if spoil == "rows" else table.drop_columns(["token_ids"]))
    found = replayed(run)
    assert (found.replayed, found.replay_mismatches) == (20, 4)
    assert found.examples["replay_mismatches"][0] == f"row 0 of {record.name}: cannot be read"


def test_a_handful_of_examples_is_kept(tmp_path: Path) -> None:
    run = worked(fake_job(tmp_path, PROMPTS))
    for row in range(8):
        respell(run, 0, row, [5])
    found = replayed(run)
    assert found.replay_mismatches == 8
    assert len(found.examples["replay_mismatches"]) == 5


def test_the_demo_checkpoint_writes_the_same_tokens_again(tmp_path: Path) -> None:
    """Rows that a worker's engine wrote with 4 canvases in flight, in a fresh one with 3 and in a random choice."""
    import torch

    threads = torch.get_num_threads()
    try:
        job = {
            "version": 1,
            "name": "demo",
            "model": {"checkpoint": "demo"},
            "input": {"path": "demo", "id": "id", "limit": 8},
            "prompt": {"template": "{{ prompt }}"},
            "accept": {"rules": [{"equals": "answer"}]},
            "output": {"path": "out"},
            "workers": {"canvases": 3, "shard_rows": 3, "gpus": 0},
        }
        (tmp_path / "job.yaml").write_text(json.dumps(job))
        checksum = describe_model(load_job(str(tmp_path / "job.yaml")))["checksum"]
        run = worked(str(tmp_path / "job.yaml"), engine=ENGINE, checksum=checksum)
        run.note_canvases("cpu", 4, ())
        found = verify(run)
        module.replay(run, 8, found)
        assert (found.ok, found.replayed, found.replay_mismatches, found.holds) == (8, 8, 0, True)
        respell(run, 0, 1, [5, 6])
        assert replayed(run, 8, engine=ENGINE).replay_mismatches == 1
    finally:
        torch.set_num_threads(threads)
