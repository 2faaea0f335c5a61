from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stores import servers
from tests.stores.servers import Server

faults = pytest.mark.faults
STORES = ["disk", "moto", *(pytest.param(name, marks=faults) for name in ("seaweedfs", "gcs", "azurite"))]


@pytest.fixture(scope="session")
def moto_server() -> Iterator[Server]:
    with servers.moto() as server:
        yield server


@pytest.fixture(scope="session")
def seaweedfs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with servers.seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[Server]:
    with servers.gcs() as server:
        yield server


@pytest.fixture(scope="session")
def azurite_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with servers.azurite(tmp_path_factory.mktemp("azurite")) as server:
        yield server


@pytest.fixture(params=STORES)
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty folder: on this disk, and in each store."""
    if request.param == "disk":
        return str(tmp_path / "folder")
    server: Server = request.getfixturevalue(f"{request.param}_server")
    server.enter(monkeypatch)
    return f"{server.uri}/{tmp_path.name}/folder"


@pytest.fixture
def s3(moto_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty folder in moto's S3."""
    moto_server.enter(monkeypatch)
    return f"{moto_server.uri}/{tmp_path.name}"
