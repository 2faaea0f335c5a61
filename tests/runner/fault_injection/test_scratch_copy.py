from __future__ import annotations

from dgbatch.runner.fault_injection.chaos import Chaos
from tests.runner.conftest import MakeJob


def test_nobody_who_watches_the_job_takes_its_scratch_copy_for_it(make_job: MakeJob, tmp_path) -> None:
    spec = make_job(None, "metrics.port=9464", "metrics.push=http://gateway:9091")
    command = Chaos(spec, [], tmp_path, lambda line: None, ["dgbatch", "submit", "job.yaml"]).submit
    assert {"metrics.port=null", "metrics.push=null", "metrics.textfile=null"} <= set(command)
