from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dgbatch.engine.checkpoint import DEMO
from dgbatch.errors import CheckpointError
from dgbatch.runner import model
from dgbatch.runner.model import describe_model
from dgbatch.runner.spec import load_job
from dgbatch.runner.submit import submit
from tests.fake_engine import fake_job


def checkpoint(folder: Path) -> str:
    """A copy of the packaged checkpoint, to damage."""
    shutil.copytree(DEMO, folder)
    return str(folder)


def edit_header(file: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change what a safetensors file says about its tensors, and leave their bytes as they are."""
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    edit(header)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def rename_tensor(file: Path) -> None:
    name = "model.decoder.norm.weight"
    edit_header(file, lambda header: header.update({"model.decoder.norm.bias": header.pop(name)}))


def reshape_tensor(file: Path) -> None:
    tensor = "model.decoder.norm.weight"
    edit_header(file, lambda header: header[tensor].update(shape=[1, *header[tensor]["shape"]]))


def test_model_is_described_by_the_checksum_of_its_files(tmp_path):
    folder = checkpoint(tmp_path / "model")
    job = fake_job(tmp_path, ["a"], model={"checkpoint": folder})
    before = describe_model(load_job(job))
    assert before["checkpoint"] == folder and len(before["checksum"]) == 64
    Path(folder, "generation_config.json").write_text("{}")
    assert describe_model(load_job(job))["checksum"] != before["checksum"]


def test_files_that_are_still_the_same_are_not_read_again(tmp_path, monkeypatch):
    folder = checkpoint(tmp_path / "model")
    spec = load_job(fake_job(tmp_path, ["a"], model={"checkpoint": folder}))
    known = describe_model(spec)
    with monkeypatch.context() as patch:
        patch.setattr(model.checkpoint, "checksum", lambda folder: pytest.fail("it was read"))
        patch.setattr(model, "refuse_damaged", lambda folder: pytest.fail("it was read"))
        assert describe_model(spec, known=known) == known
    weights = Path(folder, "model.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)  # as long as before
    changed = describe_model(spec, known=known)
    assert changed["checksum"] != known["checksum"] and changed["files"] != known["files"]
    assert describe_model(spec, known={**known, "checksum": None}) == changed


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (lambda folder: folder.rename(folder.with_name("elsewhere")), "no folder"),
    "no config": (lambda folder: (folder / "config.json").unlink(), r"no config\.json"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "safetensors"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), r"no tokenizer\.json"),
    "wrong settings": (lambda folder: (folder / "generation_config.json").write_text("{"), "not readable as JSON"),
    "missing tensor": (
        lambda folder: rename_tensor(folder / "model.safetensors"),
        r"unknown tensor model\.decoder\.norm\.bias .*missing tensor model\.decoder\.norm\.weight",
    ),
    "wrong shape": (
        lambda folder: reshape_tensor(folder / "model.safetensors"),
        r"model\.decoder\.norm\.weight is \(1, \d+\), config\.json asks for",
    ),
    "cut short": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1]),
        r"model\.safetensors: not a readable safetensors file.*download it again",
    ),
    "garbage": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 4096),
        r"model\.safetensors: not a readable safetensors file.*download it again",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoint_is_refused_before_anything_starts(tmp_path, monkeypatch, damage):
    monkeypatch.setattr("dgbatch.runner.driver.run_job", lambda *arguments: pytest.fail("it was started"))
    do_damage, words = DAMAGES[damage]
    folder = checkpoint(tmp_path / "model")
    job = fake_job(tmp_path, ["a"], model={"checkpoint": folder})
    do_damage(Path(folder))
    with pytest.raises(CheckpointError, match=words) as caught:
        submit(job)
    assert str(folder) in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert not (tmp_path / "out").exists()


def test_missing_torch_is_refused_before_anything_starts(tmp_path, monkeypatch):
    job = fake_job(tmp_path, ["a"], model={"checkpoint": checkpoint(tmp_path / "model")})
    found = model.importlib.util.find_spec
    monkeypatch.setattr(model.importlib.util, "find_spec", lambda name: None if name == "torch" else found(name))
    with pytest.raises(CheckpointError, match=r"'torch'.*pip install 'dgbatch\[engine\]'"):
        describe_model(load_job(job))


def test_submitting_to_a_cluster_needs_neither_torch_nor_the_checkpoint_here(tmp_path, monkeypatch):
    monkeypatch.setattr(model.importlib.util, "find_spec", lambda name: None)
    job = fake_job(tmp_path, ["a"], model={"checkpoint": "google/diffusiongemma-26B-A4B-it"})
    described = describe_model(load_job(job, ["workers.address=ray://head:10001"]))
    assert described == {"checkpoint": "google/diffusiongemma-26B-A4B-it", "revision": None, "checksum": None}


def test_folder_that_this_machine_sees_is_checked_also_for_a_cluster(tmp_path):
    folder = checkpoint(tmp_path / "model")
    job = fake_job(tmp_path, ["a"], model={"checkpoint": folder})
    rename_tensor(Path(folder, "model.safetensors"))
    with pytest.raises(CheckpointError, match="missing tensor"):
        describe_model(load_job(job, ["workers.address=ray://head:10001"]))


def test_folder_that_this_machine_sees_has_a_checksum_also_without_torch(tmp_path, monkeypatch):
    monkeypatch.setattr(model.importlib.util, "find_spec", lambda name: None)
    job = fake_job(tmp_path, ["a"], model={"checkpoint": checkpoint(tmp_path / "model")})
    assert len(describe_model(load_job(job, ["workers.address=ray://head:10001"]))["checksum"]) == 64
