"""A node of the cluster is drained, as after a preemption notice, while a worker on it is in the middle of a shard."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from dgbatch.runner import rounds
from dgbatch.runner import submit as steps
from dgbatch.runner.progress import Progress
from tests.fake_engine import PATH, fake_job

pytestmark = pytest.mark.faults

PROMPTS = [f"prompt {i}" for i in range(80)]


def test_worker_on_a_node_that_is_drained_hands_over_what_it_did_and_the_other_goes_on(tmp_path, monkeypatch):
    import ray
    from ray.cluster_utils import Cluster
    from ray.core.generated.autoscaler_pb2 import DRAIN_NODE_REASON_PREEMPTION

    monkeypatch.setattr(rounds, "DRAINED_S", 0.2)
    small = {"object_store_memory": 100 * 2**20, "num_gpus": 0}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
    nodes = [cluster.add_node(num_cpus=1, **small) for _ in range(2)]
    drained: list[bool] = []

    def drain(progress: Progress) -> None:
        if progress.workers == 2 and progress.rows >= 8 and not drained:
            gcs = ray._private.worker.global_worker.gcs_client
            until = int((time.time() + 60) * 1000)
            accepted, _ = gcs.drain_node(nodes[0].node_id, DRAIN_NODE_REASON_PREEMPTION, "spot", until)
            drained.append(accepted)

    try:
        ray.init(
            address=cluster.address, log_to_driver=False, logging_level="ERROR",
            runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parents[2])}},
        )  # fmt: skip
        job = fake_job(tmp_path, PROMPTS, {"step_s": 0.3}, workers={"count": 2, "shard_rows": 40})
        done = steps.submit(job, engine=PATH, on_progress=drain)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert drained == [True]
    told = [event for event in done.run.events() if event["kind"] in ("node_draining", "worker_left", "worker_lost")]
    assert [event["kind"] for event in told] == ["node_draining", "worker_left"]
    assert told[0]["worker"] == told[1]["worker"]
    assert (done.exit_code, done.status.tally.ok, done.verification.holds) == (0, 80, True)
