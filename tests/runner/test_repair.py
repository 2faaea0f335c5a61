"""repair lets go of damaged shards and of nothing else, so that doing what is left makes the run whole again."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dgbatch.runner.commits import COMMITS
from dgbatch.runner.repair import repair
from dgbatch.runner.run_folder import Run
from dgbatch.runner.spec import load_job
from dgbatch.runner.status import status_of
from dgbatch.runner.verify import verify
from tests.runner.conftest import JOB, prompts
from tests.runner.small_run import commit_all, new_run, record_path, write_attempt


def bad(row_id: str) -> bool:
    return row_id in ("r2", "r5")


def finished(folder: Path) -> Run:
    """Shards of 4, 4 and 2 rows; r2 and r5 are in quarantine."""
    folder.mkdir(exist_ok=True)
    pq.write_table(prompts(10), folder / "in.parquet")
    (folder / "job.yaml").write_text(JOB)
    run = commit_all(new_run(load_job(str(folder / "job.yaml"), ["input.id=id", "workers.shard_rows=4"])), bad)
    run.finalise()
    return run


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_run_is_whole_again_after_repair_and_what_is_left(tmp_path_factory, data):
    run = finished(tmp_path_factory.mktemp("run"))
    commits = run.commits()
    hurt = data.draw(st.sets(st.integers(0, 2)))
    for index in hurt:
        files = [f"{COMMITS}/{index:06d}.json", *(file.name for file in commits[index].files)]
        name = data.draw(st.sampled_from(files))
        raw = bytearray(run.folder.get(name))
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
        run.folder.at(name).write_bytes(raw)
    assert repair(run, verify(run)) == sorted(hurt)
    assert run.succeeded == (not hurt)
    left = Run.open(run.path)
    assert [shard.index for shard, _ in left.ledger().outstanding()] == sorted(hurt)
    commit_all(left, bad, [shard for shard in left.plan.shards if shard.index in hurt])
    left.finalise()
    assert verify(left).holds
    names = sorted(path.name for path in (Path(run.path) / "data").iterdir())
    assert len(names) == 3  # what was damaged is gone with the run's end


def test_every_record_of_a_damaged_shard_goes_and_none_of_another(tmp_path):
    run = finished(tmp_path)
    piece = write_attempt(run, run.plan.shards[1], span=(0, 2))
    run.folder.put_if_absent(piece.name, piece.to_json(run.fingerprint))
    data = run.commits()[1].data
    assert data is not None
    run.folder.delete(data.name)
    assert repair(run, verify(run)) == [1]
    assert [path.name for path in sorted(record_path(run, 0).parent.iterdir())] == ["000000.json", "000002.json"]
    assert run.events()[-1]["kind"] == "repaired" and run.events()[-1]["shards"] == [1]
    status = status_of(run)
    assert (status.state, status.reason) == ("failed", "1 damaged shard forgotten; submit again to make them anew")


def test_files_that_a_record_names_and_nobody_finds_are_gone(tmp_path):
    run = finished(tmp_path)
    assert run.gone(run.ledger()) == []
    quarantine = run.commits()[1].quarantine
    assert quarantine is not None
    run.folder.delete(quarantine.name)
    assert run.gone(run.ledger()) == [quarantine.name]
