"""Where a checkpoint lies: a folder, the packaged demo, or a model hub id. Knows no torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from dgbatch.errors import CheckpointError

DEMO = Path(__file__).parents[1] / "demo" / "checkpoint"
FILES = ("*.json", "*.safetensors", "*.jinja")


def resolve(name: str, revision: str | None = None, local_only: bool = False) -> Path:
    """The folder of a checkpoint: "demo", an existing folder, or a hub id such as google/diffusiongemma-26B-A4B-it.

    A hub id is downloaded once and then found in the hub's cache; `local_only` never asks the network.
    Raises CheckpointError when there is no such folder or the hub does not hand it out.
    """
    if name == "demo":
        return DEMO
    folder = Path(name)
    if folder.is_dir():
        return folder
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise CheckpointError(
            f"model.checkpoint: no folder {name!r}. Give a folder with config.json and *.safetensors, "
            "a hub id such as google/diffusiongemma-26B-A4B-it, or 'demo'."
        )
    return _from_hub(name, revision, local_only)


def _from_hub(name: str, revision: str | None, local_only: bool) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError as error:
        raise CheckpointError(
            f"model.checkpoint: {name!r} is a hub id, and huggingface_hub is missing: pip install 'dgbatch[engine]'"
        ) from error
    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=local_only, allow_patterns=list(FILES)))
    except Exception as error:  # the hub client raises many kinds: offline, unknown, gated, disk full
        where = "in the local cache" if local_only else "on the hub"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"model.checkpoint: {name!r} (revision {revision or 'main'}) was not found {where}: {reason}. "
            "Check the name, accept the model's licence on its page and log in, or give a local folder."
        ) from error


def read_json(folder: Path, name: str, required: bool = True) -> dict[str, Any]:
    """One of a checkpoint's JSON files; {} when it may be missing and is. Raises CheckpointError."""
    path = folder / name
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"it holds {type(value).__name__}, not an object")
        return value
    except FileNotFoundError:
        if not required:
            return {}
        raise CheckpointError(
            f"{folder}: no {name}. Is this a checkpoint folder? It holds {_listing(folder)}."
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}. Download the checkpoint again.") from error


def checksum(folder: Path) -> str:
    """sha256 over the names and bytes of all files that decide tokens: config, tokenizer, template, weights."""
    total = hashlib.sha256()
    for path in _files(folder):
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 22):
                digest.update(block)
        total.update(f"{path.name} {digest.hexdigest()}\n".encode())
    return total.hexdigest()


def versions(folder: Path) -> dict[str, str]:
    """By file, what tells without reading it that it is still the same: size, time and inode."""
    states = {path.name: path.stat() for path in _files(folder)}
    return {name: f"{state.st_size}-{state.st_mtime_ns}-{state.st_ino}" for name, state in states.items()}


def _files(folder: Path) -> list[Path]:
    return sorted(path for pattern in FILES for path in folder.glob(pattern))


def _listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())[:8] if folder.is_dir() else []
    return ", ".join(names) or "nothing"
