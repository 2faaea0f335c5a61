from __future__ import annotations

import json
import signal
import time
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dgbatch.records import Generation
from dgbatch.runner import piece_files
from dgbatch.runner import worker as module
from dgbatch.runner.again import Again
from dgbatch.runner.commits import Commit
from dgbatch.runner.piece import Piece, Task
from dgbatch.runner.poison import Blame
from dgbatch.runner.prompts import noise_key
from dgbatch.runner.sink import QuarantinedRow, write_shard
from dgbatch.runner.spec import JobSpec
from tests.fake_engine import fake_job
from tests.runner.lone_worker import LIMIT_S, give, loaded, received, started, wait_for
from tests.runner.small_run import new_run


def test_shard_comes_back_as_a_file_in_input_order_and_a_receipt(tmp_path):
    prompts = [f"row {i} !steps={5 - i % 5}" for i in range(8)]
    worker, plan, spec = started(fake_job(tmp_path, prompts))
    wait_for(worker, loaded)
    report = wait_for(worker, received, [give(plan)])
    (receipt,) = report.receipts
    assert (receipt.shard, receipt.ok, receipt.quarantined, receipt.worker) == (0, 8, 0, "w0")
    assert receipt.accepted == 5  # rows 0, 3 and 6 have a wrong answer in the input
    table = pq.read_table(Path(spec.output.path, receipt.data.name))
    assert table["id"].to_pylist() == [f"r{i:04d}" for i in range(8)]
    assert table["text"].to_pylist() == [prompt[::-1] for prompt in prompts]
    assert table["attempt"].to_pylist() == [1] * 8
    assert receipt.tokens == sum(table["tokens"].to_pylist())
    assert receipt.denoise_steps == sum(5 - i % 5 for i in range(8))


def test_samples_follow_their_row_and_differ_in_noise(tmp_path):
    worker, plan, spec = started(fake_job(tmp_path, ["a", "b"], generation={"samples": 3}))
    wait_for(worker, loaded)
    (receipt,) = wait_for(worker, received, [give(plan)]).receipts
    table = pq.read_table(Path(spec.output.path, receipt.data.name))
    assert table["id"].to_pylist() == ["r0000"] * 3 + ["r0001"] * 3
    assert table["sample"].to_pylist() == [0, 1, 2] * 2
    assert len(set(table["noise_key"].to_pylist())) == 6


def test_bad_rows_are_quarantined_with_their_reason_and_the_rest_goes_on(tmp_path):
    worker, plan, spec = started(fake_job(tmp_path, ["good", None, "!reject", " ", "fine"]))
    wait_for(worker, loaded)
    (receipt,) = wait_for(worker, received, [give(plan, attempt=2)]).receipts
    assert (receipt.ok, receipt.quarantined) == (2, 3)
    table = pq.read_table(Path(spec.output.path, receipt.quarantine.name))
    assert table["id"].to_pylist() == ["r0001", "r0002", "r0003"]
    assert table["error_code"].to_pylist() == ["null_prompt", "prompt_too_long", "empty_prompt"]
    assert table["attempts"].to_pylist() == [2, 2, 2]
    assert table["prompt"].to_pylist() == [None, "!reject", " "]


OWN = pa.struct([("max_new_tokens", pa.int64()), ("temperature_end", pa.float64()), ("stop", pa.list_(pa.string())),
                 ("greedy", pa.bool_()), ("suppress_tokens", pa.list_(pa.int32())), ("seed", pa.int64())])  # fmt: skip


