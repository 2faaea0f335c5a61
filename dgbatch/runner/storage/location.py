"""input.path -> input files. Names are relative to a root, so that a moved input is the same input."""

from __future__ import annotations

import glob
import os
from pathlib import Path, PurePath

from dgbatch.errors import InputError
from dgbatch.runner import formats
from dgbatch.runner.storage import store_location
from dgbatch.runner.storage.store_uri import is_uri, parse

DEMO = Path(__file__).parents[2] / "demo" / "prompts.parquet"


def join(root: str, name: str) -> str:
    """The path or URI of a file by its name in the root."""
    return f"{root}/{name}" if is_uri(root) else os.path.join(root, name)


def real(path: str) -> str:
    """The one way to write a place, so that two of them can be compared."""
    if not is_uri(path):
        return os.path.realpath(path)
    place = parse(path)
    return "/".join([f"{place.kind}://{place.bucket}@{place.account}", *place.key.split("/")]).rstrip("/")


def root(path: str) -> str:
    """The folder that file names, and ids made of them, are relative to."""
    if is_uri(path):
        return store_location.root(path)
    if path == "demo":
        return str(DEMO.parent)
    if os.path.isdir(path):
        return path
    if os.path.isfile(path) or not glob.has_magic(path):
        return os.path.dirname(path)
    fixed = []
    for part in PurePath(path).parts:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return os.path.join(*fixed) if fixed else "."


def files(path: str, shown: str | None = None) -> list[str]:
    """Names of the input files, relative to `root`, in the order the job takes them.

    `shown` is how the path may appear in an error: as the user wrote it, its secrets as ${NAME}.
    """
    shown = shown or path
    if path == "demo":
        if not DEMO.is_file():
            raise InputError(f"input.path: the packaged demo prompts are missing ({DEMO}). Install dgbatch again.")
        return [DEMO.name]
    if is_uri(path):
        return _of_one_kind(store_location.files(path, shown), shown)
    if os.path.isfile(path):
        formats.format_of(path)
        return [os.path.basename(path)]
    if os.path.isdir(path):
        names = _walk(path, shown)
    elif glob.has_magic(path):
        names = sorted(
            PurePath(os.path.relpath(found, root(path))).as_posix()
            for found in glob.glob(path, recursive=True)
            if os.path.isfile(found)
        )
        if not names:
            raise InputError(f"input.path: no file matches {shown}. Check the pattern; ** goes into folders.")
    else:
        raise InputError(f"input.path: no such file or folder: {shown}.{_siblings(path)}")
    return _of_one_kind(names, shown)


def _of_one_kind(names: list[str], shown: str) -> list[str]:
    kinds = {formats.format_of(name) for name in names}
    if len(kinds) > 1:
        raise InputError(f"input.path: {shown} mixes {' and '.join(sorted(kinds))} files. Choose one kind with a glob.")
    return names


def _walk(folder: str, shown: str) -> list[str]:
    if os.path.isdir(os.path.join(folder, "_dgbatch")):
        raise InputError(f"input.path: {shown} is a run of dgbatch. For its completions, name the folder data in it.")
    names: list[str] = []
    others: list[str] = []
    for where, folders, inside in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "_"))]
        for name in inside:
            relative = PurePath(os.path.relpath(os.path.join(where, name), folder)).as_posix()
            if name.startswith((".", "_")):
                continue
            known = os.path.splitext(name)[1].lower() in formats.FORMATS
            (names if known else others).append(relative)
    if not names:
        held = f"It holds {', '.join(sorted(others)[:5])}." if others else "It is empty."
        raise InputError(f"input.path: no {', '.join(formats.FORMATS)} file in the folder {shown}. {held}")
    return sorted(names)


def _siblings(path: str) -> str:
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        return f" There is no folder {folder} either."
    held = sorted(name for name in os.listdir(folder) if os.path.splitext(name)[1].lower() in formats.FORMATS)
    return f" Beside it are: {', '.join(held[:5])}." if held else " A relative path begins at the job file's folder."
