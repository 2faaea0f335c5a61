"""A job under faults, in a scratch copy: kill, hang, fill the disk, submit again as a scheduler would, then prove it.

The job's own run is never touched: its output goes to a folder of this chaos run alone, which is removed at the end.
Only this machine is used, also where the job names a cluster. A fault counts when it is seen to have happened, not when
it was asked for.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from dgbatch.errors import DgbatchError, JobError
from dgbatch.runner.fault_injection import faults as on_purpose
from dgbatch.runner.fault_injection.fault_plan import Fault
from dgbatch.runner.fault_injection.faults import DISK_FULL, STORE_ERRORS, Switches, kill_switch, workers_at_work
from dgbatch.runner.fault_injection.outcome import Outcome, Survived
from dgbatch.runner.fault_injection.processes import adopting_orphans, await_end, is_alive, is_stopped, supported
from dgbatch.runner.ray_nodes import RayNodes
from dgbatch.runner.run_folder import Run
from dgbatch.runner.spec import JobSpec, load_job
from dgbatch.runner.storage.local_folder import LocalFolder
from dgbatch.runner.storage.lock import owner
from dgbatch.runner.verify import Verification, verify

LOOK_S = 0.1
DISK_FULL_S = 3.0  # how long the disk stays full, once it has refused a write
STALL_TIMEOUT_S = 10.0  # of a job that is to hang: its own may be made for slower days
FAILURES_IN_A_ROW = 3  # submits that failed with no fault to blame, before the job itself is
MOST_SUBMITS = 50
CLOCK_S = 0.01  # by which two clocks of one machine may differ here: events are written in milliseconds
LONGEST_TEMP = 24  # characters
COMMAND = (sys.executable, "-m", "dgbatch")


def chaos(
    job: str,
    faults: Sequence[Fault],
    overrides: Sequence[str] = (),
    keep: bool = False,
    tell: Callable[[str], None] = lambda line: None,
    command: Sequence[str] = COMMAND,
) -> Survived:
    """Run a job while these faults happen to it. Raises JobError and the like for a job that cannot start at all."""
    if not supported():
        raise JobError("dgbatch chaos needs Linux: it finds the processes of a run under /proc.")
    spec = load_job(job, overrides)
    usual = tempfile.gettempdir()
    # Ray puts sockets below it, and the path of a socket has at most 107 bytes.
    scratch = Path(tempfile.mkdtemp(prefix="dgc-", dir=usual if len(usual) <= LONGEST_TEMP else "/tmp"))
    try:
        with adopting_orphans():
            survived = Chaos(spec, faults, scratch, tell, [*command, "submit", job, *_set(overrides)]).run()
    finally:
        if not keep:
            shutil.rmtree(scratch, ignore_errors=True)
    return replace(survived, kept=str(scratch / "run") if keep else None)


class Chaos:
    """Owns the processes of one chaos run."""

    def __init__(
        self, spec: JobSpec, faults: Sequence[Fault], scratch: Path, tell: Callable[[str], None], submit: list[str]
    ):
        self.spec, self.scratch, self.tell = spec, scratch, tell
        self.run_path = str(scratch / "run")
        self.folder = LocalFolder(self.run_path)
        self.switches = Switches(scratch / "switches")
        self.outcomes = [Outcome(fault) for fault in faults]
        self.waiting = list(self.outcomes)  # those whose time has not come
        self.env = {**os.environ, on_purpose.VARIABLE: str(self.switches.path)}
        self.nodes: RayNodes | None = None
        self.ready_at: float | None = None  # when the first worker was
        self.full_until: float | None = None
        self.expected = 0
        self.exit_codes: list[int] = []
        self.rows_before = 0
        address = "local"
        if any(fault.victim == "node" for fault in faults):
            tell("starting a cluster of three nodes on this machine")
            self.nodes = RayNodes(scratch / "ray", self.env)
            self.env, address = self.nodes.env, self.nodes.address
        else:
            self.env["RAY_TMPDIR"] = str(scratch)
        changes = [f"output.path={self.run_path}", "output.duckdb=null", f"workers.address={address}"]
        changes += [f"metrics.{where}=null" for where in ("port", "push", "textfile")]  # nobody takes it for the job
        if any(fault.kind == "hang" for fault in faults):
            changes.append(f"retry.stall_timeout_s={min(spec.retry.stall_timeout_s, STALL_TIMEOUT_S):g}")
        self.submit = [*submit, *_set(changes), "--json"]
        for outcome in self.outcomes:
            if outcome.fault.when.moment:
                self.switches.on(kill_switch(outcome.fault.victim, outcome.fault.when.moment))

    def run(self) -> Survived:
        """Submit until the job is done, or fails with nobody to blame."""
        started = time.monotonic()
        reason, innocent = "", 0
        while len(self.exit_codes) < MOST_SUBMITS and innocent < FAILURES_IN_A_ROW:
            happened = self._happened()
            code, reason = self._submit_once()
            self.exit_codes.append(code)
            if code in (0, 2, 3):
                break
            innocent = 0 if self._happened() != happened else innocent + 1
        if self.nodes is not None:
            self.nodes.stop()
        proof = self._prove() if self.exit_codes[-1] in (0, 3) else None
        if proof is None and self.exit_codes == [2]:
            raise JobError(reason)
        self._hear_answers()
        return Survived(
            self.outcomes, self.exit_codes, proof, reason, self.rows_before, time.monotonic() - started, None
        )

    def _submit_once(self) -> tuple[int, str]:
        number = len(self.exit_codes) + 1
        self.rows_before = self._rows()
        self.tell(f"submit {number}" + (f": {self.rows_before:,} rows are committed" if self.rows_before else ""))
        out = self.scratch / f"submit-{number}.json"
        with open(out, "wb") as answer, open(self.scratch / f"submit-{number}.log", "wb") as log:
            driver = subprocess.Popen(
                self.submit, stdin=subprocess.DEVNULL, stdout=answer, stderr=log, env=self.env, start_new_session=True
            )
        while driver.poll() is None:
            self._look(driver)
            time.sleep(LOOK_S)
        self._look(driver)
        code = driver.returncode
        self.tell(f"submit {number} was killed" if code < 0 else f"submit {number} left with exit code {code}")
        with suppress(ValueError, KeyError, OSError):
            return code, str(json.loads(out.read_bytes())["error"]["message"])
        return code, ""

    # ---- faults

    def _look(self, driver: subprocess.Popen[bytes]) -> None:
        """See how far the run is, and do what is due."""
        now = time.monotonic()
        if self.ready_at is None and any(True for _ in self._workers()):
            self.ready_at = now
        if self.ready_at is None:
            return
        self._notice_moments()
        rows = self._rows() if any(outcome.fault.when.percent is not None for outcome in self.waiting) else 0
        for outcome in list(self.waiting):
            if outcome.fault.when.is_due(now - self.ready_at, rows / max(1, self._expected())):
                self._strike(outcome, driver)
        if self.full_until is None and self.switches.is_on(DISK_FULL) and self.switches.log(DISK_FULL):
            self.full_until = now + DISK_FULL_S
        if self.full_until is not None and now > self.full_until:
            self.switches.off(DISK_FULL)

    def _strike(self, outcome: Outcome, driver: subprocess.Popen[bytes]) -> None:
        """Make a fault happen; it stays waiting while its victim is not there."""
        fault = outcome.fault
        if fault.kind == "disk-full":
            self.switches.on(DISK_FULL)
            self.waiting.remove(outcome)
        elif fault.kind == "store-errors":
            self.switches.on(STORE_ERRORS, str(fault.ratio))
            self.waiting.remove(outcome)
        elif fault.victim == "driver":
            if driver.poll() is None:
                driver.send_signal(signal.SIGKILL)
                driver.wait()
                if driver.returncode == -signal.SIGKILL:
                    self._note(outcome, f"SIGKILL to pid {driver.pid}")
        else:
            for name, pid in self._workers():
                if is_alive(pid) and not is_stopped(pid) and self._strike_worker(outcome, name, pid):
                    return

    def _strike_worker(self, outcome: Outcome, name: str, pid: int) -> bool:
        """Kill it, stop it, or kill the node that it runs on; False when it was gone before."""
        with suppress(ProcessLookupError):
            outcome.worker = name
            if outcome.fault.victim == "node":
                assert self.nodes is not None
                self._note(outcome, f"SIGKILL to all of node {self.nodes.lose(pid)}, with worker {name}")
            elif outcome.fault.kind == "hang":
                os.kill(pid, signal.SIGSTOP)
                self._note(outcome, f"SIGSTOP to worker {name}, pid {pid}")
            else:
                os.kill(pid, signal.SIGKILL)
                await_end(pid)
                self._note(outcome, f"SIGKILL to worker {name}, pid {pid}")
            return True
        return False

    def _notice_moments(self) -> None:
        """Kills that a process of the run has carried out itself are in the log of the switches."""
        for outcome in list(self.waiting):
            victim, moment = outcome.fault.victim, outcome.fault.when.moment
            for line in self.switches.log(kill_switch(victim, moment)) if moment else []:
                self._note(outcome, f"SIGKILL to {victim}, pid {line['pid']}", line["at"])
                break

    def _note(self, outcome: Outcome, what: str, at: float | None = None) -> None:
        assert self.ready_at is not None
        outcome.told_at = at or time.time()
        since_ready = outcome.told_at - time.time() + time.monotonic() - self.ready_at
        outcome.at_s, outcome.what = round(max(0.0, since_ready), 1), what
        self.waiting.remove(outcome)
        self.tell(f"{outcome.fault}: {what}")

    def _happened(self) -> int:
        return sum(outcome.happened for outcome in self.outcomes) + len(self.switches.log())

    # ---- what the run says

    def _workers(self) -> list[tuple[str, int]]:
        with suppress(OSError):
            if owner(self.run_path) is not None:
                return list(workers_at_work(self.folder))
        return []

    def _rows(self) -> int:
        try:
            return Run.open(self.run_path).ledger().tally.rows
        except (DgbatchError, OSError):
            return 0  # not made yet

    def _expected(self) -> int:
        with suppress(DgbatchError, OSError):
            self.expected = self.expected or Run.open(self.run_path).plan.expected
        return self.expected

    def _prove(self) -> Verification:
        self.tell("verifying every row")
        return verify(Run.open(self.run_path))

    def _hear_answers(self) -> None:
        """What the run made of each fault: what its events say next about it, or what the switches counted."""
        try:
            events = Run.open(self.run_path).events()
        except DgbatchError:
            events = []
        for outcome in self.outcomes:
            fault = outcome.fault
            if fault.kind in (DISK_FULL, STORE_ERRORS):
                self._count_refused(outcome)
                continue
            after = [
                event for event in events if _clock(event) >= outcome.told_at - CLOCK_S and _answers(event, outcome)
            ]
            if outcome.happened and after:
                late = max(0.0, _clock(after[0]) - outcome.told_at)
                what = "submitted again" if after[0]["kind"] == "started" else "noticed"
                outcome.answer = f"{what} after {late:.1f} s"

    def _count_refused(self, outcome: Outcome) -> None:
        refused = self.switches.log(outcome.fault.kind)
        if refused and self.ready_at is not None:
            begun = refused[0]["at"] - time.time() + time.monotonic() - self.ready_at
            outcome.at_s, outcome.told_at = round(max(0.0, begun), 1), refused[0]["at"]
            outcome.what = f"{len(refused):,} {'writes' if outcome.fault.kind == DISK_FULL else 'requests'} refused"
            failed = sum(code == 4 for code in self.exit_codes)
            outcome.answer = f"{failed} submits left with 4" if failed != 1 else "1 submit left with 4"


def _set(overrides: Sequence[str]) -> list[str]:
    return [part for override in overrides for part in ("--set", override)]


def _answers(event: dict[str, Any], outcome: Outcome) -> bool:
    """Whether this event is what the run made of a process it lost; a new driver answers for every older worker."""
    if event["kind"] == "worker_lost":
        return outcome.fault.victim != "driver" and outcome.worker in ("", event["worker"])
    return bool(event["kind"] == "started")


def _clock(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["at"]).timestamp()
