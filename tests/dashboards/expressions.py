"""Every PromQL expression of the dashboards and the rules, and what is in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DASHBOARDS = ROOT / "dashboards"
BOARDS = ("fleet.json", "job.json", "engine.json")
RULES = ("recording_rules.yaml", "alerts.yaml")
VARIABLES = {"job": "job1", "worker": ".*", "__rate_interval": "20s", "__range": "1h"}  # as Grafana would fill them in


@dataclass(frozen=True)
class Expression:
    where: str  # file, panel or rule, and which of its queries
    text: str  # with $variables

    def filled_in(self, values: Mapping[str, str] = VARIABLES) -> str:
        return re.sub(r"\$\{?(\w+)\}?", lambda found: values[found[1]], self.text)


def board(name: str) -> dict[str, Any]:
    return json.loads((DASHBOARDS / name).read_text(encoding="utf-8"))


def panels(name: str) -> list[dict[str, Any]]:
    """Those that draw something."""
    return [panel for panel in board(name)["panels"] if panel["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    files = [yaml.safe_load((DASHBOARDS / name).read_text(encoding="utf-8")) for name in RULES]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def of_boards() -> list[Expression]:
    return [
        Expression(f"{name}: {panel['title']}: {target['refId']}", target["expr"])
        for name in BOARDS
        for panel in panels(name)
        for target in panel["targets"]
    ]


def of_annotations() -> list[Expression]:
    return [
        Expression(f"{name}: {mark['name']}", mark["expr"])
        for name in BOARDS
        for mark in board(name)["annotations"]["list"]
    ]


def of_rules() -> list[Expression]:
    return [Expression(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules()]


def everything() -> list[Expression]:
    return [*of_boards(), *of_annotations(), *of_rules()]


def selectors(text: str) -> Iterator[Any]:
    """Each `name{label="value"}` of an expression without $variables."""
    import promql_parser

    def inside(node: Any) -> Iterator[Any]:
        if isinstance(node, promql_parser.VectorSelector):
            yield node
        children = [getattr(node, name, None) for name in ("lhs", "rhs", "expr", "vector_selector", "param")]
        for child in [*children, *getattr(node, "args", [])]:
            if child is not None and not isinstance(child, str):
                yield from inside(child)

    return inside(promql_parser.parse(text))
