"""What a submit would find at output.path, told before anything starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dgbatch.errors import DgbatchError
from dgbatch.runner.difference import input_difference, job_difference
from dgbatch.runner.fingerprint import fingerprint
from dgbatch.runner.layout import RUN, refuse_foreign
from dgbatch.runner.run_folder import Run
from dgbatch.runner.storage.folder import open_folder

if TYPE_CHECKING:
    from dgbatch.runner.plan import Plan
    from dgbatch.runner.spec import JobSpec


@dataclass(frozen=True, slots=True)
class Outlook:
    """`done` rows of the run that is there; `changed`: how its job differs, or why it cannot be used, a line each."""

    state: Literal["new", "resumes", "complete", "refused"]
    done: int = 0
    changed: tuple[str, ...] = ()


def outlook(spec: JobSpec, plan: Plan) -> Outlook:
    """Of this job with this plan; nothing is written."""
    path = spec.output.path
    try:
        refuse_foreign(path)
        if not open_folder(path).exists(RUN):
            return Outlook("new")
        run = Run.open(path)
        ledger = run.ledger()
        gone = run.gone(ledger) if run.succeeded else []
    except OSError as error:
        return Outlook("refused", changed=(f"{path} cannot be read: {error.strerror or error}",))
    except DgbatchError as error:
        return Outlook("refused", changed=(str(error),))
    if run.fingerprint != fingerprint(spec, plan):
        return Outlook("refused", ledger.tally.rows, tuple(differences(run, spec, plan)))
    if gone:
        more = f", and {len(gone) - 1:,} more" if len(gone) > 1 else ""
        return Outlook(
            "refused",
            ledger.tally.rows,
            (f"it was complete, and files of it are gone: {gone[0]}{more}; dgbatch verify says what to do",),
        )
    return Outlook("complete" if run.succeeded else "resumes", ledger.tally.rows)


def differences(run: Run, spec: JobSpec, plan: Plan) -> list[str]:
    """How this job and its input differ from those of the run, a line each."""
    lines = [*job_difference(run.info["spec"], spec.public()), *input_difference(run.plan, plan)]
    return lines or ["nothing that this version of dgbatch knows of: another version made the run"]
