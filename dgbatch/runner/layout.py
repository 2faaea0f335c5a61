"""What lies where in a run folder, and which folders may become one. docs/architecture.md draws it."""

from __future__ import annotations

from collections.abc import Iterator

from dgbatch.errors import OutputError
from dgbatch.runner.commits import is_part
from dgbatch.runner.storage.folder import Folder, is_partial, open_folder

OURS = "_dgbatch"
RUN = f"{OURS}/run.json"
PLAN = f"{OURS}/plan.parquet"
LIVE = f"{OURS}/live.json"
EVENTS = f"{OURS}/events.jsonl"
ATTEMPTS = f"{OURS}/attempts.json"
METRICS = f"{OURS}/metrics.prom"  # the last page, once the driver is done
LOGS = f"{OURS}/logs"
FILMS = f"{OURS}/films"
LOCK = f"{OURS}/lock.json"
GUARD = f"{OURS}/lock.guard"
REPORT = f"{OURS}/report.html"
SUCCESS = "_SUCCESS"
PARTS = ("data", "quarantine")
BEFORE_RUN = {PLAN, EVENTS, ATTEMPTS, LIVE, LOCK, GUARD}  # what may lie in a folder whose run.json was never put


def refuse_foreign(path: str) -> None:
    """OutputError unless a run may live here: nothing is here, or a run, or one that a crash left half made."""
    folder = open_folder(path)
    if folder.is_file():
        raise OutputError(f"output.path: {path} is a file. Name a folder; it is made if it is not there.")
    if folder.exists(RUN):
        return
    names = [name.rstrip("/") for name in folder.entries() if name != f"{OURS}/"]
    names += [f"{OURS}/{name}" for name in folder.entries(OURS) if f"{OURS}/{name}" != f"{LOGS}/"]
    if foreign := sorted(name for name in names if not _may_be_before(name)):
        shown = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
        raise OutputError(
            f"output.path: {path} holds files of somebody else: {shown}. Choose an empty or a new folder."
        )


def withdraw(folder: Folder) -> None:
    """Leave nothing of a run that was made and refused before its first commit; the lock on it stays its owner's."""
    folder.delete(RUN)
    written = [name for kind in PARTS for name in (*folder.list(kind), *folder.partials(kind)) if _is_rows(name)]
    for name in [*_below(folder, OURS), *written]:
        if name not in (LOCK, GUARD):
            folder.delete(name)


def _below(folder: Folder, where: str) -> Iterator[str]:
    for entry in folder.entries(where):
        name = f"{where}/{entry}"
        if entry.endswith("/"):
            yield from _below(folder, name.rstrip("/"))
        else:
            yield name


def _is_rows(name: str) -> bool:
    """Whether a worker wrote this before its run was refused."""
    return is_part(name) or is_partial(name)


def _may_be_before(name: str) -> bool:
    """Whether a run may have left this before it had a run.json."""
    return name in BEFORE_RUN or is_partial(name) or name.startswith(f"{EVENTS}.")
