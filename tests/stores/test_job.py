"""Whole jobs whose input and output lie in an object store, by real processes: killed, resumed, verified, asked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dgbatch.runner.layout import REPORT
from dgbatch.runner.run_folder import Run
from dgbatch.runner.storage.folder import Folder, open_folder
from dgbatch.runner.storage.store_folder import StoreFolder
from tests.fake_engine import fake_checkpoint, fake_job
from tests.stores import servers
from tests.stores.conftest import STORES
from tests.stores.faulty import Faulty
from tests.stores.servers import Server

ROOT = Path(__file__).parents[2]
LIMIT_S = 150.0
PROMPTS = [f"prompt {i}" for i in range(48)]


@contextmanager
def spawn(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A real dgbatch process in the environment of this one; it does not outlive the test."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fake_cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1"},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


class Session:
    """Commands, and everything that they ever printed."""

    def __init__(self) -> None:
        self.printed = ""

    def run(self, *arguments: str, code: int = 0) -> str:
        with spawn(*arguments) as process:
            try:
                out, err = process.communicate(timeout=LIMIT_S)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGABRT)  # faulthandler says where each thread was
                pytest.fail(f"{arguments} took more than {LIMIT_S} s:\n{process.communicate()[1]}")
        self.printed += out + err
        assert process.returncode == code, f"{arguments} left with {process.returncode}:\n{out}\n{err}"
        assert "Traceback" not in err
        return out


def remote_job(folder: Path, place: str, prompts: list[str], **blocks: object) -> str:
    """A job whose prompts were moved into the store, and whose output goes there."""
    output = {"path": f"{place}/out"}
    job = fake_job(folder, prompts, blocks.pop("settings", None), output=output, **blocks)  # type: ignore[arg-type]
    data = json.loads(Path(job).read_text())
    data["input"]["path"] = f"{place}/in/*.parquet"
    Path(job).write_text(json.dumps(data))
    open_folder(f"{place}/in").put("prompts.parquet", (folder / "prompts.parquet").read_bytes())
    os.remove(folder / "prompts.parquet")
    return job


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def records(run: Folder) -> dict[str, bytes]:
    return {name: run.get(name) for name in run.list("_dgbatch/commits")}


def dataset(path: str) -> list[dict]:
    """By what a plain reader of data/ would find."""
    folder = open_folder(path)
    schema = Run.open(path).schemas.data
    rows = folder.dataset(folder.list("data"), schema, "parquet").to_table().to_pylist()
    return [{name: value for name, value in row.items() if name != "attempt"} for row in rows]


@pytest.mark.faults
@pytest.mark.timeout(400)
@pytest.mark.parametrize("place", STORES[1:], indirect=True)
def test_job_in_a_store_killed_in_the_middle_resumes_and_every_command_takes_its_uri(
    place: str, tmp_path: Path
) -> None:
    session, target = Session(), tmp_path / "all.jsonl"
    prompts = [f"prompt {number}" for number in range(96)]
    job, uri = remote_job(tmp_path, place, prompts, settings={"step_s": 0.4}), f"{place}/out"
    run = open_folder(uri)
    assert json.loads(session.run("plan", job, "--json", "--set", "model.checkpoint=demo"))["expected"] == 96

    with spawn("submit", job) as process:
        wait_until(lambda: len(records(run)) >= 2, process)
        second = json.loads(session.run("submit", job, "--json", code=5))
        assert f"pid {process.pid}" in second["error"]["message"]
        assert json.loads(session.run("status", uri, "--json"))["state"] == "in_progress"
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=LIMIT_S)
    before = records(run)
    assert 2 <= len(before) < 12
    assert json.loads(session.run("status", uri, "--json"))["state"] == "failed"
    early = json.loads(session.run("report", uri, "--json"))
    assert (early["file"], early["state"]) == (f"{uri}/{REPORT}", "failed")
    assert 16 <= early["rows"]["ok"] < 96

    fake_checkpoint(tmp_path / "checkpoint")  # from here on at full speed
    answer = json.loads(session.run("submit", job, "--json"))
    assert (answer["state"], answer["run"]) == ("completed", uri)
    assert answer["rows"] == {"expected": 96, "ok": 96, "quarantined": 0}
    after = records(run)
    assert {name: after[name] for name in before} == before
    assert len(run.list("data")) == 12  # what the killed process left is gone
    assert sorted(row["text"] for row in dataset(uri)) == sorted(prompt[::-1] for prompt in prompts)
    page = run.get(REPORT).decode()
    assert "in 96 = ok 96 + quarantined 0" in page and "again after " in page

    proof = json.loads(session.run("verify", uri, "--replay", "20", "--json"))
    assert (proof["holds"], proof["ok"], proof["missing"], proof["duplicate"]) == (True, 96, 0, 0)
    assert (proof["replayed"], proof["replay_mismatches"]) == (20, 0)
    told = json.loads(session.run("sql", uri, "select count(*), count(distinct id) from completions", "--json"))
    assert told["rows"] == [[96, 96]]
    (listed,) = json.loads(session.run("ls", place, "--json"))["runs"]
    assert (listed["run"], listed["state"]) == (uri, "completed")
    session.run("export", uri, str(target))
    assert sorted(json.loads(line)["id"] for line in target.read_text().splitlines()) == [
        f"r{number:04d}" for number in range(96)
    ]
    assert "already completed" in session.run("submit", job)

    run.delete(run.list("data")[0])
    lost = json.loads(session.run("submit", job, "--json", code=4))
    assert f"dgbatch verify {uri} --repair" in lost["error"]["message"]
    assert json.loads(session.run("verify", uri, "--repair", "--json", code=4))["forgotten"] == [0]
    assert len(records(run)) == 11 and not run.exists("_SUCCESS")


def test_no_secret_is_printed_or_written(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted as credentials: looked for in what is printed when all goes well, when nothing does, and in the run."""
    planted = ("PLANTEDKEYID", "planted-open-sesame", "planted-session-token")
    for name, value in zip(("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN"), planted, strict=True):
        monkeypatch.setenv(f"AWS_{name}", value)
    session, job = Session(), remote_job(tmp_path, s3, [*PROMPTS[:10], "!reject"])
    folder = open_folder(s3)
    assert isinstance(folder, StoreFolder)
    session.run("submit", job, code=3)
    session.run("retry", f"{s3}/out", code=3)
    session.run("verify", f"{s3}/out")
    for asked in (["status", "s3://nobody-made-this/out"], ["submit", job, "--set", "output.path=s3://no-bucket/out"]):
        session.run(*asked, code=2)
    with Faulty(os.environ["AWS_ENDPOINT_URL"], choose=lambda method, path: "403") as refusing:
        monkeypatch.setenv("AWS_ENDPOINT_URL", refusing.url)
        session.run("status", f"{s3}/out", code=2)
        session.run("submit", job, code=2)
        assert refusing.met["403"] > 0
    monkeypatch.undo()
    written = b"".join(found.key.encode() + folder.store.get(found.key) for found in folder.store.below(folder.key("")))
    for secret in planted:
        assert secret not in session.printed
        assert secret.encode() not in written
    assert b"prompt 1" in written or len(written) > 5_000
    assert "answered 403 SignatureDoesNotMatch. Are the credentials right, and may they do this?" in session.printed


