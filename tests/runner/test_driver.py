from __future__ import annotations

import contextlib
import os
import signal
import statistics
import time
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dgbatch.errors import CheckpointError, InputError, OutputError, RunCancelled, RunFailed
from dgbatch.runner import losses
from dgbatch.runner import submit as steps
from dgbatch.runner.progress import Progress
from dgbatch.runner.run_folder import Run
from dgbatch.runner.status import status_of
from dgbatch.runner.submit import Submitted
from dgbatch.runner.verify import verify
from tests.fake_engine import PATH, fake_job
from tests.local_ray import local_ray

__all__ = ["local_ray"]

pytestmark = pytest.mark.usefixtures("local_ray")


def submit(job: str, *overrides: str, **options) -> Submitted:
    return steps.submit(job, overrides, engine=PATH, **options)


def rows(run: Run) -> dict[tuple[str, int], dict]:
    """The dataset by (id, sample), as a plain glob over data/ finds it."""
    tables = [pq.read_table(path) for path in Path(run.path, "data").glob("*.parquet")]
    return {(row["id"], row["sample"]): row for row in pa.concat_tables(tables).to_pylist()}


def quarantined(run: Run) -> list[dict]:
    tables = [pq.read_table(path) for path in sorted(Path(run.path, "quarantine").glob("*.parquet"))]
    return [row for table in tables for row in table.to_pylist()]


def events(run: Run, kind: str) -> list[dict]:
    return [event for event in run.events() if event["kind"] == kind]


PROMPTS = [f"prompt {i}" for i in range(40)]


def test_eta_of_a_real_job_comes_true(tmp_path):
    told: list[tuple[float, Progress]] = []
    prompts = [f"!steps={2 + 2 * (i * 3 % 5)} x" for i in range(300)]
    job = fake_job(tmp_path, prompts, {"step_s": 0.04}, workers={"count": 2, "shard_rows": 64})
    submit(job, on_progress=lambda progress: told.append((time.monotonic(), progress)))
    assert not Path(tmp_path, "out", "_dgbatch", "live.json").exists()
    ended = next(at for at, progress in told if progress.rows == 300)
    looks = [(ended - at, each) for at, each in told if 0.1 <= each.rows / 300 <= 0.9]
    assert len(looks) >= 5
    # Workers tell twice a second what they did; half of the looks may be spoilt by a machine that was busy later.
    errors = [max(0.0, abs(each.eta_s - truth_s) - 0.5) / truth_s for truth_s, each in looks]
    assert statistics.median(errors) <= 0.2, errors
    last = looks[-1][1]
    assert [worker.name for worker in last.crew] == ["w0", "w1"]
    assert sum(worker.rows for worker in last.crew) == last.rows
    assert last.mean_tokens_per_s == pytest.approx(last.tokens_per_s, rel=0.3)
    assert last.steps_per_canvas == pytest.approx(6.0, rel=0.1)


def test_job_becomes_a_verified_dataset(tmp_path):
    seen: list[Progress] = []
    done = submit(fake_job(tmp_path, PROMPTS), on_progress=seen.append)
    assert done.exit_code == 0
    assert (done.status.state, done.status.tally.ok, done.status.tally.shards) == ("completed", 40, 5)
    assert done.status.tally.accepted == 26
    assert done.verification.holds
    assert Path(done.run.path, "_SUCCESS").exists()
    assert {key: row["text"] for key, row in rows(done.run).items()} == {
        (f"r{i:04d}", 0): prompt[::-1] for i, prompt in enumerate(PROMPTS)
    }
    assert {progress.state for progress in seen} == {"validating", "in_progress", "finalizing"}
    assert [event["kind"] for event in done.run.events()][-1] == "completed"


def test_complete_job_submitted_again_starts_nothing(tmp_path):
    job = fake_job(tmp_path, PROMPTS[:4], workers={"count": 2})
    first = submit(job)
    assert [event["worker"] for event in events(first.run, "worker_ready")] == ["w0"]  # one shard needs one worker
    again = steps.submit(job, engine="no_such_engine:Engine")
    assert again.was_complete
    assert again.exit_code == 0
    assert again.status.tally == first.status.tally


