"""The dashboards: made by dashboards/*.py, well-formed, and with what a reader of a panel needs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from dashboards import generate
from dashboards.panels import Limits
from tests.dashboards.expressions import BOARDS, DASHBOARDS, board, everything, of_boards, panels

SCHEMA = json.loads((Path(__file__).parent / "dashboard_schema.json").read_text())
UIDS = {"fleet.json": "dgbatch-fleet", "job.json": "dgbatch-job", "engine.json": "dgbatch-engine"}


@pytest.mark.parametrize("name", BOARDS)
def test_golden_dashboard_is_what_its_module_makes(name: str, update_golden: bool) -> None:
    if update_golden:
        (DASHBOARDS / name).write_text(generate.text(name), encoding="utf-8")
    assert (DASHBOARDS / name).read_text(encoding="utf-8") == generate.text(name), "run: just docs"


@pytest.mark.parametrize("name", BOARDS)
def test_dashboard_fits_the_schema(name: str) -> None:
    errors = Draft202012Validator(SCHEMA).iter_errors(board(name))
    assert [f"{'/'.join(map(str, error.absolute_path))}: {error.message}" for error in errors] == []


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda made: made["panels"][1].update(descripton="?"), "descripton"),
        (lambda made: made["panels"][1]["fieldConfig"]["defaults"].update(unit=7), "7 is not of type 'string'"),
        (lambda made: made["panels"][1]["options"].update(textMode="big"), "'big' is not one of"),
        (lambda made: made["panels"][1]["fieldConfig"]["defaults"].pop("thresholds"), "'thresholds' is a required"),
        (lambda made: made.update(uid="no such"), "'no such' is not one of"),
    ],
    ids=["a key", "a type", "a choice", "no thresholds", "a uid"],
)
def test_schema_refuses_what_is_misspelt_wrong_or_missing(spoil, message: str) -> None:
    made = board("fleet.json")
    spoil(made)
    assert message in " ".join(error.message for error in Draft202012Validator(SCHEMA).iter_errors(made))


@pytest.mark.parametrize("name", BOARDS)
def test_every_panel_says_what_it_shows_in_which_unit_and_from_the_chosen_source(name: str) -> None:
    assert board(name)["uid"] == UIDS[name]
    for panel in panels(name):
        title = panel["title"]
        assert len(panel["description"]) > 40 and panel["description"].endswith("."), f"{title}: no description"
        assert panel["fieldConfig"]["defaults"]["unit"], title
        assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["value"] is None, title
        for target in [panel, *panel["targets"]]:
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, title
    assert len({panel["title"] for panel in panels(name) if panel["type"] != "stat"}) > 3


@pytest.mark.parametrize("name", BOARDS)
def test_panels_lie_within_the_grid_and_not_on_one_another(name: str) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in board(name)["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
    ids = [panel["id"] for panel in board(name)["panels"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", BOARDS)
def test_variables_that_are_used_are_declared_and_each_dashboard_has_source_and_job(name: str) -> None:
    declared = {variable["name"] for variable in board(name)["templating"]["list"]}
    assert {"datasource", "job"} <= declared
    assert ("worker" in declared) == (name != "fleet.json")
    built_in = {"__rate_interval", "__range", "__value", "__url_time_range", "__all"}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(board(name)))) <= declared | built_in


def test_expressions_are_about_the_chosen_jobs_over_windows_that_fit_the_scrapes() -> None:
    for expression in of_boards():
        if "ALERTS" not in expression.text:
            for metric in re.findall(r"dgbatch_\w+(\{[^}]*\})?", expression.text):
                assert "$job" in metric, f"{expression.where}: some metric is not of the chosen job"
        assert set(re.findall(r"\[([^]]+)\]", expression.text)) <= {"$__rate_interval", "$__range"}, expression.where


@pytest.mark.parametrize("name", BOARDS)
def test_dashboards_link_to_the_other_two_with_the_source_and_the_job(name: str) -> None:
    links = {link["title"]: link["url"] for link in board(name)["links"]}
    ways = {f"/d/{uid}" for file, uid in UIDS.items() if file != name}
    assert {url.partition("?")[0] for url in links.values()} == ways
    assert all("${datasource:queryparam}" in url for url in links.values())
    if name != "fleet.json":
        assert all("${job:queryparam}" in url for url in links.values())


def test_jobs_in_the_tables_of_the_fleet_lead_to_their_dashboard() -> None:
    tables = [panel for panel in panels("fleet.json") if panel["type"] == "table"]
    assert len(tables) == 2
    for table in tables:
        assert "/d/dgbatch-job?var-job=${__value.text}" in json.dumps(table)


def test_values_turn_orange_and_red_at_their_limits() -> None:
    def colors(limits: Limits) -> list[tuple[str, float | None]]:
        return [(step["color"], step["value"]) for step in limits.json()["steps"]]

    assert colors(Limits()) == [("green", None)]
    assert colors(Limits(orange=1, red=2)) == [("green", None), ("orange", 1), ("red", 2)]
    assert colors(Limits(orange=2, red=1, low=True)) == [("red", None), ("orange", 1), ("green", 2)]
    assert colors(Limits(red=1, low=True)) == [("red", None), ("green", 1)]


def test_every_expression_is_promql() -> None:
    parser = pytest.importorskip("promql_parser", reason="pip install promql-parser")
    for expression in everything():
        try:
            parser.parse(expression.filled_in())
        except ValueError as error:
            pytest.fail(f"{expression.where}: {expression.text}: {error}")
