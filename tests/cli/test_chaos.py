"""What `dgbatch chaos` prints and how it leaves; tests/faults/test_chaos.py runs it for real."""

from __future__ import annotations

import functools

import pytest

from dgbatch.runner.fault_injection import chaos as steps
from dgbatch.runner.fault_injection.fault_plan import fault_plan
from dgbatch.runner.fault_injection.outcome import Outcome, Survived
from dgbatch.runner.verify import Verification
from tests.cli.command import dgbatch

HOLDS = Verification(input=48, ok=47, quarantined=1)


@pytest.fixture
def told(monkeypatch):
    """The command gets this end of a run, whatever it is asked; returns what it asked."""
    asked: list[tuple] = []

    def run(survived: Survived, *arguments, **options):
        asked.append(arguments)
        return survived

    def tell(survived: Survived) -> list[tuple]:
        monkeypatch.setattr(steps, "chaos", functools.partial(run, survived))
        return asked

    return tell


def survived(happened: bool = True, proof: Verification | None = HOLDS) -> Survived:
    first, second = fault_plan("worker@5s,driver@40%")
    struck = Outcome(first, 5.1, "SIGKILL to worker w0, pid 4711", answer="noticed after 0.3 s")
    killed = Outcome(second, 9.0, "SIGKILL to pid 42", answer="submitted again after 4.0 s")
    outcomes = [struck, killed if happened else Outcome(second)]
    return Survived(outcomes, [-9, 3], proof, "" if proof else "the disk is gone", 8, 31.4, None)


def test_table_says_what_happened_and_the_proof_follows(capfd, told):
    asked = told(survived())
    left = dgbatch(capfd, "chaos", "job.yaml", "--kill", "worker@5s,driver@40%", "--set", "input.limit=48")
    assert left.code == 0
    assert asked == [("job.yaml", fault_plan("worker@5s,driver@40%"), ["input.limit=48"], False)]
    for words in (
        "kill worker@5s",
        "5.1 s",
        "noticed after 0.3 s",
        "2 submits: killed, 3; 31 s in all",
        "in 48 = ok 47",
    ):
        assert words in left.out
    assert left.out.splitlines()[-1] == "it holds: nothing lost, nothing twice"
    assert max(map(len, left.out.splitlines())) <= 80


def test_fault_that_did_not_happen_is_a_failure(capfd, told):
    told(survived(happened=False))
    left = dgbatch(capfd, "chaos", "job.yaml", "--kill", "worker@5s,driver@40%")
    assert left.code == 4
    assert "1 fault did not happen" in left.out and "never" in left.out
    assert left.out.splitlines()[-1] == "NOT PROVEN"


@pytest.mark.parametrize(
    ("proof", "words"), [(None, "no dataset came of it: the disk is gone"), (Verification(48, 47, 0, 1), "missing 1")]
)
def test_dataset_that_does_not_hold_is_a_failure(capfd, told, proof, words):
    told(survived(proof=proof))
    left = dgbatch(capfd, "chaos", "job.yaml", "--kill", "worker@5s")
    assert left.code == 4
    assert words in left.out


def test_json_is_one_object(capfd, told):
    told(survived())
    answer = dgbatch(capfd, "chaos", "job.yaml", "--kill", "worker@5s", "--json").json
    assert (answer["ok"], answer["submits"], answer["seconds"]) == (True, [-9, 3], 31.4)
    assert answer["faults"][0] == {
        "fault": "kill worker@5s",
        "happened": True,
        "at_s": 5.1,
        "what": "SIGKILL to worker w0, pid 4711",
        "answer": "noticed after 0.3 s",
    }
    assert answer["verify"]["holds"]


@pytest.mark.parametrize("arguments", [[], ["--kill", "robot@5s"], ["--store-errors", "2"]])
def test_wrong_fault_is_refused_before_anything_starts(capfd, monkeypatch, arguments):
    monkeypatch.setattr(steps, "chaos", lambda *_, **__: pytest.fail("it was started"))
    left = dgbatch(capfd, "chaos", "job.yaml", *arguments)
    assert left.code == 2
    assert left.err.startswith("error: ")


def test_job_that_is_not_there_is_refused_and_leaves_nothing(capfd, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = dgbatch(capfd, "chaos", "nowhere.yaml", "--kill", "worker@5s")
    assert left.code == 2 and "nowhere.yaml" in left.err
    assert list(tmp_path.iterdir()) == []


def test_job_that_is_not_there_is_named_before_the_faults_are(capfd):
    assert dgbatch(capfd, "chaos", "nowhere.yaml").err.startswith("error: nowhere.yaml: no such job file")
    assert dgbatch(capfd, "chaos", "nowhere.yaml", "--kill", "cat@5s").err.startswith("error: nowhere.yaml: no such")