def test_changed_job_is_refused_with_what_changed_unless_it_is_a_new_run(tmp_path):
    job = fake_job(tmp_path, PROMPTS[:4])
    first = submit(job)
    with pytest.raises(OutputError, match=r"generation\.seed: 0 -> 7"):
        submit(job, "generation.seed=7")
    second = submit(job, "generation.seed=7", new_run=True)
    third = submit(job, "generation.seed=7", new_run=True)
    assert [run.run.path for run in (second, third)] == [f"{first.run.path}-2", f"{first.run.path}-3"]
    assert rows(second.run)["r0000", 0]["noise_key"] != rows(first.run)["r0000", 0]["noise_key"]
    assert rows(second.run) == rows(third.run)


def test_changed_input_is_refused_with_the_file_that_changed(tmp_path):
    submit(fake_job(tmp_path, PROMPTS[:4]))
    with pytest.raises(
        OutputError, match=r"input file prompts\.parquet\n    - 4 rows, [\d,]+ bytes.*\n    \+ 5 rows, "
    ):
        submit(fake_job(tmp_path, PROMPTS[:5]))


def test_quarantined_rows_end_in_exit_code_3_now_and_when_asked_again(tmp_path):
    job = fake_job(tmp_path, ["fine", None, "!reject", "good"])
    assert submit(job).exit_code == 3
    assert submit(job).exit_code == 3


def test_killed_worker_costs_nothing_but_its_attempt(tmp_path):
    killed: list[int] = []

    def kill_once(progress: Progress) -> None:
        if progress.workers and progress.shards_done and not killed:
            where = events(Run.open(progress.path), "worker_ready")[-1]["where"]
            killed.append(int(where.split(":")[1]))
            os.kill(killed[0], signal.SIGKILL)

    plain = submit(fake_job(tmp_path / "plain", PROMPTS))
    job = fake_job(tmp_path / "killed", PROMPTS, {"step_s": 0.1}, workers={"count": 2})
    done = submit(job, on_progress=kill_once)
    assert killed
    assert events(done.run, "worker_lost")[0]["shards"]
    survived = rows(done.run)
    assert {row["attempt"] for row in survived.values()} == {1, 2}
    for key, row in rows(plain.run).items():
        assert {**row, "attempt": 0} == {**survived[key], "attempt": 0}


def test_row_that_kills_its_worker_once_is_tried_again(tmp_path):
    prompts = [*PROMPTS[:20], f"!die={tmp_path / 'died'}"]
    done = submit(fake_job(tmp_path, prompts))
    assert (tmp_path / "died").exists()
    assert done.exit_code == 0
    assert rows(done.run)["r0020", 0]["attempt"] == 2


def test_row_that_always_kills_its_worker_costs_itself_alone(tmp_path):
    prompts = [*PROMPTS[:10], "!die", *PROMPTS[11:]]
    done = submit(fake_job(tmp_path, prompts))
    assert done.exit_code == 3
    assert (done.status.tally.ok, done.status.tally.quarantined) == (39, 1)
    assert done.verification.holds
    (lost,) = quarantined(done.run)
    assert (lost["id"], lost["error_code"]) == ("r0010", "worker_killed")
    assert "run alone, it cost its worker: the process of worker w0 died" in lost["error_message"]
    assert rows(done.run)["r0009", 0]["attempt"] == lost["attempts"]
    (searching,), (poisoned,) = events(done.run, "searching"), events(done.run, "row_poisoned")
    assert (searching["shard"], searching["rows"]) == (1, 8)
    assert (poisoned["shard"], poisoned["row"], poisoned["id"]) == (1, 2, "r0010")


def test_two_rows_of_one_shard_that_kill_cost_themselves_alone(tmp_path):
    prompts = [*PROMPTS[:9], "!die", *PROMPTS[10:14], "!fatal", *PROMPTS[15:]]
    done = submit(fake_job(tmp_path, prompts, retry={"shard_attempts": 1}, generation={"samples": 2}))
    assert (done.exit_code, done.status.tally.ok) == (3, 76)
    lost = [(row["id"], row["sample"]) for row in quarantined(done.run)]
    assert lost == [("r0009", 0), ("r0009", 1), ("r0014", 0), ("r0014", 1)]
    assert "fake device error" in quarantined(done.run)[-1]["error_message"]
    assert done.verification.holds


