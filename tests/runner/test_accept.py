"""Accept rules."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgbatch.runner.accept import Rules
from dgbatch.runner.blocks import AcceptSpec


def rules(*columns: str) -> Rules:
    return Rules(AcceptSpec.model_validate({"rules": [{"equals": column} for column in columns]}))


def test_job_without_rules_judges_nothing():
    none = Rules(None)
    assert none.columns == () and none.names == () and none.judge("x", {}) == {}


@pytest.mark.parametrize(
    ("text", "answer", "equal"),
    [
        ("42", "42", True), ("\n 42 \n", "42", True), ("42", " 42", True), ("42", 42, True), ("4 2", "42", False),
        ("", "", True), ("", None, False), ("None", None, False), ("a\nb", "a\nb", True), ("A", "a", False),
    ],
)  # fmt: skip
def test_equals_compares_without_the_spaces_around(text, answer, equal):
    assert rules("answer").judge(text, {"answer": answer}) == {"equals_answer": equal}


def test_answer_that_cannot_be_printed_equals_nothing():
    assert rules("a").judge("x", {"a": pa.scalar(10**7, pa.date32())}) == {"equals_a": False}


def test_each_rule_has_its_own_verdict():
    both = rules("a", "b")
    assert both.columns == ("a", "b") and both.names == ("equals_a", "equals_b")
    assert both.judge("x", {"a": "x", "b": "y", "c": 0}) == {"equals_a": True, "equals_b": False}


@given(st.text())
def test_right_answer_is_accepted(answer):
    assert rules("a").judge(f" {answer}\n", {"a": answer}) == {"equals_a": True}
