"""Which model a run uses and whether its files fit, found before anything has started, also where torch is missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgbatch.engine import checkpoint
from dgbatch.errors import CheckpointError, DgbatchError

if TYPE_CHECKING:
    from dgbatch.records import EngineConfig
    from dgbatch.runner.spec import JobSpec

ENGINE = "dgbatch.engine:Engine"
NEEDED = ("torch", "safetensors", "tokenizers")


def describe_model(spec: JobSpec, engine: str = ENGINE, known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What run.json says about the model: name, revision, checksum. Raises CheckpointError for what a user can mend.

    known: what it said before. Files that are still those are not read again: of a large checkpoint that takes minutes.
    On a cluster the workers have the engine and the checkpoint: this machine needs neither, and the checksum is known
    only where the checkpoint is a folder that it sees too.
    """
    name, revision = spec.model.checkpoint, spec.model.revision
    model: dict[str, Any] = {"checkpoint": name, "revision": revision, "checksum": None}
    if engine != ENGINE:
        return model
    absent = [package for package in NEEDED if importlib.util.find_spec(package) is None]
    if spec.workers.address == "local":
        if absent:
            raise missing(absent[0])
    elif name != "demo" and not Path(name).is_dir():
        return model
    folder = checkpoint.resolve(name, revision)
    model["files"] = checkpoint.versions(folder)
    if known and known.get("checksum") and {**known, "checksum": None} == model:
        return dict(known)
    checkpoint.read_json(folder, "config.json")
    if not list(folder.glob("*.safetensors")):
        raise CheckpointError(f"{folder}: no *.safetensors in it. Is the download complete?")
    if not absent:
        refuse_damaged(folder)
    return {**model, "checksum": checkpoint.checksum(folder)}


def refuse_damaged(folder: Path) -> None:
    """CheckpointError for files that a worker could not load; reads of the weights nothing but their headers."""
    from dgbatch.engine.tokenizer import Tokenizer
    from dgbatch.engine.weights import empty_transformer

    empty_transformer(folder)
    Tokenizer.load(folder)
    checkpoint.read_json(folder, "generation_config.json", required=False)


def missing(package: str) -> DgbatchError:
    return CheckpointError(
        f"the engine needs {package!r}, which is not installed here. "
        "Install it with: pip install 'dgbatch[engine]' (dgbatch doctor shows what else is missing)."
    )


def load_engine(engine: str, spec: JobSpec, config: EngineConfig) -> Any:
    """`module:Class` -> a ready engine with the job's checkpoint; raises CheckpointError for what the user can mend."""
    module, _, name = engine.partition(":")
    try:
        factory = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise missing(error.name or str(error)) from error
    return factory.load(spec.model.checkpoint, config, revision=spec.model.revision)
