"""What a user may see go wrong. Each message names the thing, the value and the fix.

DgbatchError                 exit code
├── JobError                 2    the job file is wrong
├── InputError               2    the prompts are wrong: files, columns, ids
├── CheckpointError          2    the model folder is wrong
├── OutputError              2    the output folder cannot be used, or holds another job's run
├── LocationError            2    a URI or its store cannot be used: scheme, secrets in it, environment
├── RunNotFound              2    no run where one was named
├── QueryError               2    the SQL is wrong
├── OptionError              2    an option of a command names nothing that is there
├── BenchError               2    a benchmark that cannot be run: a package or a folder is missing
├── RunLocked                5    another process works on this run
├── RunFailed                4    work was lost on the way; submitting again resumes
│   └── StoreFailed          4    an object store did not do what it was asked for long enough; an OSError too
└── RunCancelled             130  somebody pressed Ctrl-C or cancelled; submitting again resumes

RowError is no DgbatchError: it costs one row, which goes to quarantine with its code.
"""

from __future__ import annotations

import errno

# What stays as it is until somebody changes a job, a path or a permission.
LASTING = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP,
    errno.ENAMETOOLONG, errno.EINVAL,
}  # fmt: skip


class DgbatchError(Exception):
    """Something a user can mend; printed without a traceback."""

    exit_code = 4


class JobError(DgbatchError):
    exit_code = 2


class InputError(DgbatchError):
    exit_code = 2


class CheckpointError(DgbatchError):
    exit_code = 2


class OutputError(DgbatchError):
    exit_code = 2


class LocationError(DgbatchError):
    exit_code = 2


class RunNotFound(DgbatchError):
    exit_code = 2


class QueryError(DgbatchError):
    exit_code = 2


class OptionError(DgbatchError):
    exit_code = 2


class BenchError(DgbatchError):
    exit_code = 2


class RunLocked(DgbatchError):
    exit_code = 5


class RunFailed(DgbatchError):
    exit_code = 4


class StoreFailed(RunFailed, OSError):
    """For whoever expects a disk it is an error of the disk: `strerror` says all. Made of its text alone, too."""

    def __str__(self) -> str:
        return str(self.args[-1] if self.strerror is None else self.strerror)


class RunCancelled(DgbatchError):
    exit_code = 130


class RowError(Exception):
    """One row cannot be done; `code` is one snake_case word for machines, the message is for people."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code
        self.message = message


def of_os_error(error: OSError, what: str, fix: str) -> DgbatchError:
    """The output cannot be read or written: OutputError with a fix where only people can mend it, RunFailed for a disk
    that is full or a store that is away, after which the same submit goes on.
    """
    reason = (error.strerror or str(error)).rstrip(".")
    if error.errno in LASTING:
        return OutputError(f"{what}: {reason}. {fix}")
    return RunFailed(f"{what}: {reason}. What is committed is safe: mend it and submit again.")
