"""A node of the cluster is lost, or its link is cut, while a job runs on it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dgbatch.runner import submit as steps
from dgbatch.runner.fault_injection.faults import workers_at_work
from dgbatch.runner.progress import Progress
from dgbatch.runner.run_folder import Run
from dgbatch.runner.storage.local_folder import LocalFolder
from tests.fake_engine import PATH, fake_job
from tests.faults.drill import FAKE
from tests.faults.outcome import assert_nothing_lost, assert_same_rows
from tests.faults.two_hosts import TwoHosts, why_not

pytestmark = pytest.mark.faults

PROMPTS = [f"prompt {i}" for i in range(48)]
IDS = [f"r{i:04d}" for i in range(48)]
LIMIT_S = 150.0


@pytest.fixture(scope="module")
def faultless(tmp_path_factory) -> Path:
    """The run that nothing happened to."""
    folder = tmp_path_factory.mktemp("faultless")
    job = fake_job(folder, PROMPTS)
    assert subprocess.run([*FAKE, "submit", job], capture_output=True, timeout=120).returncode == 0
    return folder / "out"


def lost(run: Path) -> list[dict]:
    return [event for event in Run.open(str(run)).events() if event["kind"] == "worker_lost"]


def test_lost_node_costs_its_shards_an_attempt(tmp_path, faultless):
    import ray
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 100 * 2**20, "num_gpus": 0}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
    nodes = [cluster.add_node(num_cpus=1, **small) for _ in range(2)]
    removed: list[int] = []

    def lose_a_node(progress: Progress) -> None:
        if progress.workers == 2 and progress.shards_done and not removed:
            removed.append(progress.shards_done)
            cluster.remove_node(nodes[0], allow_graceful=False)

    try:
        root = str(Path(__file__).parents[2])
        ray.init(
            address=cluster.address, log_to_driver=False, logging_level="ERROR",
            runtime_env={"env_vars": {"PYTHONPATH": root}},
        )  # fmt: skip
        job = fake_job(tmp_path, PROMPTS, {"step_s": 0.4}, workers={"count": 2})
        done = steps.submit(job, engine=PATH, on_progress=lose_a_node)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert removed and done.exit_code == 0
    assert [bool(event["shards"]) for event in lost(tmp_path / "out")] == [True]
    assert_nothing_lost(tmp_path / "out", IDS)
    assert_same_rows(tmp_path / "out", faultless)


@pytest.fixture
def two_hosts(request) -> Iterator[TwoHosts]:
    if reason := why_not():
        pytest.skip(reason)
    made = TwoHosts(cpus=request.param)
    yield made
    made.stop()


def submit(hosts: TwoHosts, job: str, host: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.fake_cli", "submit", job, "--set", f"workers.address={hosts.cluster}"]
    return hosts.run(host, [*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for_work(process: subprocess.Popen[bytes], run: Path, workers: int) -> None:
    """Until so many workers are ready and something is committed."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "waited too long"
        begun = (run / "_dgbatch" / "commits").exists() and Run.open(str(run)).commits()
        if begun and len(list(workers_at_work(LocalFolder(run)))) == workers:
            return
        time.sleep(0.05)


@pytest.mark.parametrize("two_hosts", [(1, 1)], indirect=True)
def test_run_goes_on_beside_the_host_that_cannot_be_reached(tmp_path, faultless, two_hosts):
    job = fake_job(tmp_path, PROMPTS, {"step_s": 0.5}, workers={"count": 2}, retry={"stall_timeout_s": 8})
    process = submit(two_hosts, job, host=0)
    wait_for_work(process, tmp_path / "out", workers=2)
    two_hosts.cut()
    out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, err.decode()
    assert json.loads(out)["rows"] == {"expected": 48, "ok": 48, "quarantined": 0}
    assert len(lost(tmp_path / "out")) >= 1
    assert_nothing_lost(tmp_path / "out", IDS)
    assert_same_rows(tmp_path / "out", faultless)


@pytest.mark.parametrize("two_hosts", [(1, 0)], indirect=True)
def test_driver_cut_off_from_its_cluster_ends_in_bounded_time_and_the_next_submit_completes(
    tmp_path, faultless, two_hosts
):
    job = fake_job(tmp_path, PROMPTS, {"step_s": 0.5}, retry={"stall_timeout_s": 8})
    process = submit(two_hosts, job, host=1)
    wait_for_work(process, tmp_path / "out", workers=1)
    two_hosts.cut()
    _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 4, err.decode()
    assert b"the driver has waited for Ray for 15 s" in err
    assert 0 < len(Run.open(str(tmp_path / "out")).commits()) < 6
    two_hosts.heal()
    again = submit(two_hosts, job, host=0)
    _, err = again.communicate(timeout=LIMIT_S)
    assert again.returncode == 0, err.decode()
    assert_nothing_lost(tmp_path / "out", IDS)
    assert_same_rows(tmp_path / "out", faultless)
