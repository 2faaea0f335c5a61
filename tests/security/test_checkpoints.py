"""A damaged or hostile checkpoint is a CheckpointError; weights are numbers and never code."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgbatch.engine.weights import load_transformer
from dgbatch.errors import CheckpointError
from tests.engine import tiny
from tests.security.damage import damaged

SIZES = st.sampled_from([None, -1, 0, 1, 3, 2.5, "x", [], {}, [1], True, 10**6, 10**12, 10**30])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def loads(folder: Path) -> bool:
    """False for a CheckpointError that names the folder; every other error goes on."""
    try:
        load_transformer(folder)
    except CheckpointError as error:
        if str(folder) in str(error):
            return False
        raise
    return True


@pytest.mark.timeout(60)
def test_damaged_weights_are_a_model_or_a_checkpoint_error(folder):
    whole = (folder / "model.safetensors").read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    outcomes = set()

    @settings(max_examples=150)
    @given(damaged(whole[:header]).map(lambda head: head + whole[header:]) | damaged(whole) | st.binary(max_size=100))
    def check(data: bytes) -> None:
        (folder / "model.safetensors").write_bytes(data)
        outcomes.add(loads(folder))

    try:
        check()
        assert outcomes == {True, False}
    finally:
        (folder / "model.safetensors").write_bytes(whole)


@pytest.mark.timeout(60)
def test_config_with_any_values_is_a_model_or_a_checkpoint_error(folder):
    whole = (folder / "config.json").read_text()
    keys = sorted(json.loads(whole)["text_config"])

    @settings(max_examples=200)
    @given(st.dictionaries(st.sampled_from(keys), SIZES, min_size=1, max_size=2))
    def check(changes: dict) -> None:
        config = json.loads(whole)
        config["text_config"].update(changes)
        (folder / "config.json").write_text(json.dumps(config))
        loads(folder)

    try:
        check()
    finally:
        (folder / "config.json").write_text(whole)


@pytest.mark.timeout(60)
def test_damaged_config_text_is_a_model_or_a_checkpoint_error(folder):
    whole = (folder / "config.json").read_bytes()

    @settings(max_examples=100)
    @given(st.binary(max_size=100))
    def check(data: bytes) -> None:
        (folder / "config.json").write_bytes(data)
        assert not loads(folder)

    try:
        check()
    finally:
        (folder / "config.json").write_bytes(whole)


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("hacked"),))


def test_pickles_in_the_folder_are_never_opened(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("pytorch_model.bin", "model.pt", "weights.pkl"):
        (folder / name).write_bytes(pickle.dumps(Bomb()))
    assert loads(folder)
    whole = (folder / "model.safetensors").read_bytes()
    try:
        for data in (pickle.dumps(Bomb()), torch_file(tmp_path)):
            (folder / "model.safetensors").write_bytes(data)
            assert not loads(folder)
    finally:
        (folder / "model.safetensors").write_bytes(whole)
    assert not (tmp_path / "hacked").exists()


def torch_file(folder: Path) -> bytes:
    torch.save({"x": torch.zeros(2)}, folder / "x.pt")
    return (folder / "x.pt").read_bytes()