@pytest.mark.parametrize("as_text", [False, True], ids=["struct", "JSON"])
def test_settings_of_each_row_reach_the_engine_exactly(tmp_path, as_text):
    said = [
        {"max_new_tokens": 5, "temperature_end": 0.1, "stop": ["x", "y"], "seed": 3},
        None,
        {"greedy": False, "suppress_tokens": [7, 1], "seed": 4},
        {"max_new_tokens": -5},
        {"stop": []},
    ]
    job = {"overrides": "own", "samples": 2, "seed": 9, "max_new_tokens": 50, "stop": ["."], "greedy": True}
    file = fake_job(tmp_path, ["!generation"] * 5, generation=job, output={"columns": []})
    rows = pq.read_table(tmp_path / "prompts.parquet")
    texts = pa.array([None if row is None else json.dumps(row) for row in said])
    own = texts if as_text else pa.array(said, OWN)
    pq.write_table(rows.append_column("own", own), tmp_path / "prompts.parquet")
    worker, plan, spec = started(file)
    wait_for(worker, loaded)
    (receipt,) = wait_for(worker, received, [give(plan)]).receipts
    table = pq.read_table(Path(spec.output.path, receipt.data.name))
    arrived = [json.loads(text) for text in table["text"].to_pylist()]
    base = asdict(Generation(max_new_tokens=50, stop=(".",), greedy=True, suppress_tokens=()))
    base = json.loads(json.dumps(base))
    expected = {
        "r0000": ({**base, "max_new_tokens": 5, "temperature_end": 0.1, "stop": ["x", "y"]}, 3),
        "r0001": (base, 9),
        "r0002": ({**base, "greedy": False, "suppress_tokens": [7, 1]}, 4),
        "r0004": ({**base, "stop": []}, 9),
    }
    assert arrived == [settings for settings, _ in expected.values() for _ in range(2)]
    assert table["noise_key"].to_pylist() == [
        noise_key(seed, name, sample) for name, (_, seed) in expected.items() for sample in range(2)
    ]
    lost = pq.read_table(Path(spec.output.path, receipt.quarantine.name))
    assert lost["id"].to_pylist() == ["r0003"] * 2 and set(lost["error_code"].to_pylist()) == {"bad_generation"}
    assert lost["error_message"][0].as_py() == "column 'own': max_new_tokens: -5 must be at least 1."


def test_probe_runs_its_rows_and_writes_nothing(tmp_path):
    worker, plan, spec = started(fake_job(tmp_path, ["!die", "a", "!die", None, "!die"], generation={"samples": 2}))
    wait_for(worker, loaded)
    probe = give(plan, poison={2: Blame("worker_killed", "boom")}, probe=range(1, 4))
    report = wait_for(worker, lambda report, receipts, failures: report.probed, [probe])
    assert (report.probed, report.receipts, report.failures, report.open_rows) == (((0, 0),), (), (), 0)
    assert report.stats.prompts == 2
    assert not Path(spec.output.path).exists()


def test_probe_that_cannot_read_its_shard_is_a_failure(tmp_path):
    worker, plan, _ = started(fake_job(tmp_path, ["a", "b"]))
    wait_for(worker, loaded)
    (tmp_path / "prompts.parquet").unlink()
    probe = give(plan, probe=range(1))
    report = wait_for(worker, lambda report, receipts, failures: failures, [probe])
    assert (report.probed, report.failures[0].place) == ((), (0, 0))


def test_poison_row_is_quarantined_unseen_with_all_its_samples(tmp_path):
    worker, plan, spec = started(fake_job(tmp_path, ["a", "!die", "b"], generation={"samples": 2}))
    wait_for(worker, loaded)
    task = give(plan, 0, 4, poison={1: Blame("worker_killed", "boom")})
    (receipt,) = wait_for(worker, received, [task]).receipts
    table = pq.read_table(Path(spec.output.path, receipt.quarantine.name))
    assert list(zip(table["id"].to_pylist(), table["sample"].to_pylist(), strict=True)) == [("r0001", 0), ("r0001", 1)]
    assert set(table["error_code"].to_pylist()) == {"worker_killed"}
    assert set(table["error_message"].to_pylist()) == {"run alone, it cost its worker: boom"}
    assert table["attempts"].to_pylist() == [4, 4]
    assert receipt.ok == 4


