"""Metrics, and who names them: nothing is drawn that does not exist, and nothing exists that nobody shows."""

from __future__ import annotations

import re
from typing import get_args

import pytest

from dgbatch.runner.metering.moment import WorkerState
from dgbatch.runner.metrics import KINDS, METRICS, PHASES, RESTARTS, RETRIES, SHARD_STATES, STATUSES
from dgbatch.runner.progress import State
from tests.dashboards.expressions import ROOT, everything, of_boards, rules, selectors

pytest.importorskip("promql_parser", reason="pip install promql-parser")

OTHERS = {"up", "ALERTS"}  # Prometheus' own
OF_TARGETS = {"job", "instance"}
VALUES = {
    "status": set(STATUSES),
    "kind": set(KINDS),
    "state": {*SHARD_STATES, *get_args(WorkerState), *get_args(State)},
    "phase": set(PHASES),
    "reason": {*RETRIES, *RESTARTS},
}
PAGES = ("docs/alerts.md", "docs/monitoring.md")  # docs/metrics.md is made from METRICS and names them all


def series() -> dict[str, set[str]]:
    """Labels by name of series: a histogram has three."""
    found: dict[str, set[str]] = {}
    for metric in METRICS:
        if metric.kind == "histogram":
            found |= {f"{metric.name}{part}": set(metric.labels) for part in ("_sum", "_count")}
            found[f"{metric.name}_bucket"] = {*metric.labels, "le"}
        else:
            found[metric.name] = set(metric.labels)
    return found


def test_metrics_and_labels_of_every_expression_are_declared() -> None:
    declared, recorded = series(), {rule["record"] for rule in rules() if "record" in rule}
    for expression in everything():
        for selector in selectors(expression.filled_in()):
            if selector.name in recorded | OTHERS:
                continue
            assert selector.name in declared, f"{expression.where}: {selector.name} is not in runner/metrics.py"
            asked = {matcher.name for matcher in selector.matchers.matchers}
            assert asked <= declared[selector.name] | OF_TARGETS, f"{expression.where}: {selector.name} has no {asked}"


def test_values_of_labels_that_expressions_ask_for_are_said_by_some_driver() -> None:
    """A misspelt state has no data, and beside a right one nobody would miss it."""
    for expression in everything():
        for selector in selectors(expression.filled_in()):
            for matcher in selector.matchers.matchers:
                if matcher.name in VALUES:
                    asked = set(matcher.value.split("|"))
                    assert asked <= VALUES[matcher.name], f"{expression.where}: {matcher.name} is never {asked}"


def test_labels_that_expressions_group_by_are_those_of_their_metrics() -> None:
    declared = series()
    for expression in everything():
        names = [selector.name for selector in selectors(expression.filled_in())]
        known = set().union(OF_TARGETS, *(declared.get(name, set()) for name in names))
        for group in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression.text):
            asked = {label.strip() for label in group.split(",")}
            assert asked <= known, f"{expression.where}: {asked - known}"


def test_every_metric_is_on_a_dashboard_in_a_rule_or_in_a_page_of_the_docs() -> None:
    drawn = {selector.name for each in everything() for selector in selectors(each.filled_in())}
    text = " ".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    named = drawn | {f"dgbatch_{name.removeprefix('dgbatch_')}" for name in re.findall(r"`(\w+)`", text)}
    bare = {re.sub(r"_(bucket|sum|count)$", "", name) for name in named} | named
    assert [metric.name for metric in METRICS if metric.name not in bare] == [], "no dashboard, rule or page shows it"


def test_variables_stand_in_no_expression_of_a_rule() -> None:
    assert [rule["expr"] for rule in rules() if "$" in rule["expr"]] == []


@pytest.mark.parametrize("page", PAGES)
def test_metrics_that_the_docs_name_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert set(re.findall(r"\bdgbatch_(?!jobs?\b)[a-z_]+(?:_total|_seconds|_ratio|_bytes|_rows)\b", text)) <= set(
        series()
    )


def test_what_is_chosen_by_worker_is_held_against_nothing_of_all_workers() -> None:
    declared = series()
    for expression in of_boards():
        names = {selector.name for selector in selectors(expression.filled_in())}
        of_all = {name for name in names if "worker" not in declared.get(name, {"worker"})}
        assert not (of_all and "$worker" in expression.text), f"{expression.where}: {of_all} are of all workers"
