"""A job file is data: whatever is in it, the answer is a job or an error that a person can read."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgbatch.errors import JobError
from dgbatch.runner import job_yaml
from dgbatch.runner.spec import JobSpec, load_job
from tests.security.damage import damaged

TEMPLATE = (Path(job_yaml.__file__).parent / "template.yaml").read_bytes()


def outcome(folder: Path, data: bytes) -> JobSpec | JobError:
    (folder / "job.yaml").write_bytes(data)
    try:
        return load_job(str(folder / "job.yaml"))
    except JobError as error:
        return error


@settings(max_examples=300)
@given(st.binary(max_size=300) | damaged(TEMPLATE))
def test_any_bytes_are_a_job_or_a_plain_refusal(tmp_path_factory, data):
    found = outcome(tmp_path_factory.getbasetemp(), data)
    assert isinstance(found, JobSpec) or 0 < len(str(found).splitlines()) <= 12


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: " + "[" * 100_000, "nested more than 16 deep"),
        ("a: " + "{a: " * 100_000, "nested more than 16 deep"),
        ("a: &x [1]\nb: [*x, *x]", "*x refers to another part of the file"),
        ("a: !!python/object/apply:os.system ['touch hacked']", "not valid YAML"),
        ("a: !!python/name:os.system", "not valid YAML"),
        ("a: " + "x" * job_yaml.MAX_BYTES, "holds at most 1,048,576"),
        ("a: " + "9" * 10_000, "a value does not parse"),
    ],
)
def test_yaml_neither_unfolds_nor_runs(tmp_path, monkeypatch, text, says):
    monkeypatch.chdir(tmp_path)
    error = outcome(tmp_path, text.encode())
    assert isinstance(error, JobError) and says in str(error)
    assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"]


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/b", "..", "a\0b", "a\nb", ""])
def test_name_of_a_job_is_no_path(name):
    data = {"version": 1, "name": name, "model": {"checkpoint": "demo"}, "input": {"path": "demo"}}
    with pytest.raises(JobError, match="name: "):
        JobSpec.from_public({**data, "prompt": {"template": "x"}, "output": {"path": "/out"}})