def test_metrics_that_are_asked_for_are_those_the_engine_told(tmp_path):
    worker, plan, spec = started(fake_job(tmp_path, ["a", "b"], output={"metrics": True}))
    wait_for(worker, loaded)
    (receipt,) = wait_for(worker, received, [give(plan)]).receipts
    table = pq.read_table(Path(spec.output.path, receipt.data.name))
    keys = table["noise_key"].to_pylist()
    assert table["revised_tokens"].to_pylist() == [key % 7 for key in keys]
    assert table["mean_entropy"].to_pylist() == [key % 100 / 128 for key in keys]
    assert table["queue_s"].to_pylist() == [0.5, 0.5] and table["denoise_s"].to_pylist() == [0.25, 0.25]


def test_shard_of_bad_rows_alone_has_no_data_file(tmp_path):
    worker, plan, _ = started(fake_job(tmp_path, [None, None]))
    wait_for(worker, loaded)
    (receipt,) = wait_for(worker, received, [give(plan)]).receipts
    assert receipt.data is None
    assert receipt.quarantine.rows == 2


def test_loaded_worker_wants_rows_until_it_has_enough_for_its_canvases_twice(tmp_path):
    worker, plan, _ = started(fake_job(tmp_path, ["!steps=50 x"] * 64, {"step_s": 0.02}))
    assert wait_for(worker, loaded).wants_rows == 8  # 4 canvases, twice
    first = worker.exchange([give(plan)])
    assert first.wants_rows <= 4  # 4 of its 8 rows are in the engine at most
    assert worker.exchange([give(plan, 1)]).wants_rows == 0


def test_hunger_is_told_as_it_comes_and_not_when_the_wait_for_news_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "NEWS_S", 60.0)
    worker, plan, _ = started(fake_job(tmp_path, ["!steps=100 x"] * 48, {"step_s": 0.01}, workers={"canvases": 20}))
    wait_for(worker, loaded)
    begun = time.monotonic()
    report = worker.exchange([Task(Piece.whole(shard)) for shard in plan.shards])
    assert 0 < report.wants_rows <= 20 and not report.receipts
    assert time.monotonic() - begun < 30


def test_shards_are_worked_on_across_their_borders(tmp_path):
    """The second shard begins while one slow row of the first is still in the engine."""
    worker, plan, _ = started(fake_job(tmp_path, ["!steps=60 slow"] + ["fast"] * 15, {"step_s": 0.02}))
    wait_for(worker, loaded)
    report = wait_for(
        worker,
        lambda report, receipts, failures: len(receipts) == 2,
        [give(plan), give(plan, 1)],
    )
    assert [receipt.shard for receipt in report.receipts] == [1, 0]


def test_missing_input_file_fails_its_shard_and_not_the_worker(tmp_path):
    worker, plan, spec = started(fake_job(tmp_path, ["a"] * 16))
    wait_for(worker, loaded)
    file = Path(spec.input.path)
    file.rename(file.with_suffix(".gone"))
    report = wait_for(worker, lambda report, receipts, failures: failures, [give(plan)])
    assert [failure.place for failure in report.failures] == [(0, 0)]
    assert "prompts.parquet" in str(report.failures[0])
    file.with_suffix(".gone").rename(file)
    assert wait_for(worker, received, [give(plan, attempt=2)]).receipts[0].ok == 8


def test_shard_that_cannot_be_written_is_a_failure_of_that_shard(tmp_path, monkeypatch):
    worker, plan, _ = started(fake_job(tmp_path, ["a"] * 4))
    wait_for(worker, loaded)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(piece_files, "write_shard", full)
    report = wait_for(worker, lambda report, receipts, failures: failures, [give(plan)])
    assert report.failures[0].place == (0, 0)
    assert "No space left" in report.failures[0].message


def test_engine_that_raises_is_told_as_fatal(tmp_path):
    worker, plan, _ = started(fake_job(tmp_path, ["fine", "!fatal"]))
    wait_for(worker, loaded)
    report = wait_for(worker, lambda report, receipts, failures: report.fatal, [give(plan)])
    assert str(report.fatal) == "RuntimeError: fake device error"
    assert report.loaded


