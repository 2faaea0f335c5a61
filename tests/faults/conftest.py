"""A Ray for these tests alone: its workers know the folder of switches that fault_injection/faults.py obeys."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dgbatch.runner.fault_injection.faults import VARIABLE, Switches


@pytest.fixture(scope="module")
def ray_with_faults(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of switches of a Ray on this machine, for submits inside the test's process."""
    import ray

    switches = tmp_path_factory.mktemp("switches")
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=100 * 2**20,
        runtime_env={"env_vars": {"PYTHONPATH": path, VARIABLE: str(switches)}},
    )
    yield switches
    ray.shutdown()


@pytest.fixture
def switches(ray_with_faults: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Switches]:
    """All of them off, for the driver in this process and for its workers."""
    monkeypatch.setenv(VARIABLE, str(ray_with_faults))
    yield Switches(ray_with_faults)
    for file in ray_with_faults.iterdir():
        file.unlink()