def test_row_that_always_hangs_costs_itself_alone(tmp_path):
    done = submit(fake_job(tmp_path, ["a", "!hang"], retry={"shard_attempts": 1, "stall_timeout_s": 1.5}))
    assert (done.exit_code, done.status.tally.ok) == (3, 1)
    assert "made no step for 1.5 s" in quarantined(done.run)[0]["error_message"]


def test_device_without_the_memory_gets_half_the_canvases_and_no_row_is_lost(tmp_path):
    prompts = [*PROMPTS[:10], "!oom=2", *PROMPTS[11:]]
    notes: set[str] = set()
    done = submit(fake_job(tmp_path, prompts), on_progress=lambda progress: notes.add(progress.note))
    assert (done.exit_code, done.status.tally.ok) == (0, 40)
    (short,) = events(done.run, "out_of_memory")
    assert (short["worker"], short["device"], short["canvases"], short["now"]) == ("w0", "fake", 4, 2)
    assert [event["canvases"] for event in events(done.run, "worker_ready")] == [4, 2]
    assert done.run.canvases["fake"]["in_flight"] == 2
    assert "fake ran out of memory with 4 canvases in flight: worker w0 goes on with 2" in notes
    assert rows(done.run)["r0010", 0]["text"] == "2=moo!"
    assert not events(done.run, "searching")


def test_measured_number_of_canvases_is_halved_too_and_its_curve_kept(tmp_path):
    done = submit(fake_job(tmp_path, ["!oom=3", *PROMPTS[:30]], workers={"canvases": "auto"}))
    assert [(event["canvases"], event["now"]) for event in events(done.run, "out_of_memory")] == [(8, 4), (4, 2)]
    assert done.run.canvases["fake"] == {"in_flight": 2, "curve": [[4, 0.5], [8, 0.8]]}
    assert done.exit_code == 0


def test_row_that_does_not_fit_alone_costs_itself_alone(tmp_path):
    prompts = ["a", "b", "!oom", "d"]
    done = submit(fake_job(tmp_path, prompts, workers={"shard_rows": 4}))
    assert (done.exit_code, done.status.tally.ok) == (3, 3)
    assert [(event["canvases"], event["now"]) for event in events(done.run, "out_of_memory")] == [(4, 2), (2, 1)]
    (lost,) = quarantined(done.run)
    assert (lost["id"], lost["error_code"]) == ("r0002", "out_of_memory")
    assert "OutOfMemoryError: no memory for 1 canvases" in lost["error_message"]
    assert done.verification.holds


def test_worker_told_to_leave_hands_over_what_it_did_and_nobody_is_at_fault(tmp_path):
    told: list[int] = []

    def tell_once(progress: Progress) -> None:
        if progress.workers and progress.rows >= 4 and not told:
            where = events(Run.open(progress.path), "worker_ready")[-1]["where"]
            told.append(int(where.split(":")[1]))
            os.kill(told[0], signal.SIGTERM)

    job = fake_job(tmp_path, PROMPTS, {"step_s": 0.3}, retry={"shard_attempts": 1}, workers={"shard_rows": 40})
    done = submit(job, on_progress=tell_once)
    assert told
    assert (done.exit_code, done.verification.holds) == (0, True)
    assert [event["worker"] for event in events(done.run, "worker_left")] == ["w0"]
    assert not events(done.run, "worker_lost")
    assert [event["worker"] for event in events(done.run, "worker_ready")] == ["w0", "w0"]
    assert {row["attempt"] for row in rows(done.run).values()} == {1}
    (first, rest) = done.run.commits()
    assert (first.span[0], first.span[1], rest.span[1]) == (0, rest.span[0], 40)