@pytest.mark.faults
@pytest.mark.parametrize("seed", [1, 2])
def test_a_job_over_a_store_that_fails_now_and_then_comes_to_the_same_rows(
    moto_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    print(f"seed {seed}")
    moto_server.enter(monkeypatch)
    place = f"{moto_server.uri}/{tmp_path.name}"
    job, session = remote_job(tmp_path, place, PROMPTS), Session()
    with Faulty(moto_server.endpoint, share=0.08, seed=seed) as proxy:
        servers.s3(proxy.url).enter(monkeypatch)
        session.run("submit", job)
        assert json.loads(session.run("verify", f"{place}/out", "--json"))["holds"]
        assert sum(proxy.met.values()) >= 5, proxy.met
    moto_server.enter(monkeypatch)
    assert sorted(row["text"] for row in dataset(f"{place}/out")) == sorted(prompt[::-1] for prompt in PROMPTS)


@pytest.mark.faults
def test_wrong_credentials_end_before_anything_starts(
    seaweedfs_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that checks signatures."""
    seaweedfs_server.enter(monkeypatch)
    place = f"{seaweedfs_server.uri}/{tmp_path.name}"
    job, session = remote_job(tmp_path, place, PROMPTS[:8]), Session()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-open-sesame")
    for asked in (
        ["plan", job],
        ["submit", job],
        ["status", f"{place}/out"],
        ["ls", place],
        ["verify", f"{place}/out"],
    ):
        session.run(*asked, code=2)
    assert "the store answered 403" in session.printed
    assert "planted-open-sesame" not in session.printed


@pytest.mark.faults
@pytest.mark.timeout(400)
def test_a_store_that_goes_away_ends_the_job_with_4_and_the_next_submit_resumes(
    moto_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy stops; after a minute of trying the driver gives up."""
    moto_server.enter(monkeypatch)
    place = f"{moto_server.uri}/{tmp_path.name}"
    job, session = remote_job(tmp_path, place, PROMPTS, settings={"step_s": 0.15}), Session()
    run = open_folder(f"{place}/out")
    with Faulty(moto_server.endpoint) as proxy:
        servers.s3(proxy.url).enter(monkeypatch)
        with spawn("submit", job) as process:
            wait_until(lambda: len(run.list("_dgbatch/commits")) >= 2, process)
            proxy._choose = lambda method, path: "500"
            _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 4
    assert "the store answered 500 InternalError" in err and "Traceback" not in err
    moto_server.enter(monkeypatch)
    session.run("submit", job)
    assert json.loads(session.run("verify", f"{place}/out", "--json"))["holds"]
