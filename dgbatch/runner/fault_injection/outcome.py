"""What came of each fault of a chaos run, and of the run: plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dgbatch.runner.fault_injection.fault_plan import Fault
from dgbatch.runner.verify import Verification


@dataclass(slots=True)
class Outcome:
    """What came of one fault."""

    fault: Fault
    at_s: float | None = None  # since the first worker was ready; None: it did not happen
    what: str = "did not happen: the run was over before"
    told_at: float = 0.0  # the clock of the run's events, when it happened
    worker: str = ""  # whom it hit
    answer: str = ""  # what the run made of it

    @property
    def happened(self) -> bool:
        return self.at_s is not None


@dataclass(frozen=True, slots=True)
class Survived:
    """A chaos run at its end."""

    outcomes: list[Outcome]
    exit_codes: list[int]  # of each submit; negative: the signal that killed it
    verification: Verification | None  # None: it never came to a whole dataset
    reason: str  # what the last submit said, where there is no proof
    rows_before: int  # rows that were committed when the last submit began
    seconds: float
    kept: str | None  # the folder, when it was asked to stay

    @property
    def ok(self) -> bool:
        holds = self.verification is not None and self.verification.holds
        return holds and all(outcome.happened for outcome in self.outcomes)

    def to_json(self) -> dict[str, Any]:
        proof = self.verification
        return {
            "ok": self.ok,
            "faults": [
                {"fault": str(each.fault), "happened": each.happened, "at_s": each.at_s, "what": each.what,
                 "answer": each.answer}
                for each in self.outcomes
            ],
            "submits": self.exit_codes,
            "verify": proof and proof.to_json(),
            "reason": self.reason,
            "seconds": round(self.seconds, 1),
            "kept": self.kept,
        }  # fmt: skip