def test_idle_worker_takes_over_halves_of_what_a_slow_one_has_not_begun(tmp_path):
    prompts = [f"!steps=4 {i}" for i in range(64)]
    plain = submit(fake_job(tmp_path / "plain", prompts))
    slow = {"step_s": 0.01, "slow_s": 0.6, "slow_file": str(tmp_path / "slow")}
    job = fake_job(tmp_path / "shared", prompts, slow, workers={"count": 2, "shard_rows": 32})
    done = submit(job)
    assert done.verification.holds
    cuts = events(done.run, "shard_cut")
    assert all(isinstance(event["at"], str) for event in cuts)  # when, not where
    (owner,) = {event["worker"] for event in cuts}
    by = {worker: [c for c in done.run.commits() if c.worker == worker] for worker in ("w0", "w1")}
    kept = [commit for commit in by[owner] if commit.span]
    assert len(kept) == 1 and kept[0].span[0] == 0
    assert sum(commit.ok for commit in by[owner]) <= 20  # of 32: 4 in the engine each 2.4 s, and half of the rest
    assert kept[0].seconds < 32 * 4 * 0.6 / 4  # what its whole shard takes it
    same = {key: {**row, "attempt": 0} for key, row in rows(plain.run).items()}
    assert {key: {**row, "attempt": 0} for key, row in rows(done.run).items()} == same


def test_shard_of_which_no_row_kills_alone_fails_the_run_by_name_and_costs_no_other(tmp_path):
    prompts = [*PROMPTS[:10], "!crowd", *PROMPTS[10:30]]
    job = fake_job(tmp_path, prompts, retry={"shard_attempts": 1})
    with pytest.raises(RunFailed, match=r"shard 1 \(prompts\.parquet, row group 0, rows 8 to 15\) failed [23] times"):
        submit(job)
    run = Run.open(str(tmp_path / "out"))
    assert [commit.shard for commit in run.commits()] == [0, 2, 3]
    status = status_of(run)
    assert (status.state, status.exit_code, status.workers) == ("failed", 4, 0)
    assert "shard 1" in status.reason


def test_engine_that_fails_in_company_is_named_as_the_reason(tmp_path):
    with pytest.raises(RunFailed, match="process of worker w0 died"):
        submit(fake_job(tmp_path, ["fine", "!crowd"], retry={"shard_attempts": 1}))


def test_workers_that_die_whatever_they_run_fail_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(losses, "SEARCH_DEATHS", 3)
    job = fake_job(tmp_path, ["!fatal"] * 8, retry={"shard_attempts": 1})
    with pytest.raises(RunFailed, match=r"3 workers in a row were lost, whichever rows they had: .*fake device error"):
        submit(job)
    run = Run.open(str(tmp_path / "out"))
    assert not run.attempts(run.plan.shards)[0, 0, 8].search.poison


def test_poison_rows_count_as_quarantined_and_are_not_sought_again(tmp_path):
    job = fake_job(tmp_path, ["!die", "a", "!die", "!die"], retry={"shard_attempts": 1, "max_failed_ratio": 0.25})
    with pytest.raises(RunFailed, match="2 of 4 rows are quarantined"):
        submit(job)
    run = Run.open(str(tmp_path / "out"))
    assert not run.commits()
    assert list(run.attempts(run.plan.shards)[0, 0, 4].search.poison) == [0, 2]
    done = submit(job, "retry.max_failed_ratio=0.9")
    assert done.exit_code == 3
    assert [row["id"] for row in quarantined(done.run)] == ["r0000", "r0002", "r0003"]
    assert [event["row"] for event in events(done.run, "row_poisoned")] == [0, 2, 3]
    assert rows(done.run)["r0001", 0]["attempt"] == 4


def test_shard_that_was_given_up_is_tried_again_with_its_count_going_on(tmp_path):
    job = fake_job(tmp_path, ["a", "!crowd"], retry={"shard_attempts": 1})
    with pytest.raises(RunFailed, match="failed 2 times"):
        submit(job)
    with pytest.raises(RunFailed, match="failed 4 times"):
        submit(job)
    attempts = tmp_path / "out" / "_dgbatch" / "attempts.json"
    attempts.write_text(attempts.read_text().replace('"attempts": 4', '"attempts": 0'))
    with pytest.raises(RunFailed, match="failed 2 times"):
        submit(job)
    (ignored,) = events(Run.open(str(tmp_path / "out")), "attempts_ignored")
    assert "attempts.json: its content does not match its own checksum" in ignored["reason"]


