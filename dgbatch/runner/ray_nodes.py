"""A Ray cluster of several nodes on this machine, any of which can be lost. It knows Ray by its command line alone."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from dgbatch.errors import RunFailed
from dgbatch.runner.fault_injection.processes import end, family

START_S = 60.0
NODES = 2  # beside the head, which runs no worker
FEWEST_CPUS = 1
OBJECT_STORE_BYTES = 100 * 2**20
# Of their own choice: with Ray's usual ports, a second node on this machine finds them taken.
FREE_PORTS = ("--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0")


class RayNodes:
    """A head, and nodes that come and go. `env` is what every process of the cluster, and its driver, must have."""

    def __init__(self, folder: Path, env: Mapping[str, str]):
        self.folder = folder
        self.env = {
            **env, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0",
        }  # fmt: skip
        self.nodes: list[subprocess.Popen[bytes]] = []
        self._free_gpus = gpus(env)
        self._gpus: dict[int, list[str]] = {}  # process of a node -> its share
        here, port = address(), free_port()
        self.address = f"{here}:{port}"
        head = [f"--node-ip-address={here}", f"--port={port}", f"--temp-dir={folder}", "--include-dashboard=false"]
        self.head = self._start("head", ["--head", *head, "--num-cpus=0", "--num-gpus=0"], self.env)
        self._gpus_each = max(1, len(self._free_gpus) // NODES) if self._free_gpus else 0
        for _ in range(min(NODES, len(self._free_gpus)) or NODES):
            self.add()

    def add(self) -> None:
        """One more node, with its share of this machine."""
        share = [self._free_gpus.pop() for _ in range(self._gpus_each)]
        cpus = max(FEWEST_CPUS, (os.cpu_count() or 1) // NODES)
        arguments = [f"--address={self.address}", f"--num-cpus={cpus}", f"--num-gpus={len(share)}"]
        node = self._start(f"node-{len(self._gpus)}", arguments, {**self.env, "CUDA_VISIBLE_DEVICES": ",".join(share)})
        self._gpus[node.pid] = share
        self.nodes.append(node)

    def lose(self, pid: int) -> int:
        """Kill the node that the process `pid` runs on, all of it at once, and start another; the pid of its Ray."""
        node = next((node for node in self.nodes if pid in family(node.pid)), None)
        if node is None:
            raise ProcessLookupError(pid)
        self.nodes.remove(node)
        end(family(node.pid))
        self._free_gpus += self._gpus[node.pid]
        self.add()
        return node.pid

    def stop(self) -> None:
        for node in (*self.nodes, self.head):
            end(family(node.pid))

    def _start(self, name: str, arguments: list[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *arguments, *FREE_PORTS]
        log = self.folder / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "wb") as out:
            node = subprocess.Popen(
                [*command, f"--object-store-memory={OBJECT_STORE_BYTES}"],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=dict(env), start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + START_S
        while b"Ray runtime started" not in log.read_bytes():
            if node.poll() is not None or time.monotonic() > deadline:
                end(family(node.pid))
                last = log.read_text(errors="replace").strip().splitlines()[-1:]
                raise RunFailed(
                    f"Ray did not start on this machine: {''.join(last)}. See what is wrong: dgbatch doctor"
                )
            time.sleep(0.1)
        return node


def gpus(env: Mapping[str, str]) -> list[str]:
    """Numbers of the NVIDIA GPUs that a process with this environment may use."""
    if "CUDA_VISIBLE_DEVICES" in env:
        return [name for name in env["CUDA_VISIBLE_DEVICES"].split(",") if name]
    found = Path("/proc/driver/nvidia/gpus")
    return [str(number) for number, _ in enumerate(found.iterdir())] if found.is_dir() else []


def address() -> str:
    """This machine's own address, as Ray finds it: it takes no loopback one, and a node of another never joins."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("8.8.8.8", 80))  # sends nothing: it only asks for the way
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostbyname(socket.gethostname())


def free_port() -> int:
    """Below those that Ray gives to workers."""
    for port in range(6380, 10_000):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise RunFailed("no port between 6380 and 9999 is free on this machine. End what holds them.")
