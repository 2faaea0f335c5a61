from __future__ import annotations

import json
from pathlib import Path

import pytest

from dgbatch.errors import CheckpointError
from dgbatch.runner import model
from dgbatch.runner.model import describe_model
from dgbatch.runner.spec import load_job
from tests.fake_engine import fake_job


def checkpoint(folder: Path) -> str:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "diffusion_gemma"}))
    (folder / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    return str(folder)


def test_model_is_described_by_the_checksum_of_its_files(tmp_path):
    folder = checkpoint(tmp_path / "model")
    job = fake_job(tmp_path, ["a"], model={"checkpoint": folder})
    before = describe_model(load_job(job))
    assert before["checkpoint"] == folder and len(before["checksum"]) == 64
    Path(folder, "config.json").write_text("{}")
    assert describe_model(load_job(job))["checksum"] != before["checksum"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: folder.rename(folder.with_name("elsewhere")), "no folder"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "safetensors"),
    ],
)
def test_damaged_checkpoint_is_refused_before_anything_starts(tmp_path, damage, words):
    folder = checkpoint(tmp_path / "model")
    job = fake_job(tmp_path, ["a"], model={"checkpoint": folder})
    damage(Path(folder))
    with pytest.raises(CheckpointError, match=words):
        describe_model(load_job(job))


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


def test_a_folder_that_this_machine_sees_is_checked_also_for_a_cluster(tmp_path, monkeypatch):
    monkeypatch.setattr(model.importlib.util, "find_spec", lambda name: None)
    job = fake_job(tmp_path, ["a"], model={"checkpoint": checkpoint(tmp_path / "model")})
    assert len(describe_model(load_job(job, ["workers.address=ray://head:10001"]))["checksum"]) == 64