def test_checkpoint_error_is_told_before_anything_is_loaded(tmp_path):
    worker, _, _ = started(fake_job(tmp_path, ["a"], {"load_error": "tensor model.x is missing"}))
    report = wait_for(worker, lambda report, receipts, failures: report.fatal)
    assert not report.loaded
    assert (report.fatal.kind, report.fatal.message) == ("CheckpointError", "tensor model.x is missing")


def test_engine_package_that_is_not_installed_is_named_with_the_fix(tmp_path):
    worker, _, _ = started(fake_job(tmp_path, ["a"]), "no_such_engine:Engine")
    report = wait_for(worker, lambda report, receipts, failures: report.fatal)
    assert report.fatal.kind == "CheckpointError"
    assert "no_such_engine" in report.fatal.message and "pip install 'dgbatch[engine]'" in report.fatal.message


def completed(spec: JobSpec, receipt: Commit) -> list[str]:
    return pq.read_table(Path(spec.output.path, receipt.data.name))["id"].to_pylist()


def begun(rows: int, of: int = 8):
    """Until the engine was given so many rows of the first shard."""
    return lambda report, receipts, failures: dict(report.unstarted).get((0, 0), of) <= of - rows


def test_closing_worker_begins_no_more_rows_and_hands_over_those_it_finished(tmp_path):
    worker, plan, spec = started(fake_job(tmp_path, ["!steps=10 x"] * 16, {"step_s": 0.05}))
    wait_for(worker, loaded)
    wait_for(worker, begun(4), [give(plan), give(plan, 1)])
    report = wait_for(worker, lambda report, receipts, failures: report.gone, closing_s=LIMIT_S)
    (receipt,) = report.receipts
    assert (receipt.shard, receipt.span, receipt.ok) == (0, (0, 4), 4)
    assert completed(spec, receipt) == ["r0000", "r0001", "r0002", "r0003"]
    assert (report.wants_rows, report.fatal) == (0, None)


def test_closing_worker_hands_over_the_rows_before_the_first_that_is_late(tmp_path):
    prompts = ["!steps=1 a", "!steps=1 b", "!steps=60 c", "!steps=1 d", *["!steps=60 x"] * 4]
    worker, plan, spec = started(fake_job(tmp_path, prompts, {"step_s": 0.05}, generation={"samples": 2}))
    wait_for(worker, loaded)
    wait_for(worker, lambda report, receipts, failures: report.stats.canvases >= 4, [give(plan)])
    report = wait_for(worker, lambda report, receipts, failures: report.gone, closing_s=0.2)
    (receipt,) = report.receipts
    assert (receipt.span, receipt.ok) == ((0, 2), 4)
    assert completed(spec, receipt) == ["r0000", "r0000", "r0001", "r0001"]


def test_worker_that_is_told_to_leave_before_it_has_done_anything_is_gone_with_nothing(tmp_path):
    worker, plan, spec = started(fake_job(tmp_path, ["!steps=60 x"] * 8, {"step_s": 0.05}))
    wait_for(worker, loaded)
    wait_for(worker, begun(1), [give(plan), give(plan, probe=range(2))])
    report = wait_for(worker, lambda report, receipts, failures: report.gone, closing_s=0.0)
    assert (report.receipts, report.failures, report.probed) == ((), (), ())
    assert not Path(spec.output.path).exists()


