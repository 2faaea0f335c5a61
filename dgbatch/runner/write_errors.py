"""What an output that cannot be written means: before a run is made its folder is wrong, later nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dgbatch.errors import RunFailed, of_os_error


@contextmanager
def writing(path: str) -> Iterator[None]:
    """For what a run is made of: OutputError, or RunFailed where the same submit can go on."""
    try:
        yield
    except OSError as error:
        raise of_os_error(error, f"output.path: {path} cannot be written", "Choose another folder.") from error


@contextmanager
def losing_nothing(path: str, what: str) -> Iterator[None]:
    """For what is written into a run that is there: RunFailed. what: shown to people."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunFailed(
            f"{path}: {what} cannot be written: {reason}. What is committed is safe: mend it and submit again."
        ) from error