def test_worker_that_stands_still_is_replaced(tmp_path):
    prompts = [*PROMPTS[:8], f"!hang={tmp_path / 'hung'}"]
    done = submit(fake_job(tmp_path, prompts, retry={"stall_timeout_s": 1.5}))
    assert done.exit_code == 0
    assert "made no step for 1.5 s" in events(done.run, "worker_lost")[0]["reason"]


def test_too_many_quarantined_rows_fail_the_run(tmp_path):
    job = fake_job(tmp_path, ["fine", None, None, "good"], retry={"max_failed_ratio": 0.25})
    with pytest.raises(RunFailed, match="2 of 4 rows are quarantined"):
        submit(job)
    with pytest.raises(RunFailed, match="2 of 4 rows are quarantined"):
        submit(job)
    assert submit(job, "retry.max_failed_ratio=0.5").exit_code == 3


def test_run_that_fails_for_its_rows_names_the_commonest_code_and_a_row(tmp_path):
    prompts = ["fine", None, "!reject", "!reject", "!die", "good"]
    job = fake_job(tmp_path, prompts, retry={"max_failed_ratio": 0.25, "shard_attempts": 1})
    with pytest.raises(RunFailed, match=r"4 of 6 rows .*Most often prompt_too_long \(2 rows\), for example row 'r0"):
        submit(job)
    job = fake_job(tmp_path / "poison", ["!die", "a"], retry={"max_failed_ratio": 0.25, "shard_attempts": 1})
    with pytest.raises(RunFailed, match=r"Most often worker_killed \(1 rows\), for example row 0 of shard 0: the pro"):
        submit(job)


def test_checkpoint_that_a_worker_cannot_load_is_that_error_and_leaves_no_run(tmp_path):
    job = fake_job(tmp_path, PROMPTS[:4], {"load_error": "tensor model.norm.weight is missing"})
    with pytest.raises(CheckpointError, match=r"^tensor model\.norm\.weight is missing$"):
        submit(job)
    assert not (tmp_path / "out").exists()


def test_worker_that_crashes_while_loading_is_tried_three_times(tmp_path):
    job = fake_job(tmp_path, PROMPTS[:4], {"load_crash": "CUDA out of memory"})
    with pytest.raises(RunFailed, match=r"3 workers in a row .*CUDA out of memory"):
        submit(job)


def test_process_that_dies_while_loading_is_tried_three_times(tmp_path):
    with pytest.raises(RunFailed, match=r"3 workers in a row .*the process of worker w0 died"):
        submit(fake_job(tmp_path, PROMPTS[:4], {"load_exit": 9}))


def test_worker_with_another_model_than_the_run_is_refused(tmp_path, monkeypatch):
    model = {"checkpoint": "x", "revision": None, "checksum": "feedfacefeedface"}
    monkeypatch.setattr(steps, "describe_model", lambda *_: model)
    with pytest.raises(OutputError, match=r"feedfacefeed, and worker w0 found fake"):
        submit(fake_job(tmp_path, PROMPTS[:4]))


def test_resumed_run_with_changed_checkpoint_files_is_refused(tmp_path, monkeypatch):
    job = fake_job(tmp_path, [*PROMPTS[:8], "a", "!crowd"], {"checksum": "aaaa"}, retry={"shard_attempts": 1})
    model = {"checkpoint": "x", "revision": None, "checksum": "aaaa"}
    monkeypatch.setattr(steps, "describe_model", lambda *_: dict(model))
    with pytest.raises(RunFailed):
        submit(job)
    model["checksum"] = "bbbb"
    with pytest.raises(
        OutputError, match=r"model files of .*\n    - checksum aaaa\n    \+ checksum bbbb\n\nPut it back, .* --new-run"
    ):
        submit(job)


STOPPED = {"SIGINT": (RunCancelled, 130, "cancelled", "stopped with"), "SIGTERM": (RunFailed, 4, "failed", "SIGTERM")}


