"""Two hosts on one machine: network namespaces with a link between them that can be cut, and a Ray cluster over it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
START_S = 60.0


def why_not() -> str:
    """Why this machine cannot be two; empty when it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "needs iproute2 (ip netns)"
    probe = f"dgp{os.getpid() % 10**6}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", probe], capture_output=True)
    return f"ip netns add: {made.stderr.strip()}" if made.returncode else ""


class TwoHosts:
    """Host 0 is the head of the cluster; traffic stays inside the namespaces."""

    def __init__(self, cpus: tuple[int, int]):
        tag = os.getpid() % 10**6
        self.hosts = [f"dgh{tag}-0", f"dgh{tag}-1"]
        self.links = [f"dgv{tag}-0", f"dgv{tag}-1"]
        self.addresses = ["10.77.0.1", "10.77.0.2"]
        self.cluster = f"{self.addresses[0]}:6379"
        self.folder = Path(tempfile.mkdtemp(prefix="dg2-", dir="/tmp"))
        self.processes: list[subprocess.Popen[bytes]] = []
        for host in self.hosts:
            ip("netns", "add", host)
        ip("link", "add", self.links[0], "type", "veth", "peer", "name", self.links[1])
        for host, link, address in zip(self.hosts, self.links, self.addresses, strict=True):
            ip("link", "set", link, "netns", host)
            ip("-n", host, "addr", "add", f"{address}/24", "dev", link)
            ip("-n", host, "link", "set", "lo", "up")
            ip("-n", host, "link", "set", link, "up")
        self._start_ray(0, "--head", "--port=6379", "--include-dashboard=false", f"--num-cpus={cpus[0]}")
        self._start_ray(1, f"--address={self.cluster}", f"--num-cpus={cpus[1]}")

    def _start_ray(self, host: int, *arguments: str) -> None:
        log = self.folder / f"ray-{host}.log"
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-gpus=0", *arguments]
        command += [f"--node-ip-address={self.addresses[host]}", f"--temp-dir={self.folder / str(host)}"]
        with open(log, "wb") as out:
            process = self.run(host, [*command, "--object-store-memory=100000000"], stdout=out, stderr=out)
        deadline = time.monotonic() + START_S
        while b"Ray runtime started" not in log.read_bytes():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)

    def run(self, host: int, command: Sequence[str], **options: object) -> subprocess.Popen[bytes]:
        """A process on one of the hosts."""
        env = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
        env["FAKE_SILENT_S"] = "15"  # of a driver that can reach nobody
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.hosts[host], *command],
            cwd=ROOT, env=env, stdin=subprocess.DEVNULL, start_new_session=True, **options,  # type: ignore[call-overload]
        )  # fmt: skip
        self.processes.append(process)
        return process

    def cut(self) -> None:
        ip("-n", self.hosts[1], "link", "set", self.links[1], "down")

    def heal(self) -> None:
        ip("-n", self.hosts[1], "link", "set", self.links[1], "up")

    def stop(self) -> None:
        """End what runs inside, and nothing else."""
        for host in self.hosts:
            pids = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True).stdout.split()
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", host], capture_output=True)
        for process in self.processes:
            process.communicate()
        shutil.rmtree(self.folder, ignore_errors=True)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
