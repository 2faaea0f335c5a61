"""input.path in an object store -> input files: an object, a folder, or a glob, as location.py has them on a disk."""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Sequence

from dgbatch.errors import InputError
from dgbatch.runner import formats
from dgbatch.runner.storage.store import Store, open_store
from dgbatch.runner.storage.store_uri import parse


def root(uri: str) -> str:
    """The folder that names are relative to. What ends like a file of rows is one, unless a slash follows."""
    base = uri.rstrip("/")
    scheme, _, rest = base.partition("://")
    place, *parts = rest.split("/")
    fixed: list[str] = []
    for part in parts:
        if glob.has_magic(part):
            break
        fixed.append(part)
    is_folder = uri.endswith("/") or len(fixed) < len(parts) or not parts
    if not is_folder and os.path.splitext(parts[-1])[1].lower() in formats.FORMATS:
        fixed.pop()
    return f"{scheme}://" + "/".join([place, *fixed])


def files(uri: str, shown: str) -> list[str]:
    """Names relative to `root`, in the order the job takes them. Raises InputError."""
    parse(uri, "input.path")
    try:
        store, folder = open_store(root(uri))
        pattern = uri.rstrip("/")[len(root(uri)) :].strip("/")
        if pattern and not glob.has_magic(pattern):
            return _object(store, folder, pattern, shown)
        names = [found.key[len(folder) + 1 if folder else 0 :] for found in store.below(folder)]
    except OSError as error:
        raise InputError(
            f"input.path: {shown} cannot be read: {(error.strerror or str(error)).rstrip('.')}. Check it."
        ) from error
    names = [name for name in names if name and not name.endswith("/")]
    if pattern:
        if found := sorted(name for name in names if _matches(name.split("/"), pattern.split("/"))):
            return found
        raise InputError(f"input.path: no file matches {shown}. Check the pattern; ** goes into folders.")
    return _folder(names, shown)


def _object(store: Store, folder: str, name: str, shown: str) -> list[str]:
    if store.find(f"{folder}/{name}" if folder else name) is not None:
        return [name]
    beside = [found.key.rpartition("/")[2] for found in store.inside(folder)[0]]
    known = [other for other in beside if _is_known(other)]
    listed = f" Beside it are: {', '.join(known[:5])}." if known else ""
    raise InputError(f"input.path: no such object: {shown}.{listed or ' Check the bucket and the path.'}")


def _folder(names: Sequence[str], shown: str) -> list[str]:
    if any(name.startswith("_dgbatch/") for name in names):
        raise InputError(f"input.path: {shown} is a run of dgbatch. For its completions, name the folder data in it.")
    seen = [name for name in names if not any(part.startswith((".", "_")) for part in name.split("/"))]
    if known := sorted(name for name in seen if _is_known(name)):
        return known
    held = f"It holds {', '.join(sorted(seen)[:5])}." if seen else "There is nothing in it."
    raise InputError(f"input.path: no {', '.join(formats.FORMATS)} file in {shown}. {held}")


def _is_known(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in formats.FORMATS


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """A glob as on a disk: * stays in its folder and sees no name with a leading dot, ** goes into folders."""
    if not pattern or not parts:
        return not pattern and not parts
    is_hidden = parts[0].startswith(".") and not pattern[0].startswith(".")
    if pattern[0] == "**":
        if len(pattern) == 1:
            return not any(part.startswith(".") for part in parts)
        return _matches(parts, pattern[1:]) or (not is_hidden and _matches(parts[1:], pattern))
    return not is_hidden and fnmatch.fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
