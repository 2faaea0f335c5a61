"""Where a checkpoint lies, and whether it is the same one as before."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from dgbatch.engine import checkpoint as module
from dgbatch.engine.checkpoint import DEMO, checksum, read_json, resolve
from dgbatch.errors import CheckpointError


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))


def test_demo_is_the_packaged_checkpoint() -> None:
    assert resolve("demo") == DEMO
    assert DEMO.parent == Path(module.__file__).parents[1] / "demo"


def test_a_folder_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve(str(tmp_path)) == tmp_path
    (tmp_path / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve("org/model") == Path("org/model")  # a folder that exists is never asked of the hub


@pytest.mark.parametrize("name", ["/no/such/folder", "./no/such", "~/nothing", "nothing", "a/b/c"])
def test_a_path_that_is_no_folder_is_named_and_the_hub_is_not_asked(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **more: pytest.fail("asked the hub"))
    with pytest.raises(CheckpointError, match=f"no folder '{name}'.*hub id"):
        resolve(name)


def test_a_hub_id_that_is_not_in_the_cache_says_so_without_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("socket.socket.connect", lambda *args: pytest.fail("asked the network"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        resolve("google/diffusiongemma-26B-A4B-it", revision="v1", local_only=True)
    message = str(caught.value)
    assert "'google/diffusiongemma-26B-A4B-it' (revision v1) was not found in the local cache" in message
    assert "give a local folder" in message
    assert "\n" not in message


def test_a_hub_id_without_network_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **more: Any) -> str:
        raise ConnectionError("no route to host\nand a page of detail")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"\(revision main\) was not found on the hub: no route to host\. Check"):
        resolve("org/model")


def test_the_hub_is_asked_for_the_revision_and_for_the_files_that_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def download(name: str, **more: Any) -> str:
        asked.update(more, name=name)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    assert resolve("org/model", revision="abc") == tmp_path
    assert asked == {
        "name": "org/model",
        "revision": "abc",
        "local_files_only": False,
        "allow_patterns": ["*.json", "*.safetensors", "*.jinja"],
    }


def test_a_hub_id_without_huggingface_hub_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"pip install 'dgbatch\[engine\]'"):
        resolve("org/model")


def test_checksum_is_the_same_wherever_the_folder_lies(folder: Path, checkpoint: Path) -> None:
    assert checksum(folder) == checksum(checkpoint)
    (folder / "README.md").write_text("nothing that decides a token")
    assert checksum(folder) == checksum(checkpoint)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "chat_template.jinja", "tokenizer.json"])
def test_one_changed_byte_changes_the_checksum(folder: Path, checkpoint: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[-2] ^= 1
    (folder / name).write_bytes(data)
    assert checksum(folder) != checksum(checkpoint)


def test_a_renamed_file_changes_the_checksum(folder: Path, checkpoint: Path) -> None:
    (folder / "generation_config.json").rename(folder / "generation.json")
    assert checksum(folder) != checksum(checkpoint)


def test_a_missing_json_file_names_itself_and_what_the_folder_holds(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json\. Is this a checkpoint folder\? It holds nothing"):
        read_json(tmp_path, "config.json")
    (tmp_path / "prompts.parquet").touch()
    with pytest.raises(CheckpointError, match=r"It holds prompts\.parquet"):
        read_json(tmp_path, "config.json")
    assert read_json(tmp_path, "config.json", required=False) == {}


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe{}", b"[1, 2]", b"null"])
def test_a_json_file_that_does_not_hold_an_object_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json: not readable as JSON"):
        read_json(tmp_path, "config.json", required=False)


def test_finding_checkpoints_and_tokens_needs_no_torch() -> None:
    code = (
        "import sys, dgbatch.engine, dgbatch.engine.checkpoint, dgbatch.engine.tokenizer, dgbatch.engine.sequence, "
        "dgbatch.engine.scheduler; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
