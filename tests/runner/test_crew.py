from __future__ import annotations

import pytest

from dgbatch.errors import JobError
from dgbatch.runner.blocks import WorkersSpec
from dgbatch.runner.crew import Crew, crew


def test_machine_without_gpu_gets_a_worker_per_core_with_one_thread():
    made = crew(WorkersSpec(), {"CPU": 4.0})
    assert made == Crew(count=4, gpus=0.0, cpus=1.0)
    assert made.engine_threads == 1


def test_machine_with_gpus_gets_a_worker_per_gpu():
    made = crew(WorkersSpec(), {"CPU": 16.0, "GPU": 2.0})
    assert made == Crew(count=2, gpus=1.0, cpus=1.0)
    assert made.engine_threads is None


def test_more_workers_than_cores_share_them():
    assert crew(WorkersSpec(count=4), {"CPU": 2.0}) == Crew(count=4, gpus=0.0, cpus=0.5)


def test_gpus_can_be_shared_or_left_alone():
    assert crew(WorkersSpec(gpus=0.5), {"CPU": 8.0, "GPU": 2.0}).count == 4
    assert crew(WorkersSpec(gpus=0.0), {"CPU": 8.0, "GPU": 2.0}) == Crew(count=8, gpus=0.0, cpus=1.0)


def test_more_gpus_than_this_machine_has_are_refused_and_awaited_on_a_cluster():
    with pytest.raises(JobError, match="need 4 GPUs; this machine has 2"):
        crew(WorkersSpec(count=4), {"CPU": 8.0, "GPU": 2.0})
    assert crew(WorkersSpec(count=4, address="ray://head:10001"), {"CPU": 8.0, "GPU": 2.0}).count == 4