@pytest.mark.parametrize("name", STOPPED)
def test_stop_signal_commits_what_is_begun_and_the_next_submit_resumes(tmp_path, name):
    kind, exit_code, state, said = STOPPED[name]
    raised: list[int] = []

    def stop(progress: Progress) -> None:
        if progress.rows >= 4 and not raised:
            raised.append(progress.rows)
            signal.raise_signal(signal.Signals[name])

    job = fake_job(tmp_path, PROMPTS, {"step_s": 0.3}, workers={"shard_rows": 40})
    with pytest.raises(kind, match=f"{said}.* 0 of 1 shards committed"):
        submit(job, on_progress=stop)
    run = Run.open(str(tmp_path / "out"))
    assert (status_of(run).state, status_of(run).exit_code) == (state, exit_code)
    before = {commit.name: commit for commit in run.commits()}
    (piece,) = before.values()
    committed = piece.ok
    assert raised[0] < committed < 40  # the rows at work were let finish, and no others begun
    assert piece.span == (0, committed)
    assert [event["worker"] for event in events(run, "worker_left")] == ["w0"]
    done = submit(job)
    after = {commit.name: commit for commit in done.run.commits()}
    assert done.rows_before == committed
    assert {name: after[name] for name in before} == before
    assert verify(done.run).holds
    assert {row["attempt"] for row in rows(done.run).values()} == {1}


def test_second_stop_signal_does_not_wait_for_the_shards_at_work(tmp_path):
    def press_twice(progress: Progress) -> None:
        if progress.workers and not progress.note:
            signal.raise_signal(signal.SIGINT)
        if "stopping" in progress.note:
            signal.raise_signal(signal.SIGTERM)

    started = time.monotonic()
    with pytest.raises(RunCancelled):
        submit(fake_job(tmp_path, ["!steps=9999 x"] * 8, {"step_s": 0.05}), on_progress=press_twice, drain_s=60)
    assert time.monotonic() - started < 30


def test_drain_has_a_limit(tmp_path):
    def press(progress: Progress) -> None:
        if progress.workers and not progress.note:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(RunCancelled, match="0 of 1 shards"):
        submit(fake_job(tmp_path, ["!steps=9999 x"] * 8, {"step_s": 0.05}), on_progress=press, drain_s=0.5)


def test_keyboard_interrupt_outside_of_the_loop_is_a_cancelled_run(tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(steps, "run_job", interrupted)
    with pytest.raises(RunCancelled, match="interrupted"):
        submit(fake_job(tmp_path, PROMPTS[:4]))
    assert status_of(Run.open(str(tmp_path / "out"))).state == "cancelled"


def test_arrow_files_and_a_duckdb_file_come_out_as_asked(tmp_path):
    path = tmp_path / "db" / "answers.duckdb"
    job = fake_job(tmp_path, PROMPTS[:12], output={"format": "arrow", "duckdb": str(path)})
    done = submit(job)
    (first, second) = sorted(Path(done.run.path, "data").glob("*.arrow"))
    assert pa.ipc.open_file(first).read_all().num_rows + pa.ipc.open_file(second).read_all().num_rows == 12
    with contextlib.closing(duckdb.connect(str(path), read_only=True)) as connection:
        assert connection.execute("select count(*) from completions").fetchone() == (12,)
    path.unlink()
    assert submit(job).was_complete
    assert path.exists()


def test_input_that_vanishes_while_the_job_runs_is_named_as_the_reason(tmp_path, monkeypatch):
    job = fake_job(tmp_path, PROMPTS[:4], retry={"shard_attempts": 2})
    plan = steps.make_plan

    def plan_then_vanish(spec):
        made = plan(spec)
        Path(spec.input.path).unlink()
        return made

    monkeypatch.setattr(steps, "make_plan", plan_then_vanish)
    with pytest.raises(RunFailed, match=r"failed 2 times.*prompts\.parquet"):
        submit(job)
    monkeypatch.undo()
    with pytest.raises(InputError):
        submit(job)


def test_dataset_that_does_not_hold_is_never_called_complete(tmp_path, monkeypatch):
    def damaged(run):
        next(Path(run.path, "data").glob("*.parquet")).unlink()
        return verify(run)

    monkeypatch.setattr(steps, "verify", damaged)
    with pytest.raises(RunFailed, match="does not hold"):
        submit(fake_job(tmp_path, PROMPTS[:4]))
    assert not (tmp_path / "out" / "_SUCCESS").exists()
