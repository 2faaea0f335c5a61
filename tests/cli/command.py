"""Runs a command inside the test's process, and says how it left."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from dgbatch.cli import main


@dataclass(frozen=True)
class Left:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one object on standard output."""
        return json.loads(self.out)


def dgbatch(capfd: pytest.CaptureFixture[str], *arguments: str) -> Left:
    capfd.readouterr()
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    captured = capfd.readouterr()
    return Left(int(left.value.code or 0), captured.out, captured.err)
