"""Rules that a completion passes or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dgbatch.runner.blocks import AcceptSpec


class Rules:
    """The job's accept rules, ready to judge. Without rules nothing is judged: `names` is empty."""

    def __init__(self, spec: AcceptSpec | None):
        self.columns: tuple[str, ...] = tuple(rule.equals for rule in spec.rules) if spec else ()
        # Fields of the struct `rules`.
        self.names: tuple[str, ...] = tuple(f"equals_{column}" for column in self.columns)

    def judge(self, text: str, row: Mapping[str, Any]) -> dict[str, bool]:
        """Each rule's verdict by its name; accepted is when all are True. A null answer equals nothing."""
        return {
            name: row[column] is not None and text.strip() == _text(row[column])
            for name, column in zip(self.names, self.columns, strict=True)
        }


def _text(value: Any) -> str | None:
    """None for a value that source.py had to leave as Arrow has it, and that cannot be printed."""
    try:
        return str(value).strip()
    except (ValueError, OverflowError):
        return None
