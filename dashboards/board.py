"""A dashboard: its variables, its links to the other two, and its panels on Grafana's grid of 24 columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dashboards.panels import DATASOURCE, Json

GRID = 24
BOARDS = {"dgbatch-fleet": "Fleet", "dgbatch-job": "Job", "dgbatch-engine": "Engine"}  # uid -> short title


def dashboard(uid: str, description: str, variables: Sequence[Json], rows: Mapping[str, Iterable[Json]]) -> Json:
    """A whole dashboard. rows: the panels under each heading, filled from left to right."""
    return {
        "uid": uid,
        "title": f"dgbatch / {BOARDS[uid]}",
        "description": description,
        "tags": ["dgbatch"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": [_alerts(variables)]},
        "links": [_link(other, variables) for other in BOARDS if other != uid],
        "templating": {"list": [_datasource(), *variables]},
        "panels": list(_laid_out(rows)),
    }


def job_variable(many: bool) -> Json:
    return _values("job", "Job", "label_values(dgbatch_rows_expected, job)", "Jobs in the time range.", many)


def worker_variable() -> Json:
    query = 'label_values(dgbatch_device_seconds_total{job="$job"}, worker)'
    return _values("worker", "Worker", query, "Of the job; counts of rows and tokens are of all its workers.", True)


def _values(name: str, label: str, query: str, description: str, many: bool) -> Json:
    """A variable that takes the values of a label. many: several at once, all of them at first."""
    made: Json = {
        "type": "query",
        "name": name,
        "label": label,
        "description": description,
        "datasource": DATASOURCE,
        "query": {"qryType": 1, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
        "definition": query,
        "refresh": 2,  # with the time range: jobs come and go
        "sort": 1,
        "multi": many,
        "includeAll": many,
    }
    if many:
        made |= {"allValue": ".*", "current": {"selected": True, "text": ["All"], "value": ["$__all"]}}
    return made


def _datasource() -> Json:
    return {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "description": "The Prometheus that scrapes dgbatch.",
        "query": "prometheus",
        "refresh": 1,
        "multi": False,
        "includeAll": False,
    }


def _link(other: str, variables: Sequence[Json]) -> Json:
    names = [variable["name"] for variable in variables if not variable["multi"]]
    # a link carries what fits there: one job fits all three, several fit the fleet alone
    query = "&".join(["${datasource:queryparam}", *(f"${{{name}:queryparam}}" for name in names)])
    return {
        "type": "link",
        "title": BOARDS[other],
        "url": f"/d/{other}?{query}",
        "icon": "dashboard",
        "tooltip": f"dgbatch / {BOARDS[other]}",
        "tags": [],
        "asDropdown": False,
        "targetBlank": False,
        "includeVars": False,
        "keepTime": True,
    }


def _alerts(variables: Sequence[Json]) -> Json:
    """Marks on every graph where an alert began to fire."""
    job = next(variable for variable in variables if variable["name"] == "job")
    match = f'job{"=~" if job["multi"] else "="}"$job"'
    return {
        "name": "Alerts",
        "datasource": DATASOURCE,
        "enable": True,
        "hide": False,
        "iconColor": "red",
        "expr": f'ALERTS{{alertname=~"Dgbatch.*",alertstate="firing",{match}}}',
        "titleFormat": "{{alertname}}",
        "textFormat": "{{job}} {{worker}}",
        "step": "30s",
    }


def _laid_out(rows: Mapping[str, Iterable[Json]]) -> Iterable[Json]:
    y, number = 0, 0
    for heading, panels in rows.items():
        number += 1
        place = {"x": 0, "y": y, "w": GRID, "h": 1}
        yield {"type": "row", "id": number, "title": heading, "collapsed": False, "gridPos": place, "panels": []}
        x, y, tallest = 0, y + 1, 0
        for panel in panels:
            size: dict[str, Any] = panel["gridPos"]
            if x + size["w"] > GRID:
                x, y, tallest = 0, y + tallest, 0
            number += 1
            yield {"id": number, **panel, "gridPos": {**size, "x": x, "y": y}}
            x, tallest = x + size["w"], max(tallest, size["h"])
        y += tallest