def test_sigterm_makes_a_worker_leave_that_has_its_process_to_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LEAVE_S", 0.2)
    before = signal.getsignal(signal.SIGTERM)
    try:
        worker, plan, _ = started(fake_job(tmp_path, ["!steps=60 x"] * 8, {"step_s": 0.05}), heed_sigterm=True)
        wait_for(worker, loaded)
        assert not wait_for(worker, begun(1), [give(plan)]).gone
        signal.raise_signal(signal.SIGTERM)
        assert wait_for(worker, lambda report, receipts, failures: report.gone).receipts == ()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_worker_asked_to_cut_keeps_half_of_the_rows_it_has_not_begun(tmp_path):
    worker, plan, spec = started(fake_job(tmp_path, ["!steps=20 x"] * 20, {"step_s": 0.05}, workers={"shard_rows": 20}))
    wait_for(worker, loaded)
    left = dict(wait_for(worker, begun(1, of=20), [give(plan)]).unstarted)[0, 0]
    assert left >= 12
    report = wait_for(worker, lambda report, receipts, failures: report.cuts, cuts=[(0, 0)])
    ((place, at),) = report.cuts
    now = dict(report.unstarted)[0, 0]
    assert (place, at) == ((0, 0), 20 - now)
    assert 0 <= at - (20 - left) - now <= 4  # rows that were begun meanwhile
    other, _, _ = started(str(tmp_path / "job.yaml"))
    wait_for(other, loaded)
    rest = wait_for(other, received, [Task(Piece(plan.shards[0], at, 20))]).receipts[0]
    kept = wait_for(worker, received).receipts[0]
    assert (kept.span, rest.span) == ((0, at), (at, 20))
    assert completed(spec, kept) + completed(spec, rest) == [f"r{i:04d}" for i in range(20)]


def test_worker_with_nothing_left_to_begin_cuts_nothing(tmp_path):
    worker, plan, _ = started(fake_job(tmp_path, ["!steps=40 x"] * 3, {"step_s": 0.05}))
    wait_for(worker, loaded)
    wait_for(worker, lambda report, receipts, failures: ((0, 0), 0) in report.unstarted, [give(plan)])
    report = wait_for(worker, lambda report, receipts, failures: report.cuts, cuts=[(0, 0)])
    assert report.cuts == (((0, 0), None),)
    (receipt,) = wait_for(worker, received).receipts
    assert (receipt.span, receipt.ok) == (None, 3)


def test_worker_is_idle_when_nothing_is_left_to_begin_and_half_its_canvases_are_empty(tmp_path):
    worker, plan, _ = started(fake_job(tmp_path, ["!steps=40 x"] * 8, {"step_s": 0.02}))
    assert wait_for(worker, loaded).idle
    assert not wait_for(worker, begun(4), [give(plan)]).idle
    wait_for(worker, received)
    assert worker.exchange().idle


def test_engine_that_has_no_memory_left_says_so(tmp_path):
    worker, plan, _ = started(fake_job(tmp_path, ["a", "!oom=1"]))
    wait_for(worker, loaded)
    report = wait_for(worker, lambda report, receipts, failures: report.fatal, [give(plan)])
    assert (report.fatal.kind, report.fatal.out_of_memory, report.canvases) == ("OutOfMemoryError", True, 4)


def test_heartbeat_moves_while_rows_are_denoised(tmp_path):
    worker, plan, _ = started(fake_job(tmp_path, ["!steps=300 x"], {"step_s": 0.01}))
    before = wait_for(worker, loaded).heartbeat
    assert (
        wait_for(
            worker,
            lambda report, receipts, failures: report.heartbeat > before + 2,
            [give(plan)],
        ).open_rows
        == 0
    )


def test_rows_that_a_round_of_retry_leaves_as_they_are_do_not_count_as_done(tmp_path):
    worker, plan, spec = started(fake_job(tmp_path, ["!steps=300 x"] * 8, {"step_s": 0.01}, output={"columns": []}))
    run, shard = new_run(spec), plan.shards[0]
    codes = ["b", *["a"] * 7]
    lost = [QuarantinedRow(f"r{i:04d}", 0, code, "", 1, {"prompt": "x", "answer": "y"}) for i, code in enumerate(codes)]
    _, file = write_shard(run.folder, 0, "abcd", "parquet", run.schemas, [], lost)
    again = Again(shard, 1, ("abcd",), (file,), ("b",), 1, 1)
    wait_for(worker, loaded)
    report = wait_for(worker, lambda report, receipts, failures: report.stats.passes, [again.of(Task(again.queued))])
    assert report.open_rows == 0
