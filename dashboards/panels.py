"""The panels that our dashboards are made of, as Grafana's JSON (schema version 39: Grafana 11 and later)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
LEGEND = {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": []}
GREEN, ORANGE, RED = "green", "orange", "red"


@dataclass(frozen=True)
class Query:
    """One PromQL expression, and what its series are called: `{{label}}` stands for a label's value."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Limits:
    """Where a value turns orange and red; `low`: values below the limits are the bad ones."""

    orange: float | None = None
    red: float | None = None
    low: bool = False

    def json(self) -> Json:
        worse = [(color, at) for color, at in ((ORANGE, self.orange), (RED, self.red)) if at is not None]
        if self.low:  # from below: red up to its limit, orange up to its own, then green
            worse.reverse()
            colors, bounds = [color for color, _ in worse] + [GREEN], [at for _, at in worse]
        else:
            colors, bounds = [GREEN] + [color for color, _ in worse], [at for _, at in worse]
        steps = [{"color": color, "value": at} for color, at in zip(colors, [None, *bounds], strict=True)]
        return {"mode": "absolute", "steps": steps}


NO_LIMIT = Limits()  # said where no value is good or bad by itself


def timeseries(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    limits: Limits = NO_LIMIT,
    stack: str = "none",
    width: int = 12,
    floor: float | None = 0,
    ceiling: float | None = None,
    colors: Mapping[str, str] | None = None,
) -> Json:
    """Lines over time. stack: none, normal or percent. colors: of series, by name."""
    custom = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 10 if stack == "none" else 60,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": stack, "group": "A"},
        "thresholdsStyle": {"mode": "off" if limits == NO_LIMIT else "dashed"},
    }
    made = _panel("timeseries", title, description, unit, queries, limits, width, 8, floor, ceiling)
    made["fieldConfig"]["defaults"] |= {"color": {"mode": "palette-classic"}, "custom": custom}
    made["fieldConfig"]["overrides"] = [
        {"matcher": {"id": "byName", "options": name}, "properties": [_fixed_color(color)]}
        for name, color in (colors or {}).items()
    ]
    tooltip = {"mode": "multi", "sort": "desc"}
    return made | {"options": {"legend": LEGEND, "tooltip": tooltip}}


def stat(
    title: str,
    description: str,
    unit: str,
    query: Query,
    limits: Limits = NO_LIMIT,
    width: int = 4,
    missing: str = "-",
    text: str = "value",
    now: bool = False,
) -> Json:
    """One number, or the name of a series (text: name). missing: what is shown where there is no data.

    now: the value of this moment; else the last in the time range, which is the final one of a job that has ended.
    """
    made = _panel("stat", title, description, unit, (query,), limits, width, 4, instant=now)
    made["fieldConfig"]["defaults"] |= {"color": {"mode": "thresholds"}, "noValue": missing}
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": text,
        "colorMode": "value" if limits != NO_LIMIT else "none",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "wideLayout": True,
        "showPercentChange": False,
        "percentChangeColorMode": "standard",
    }
    return made | {"options": options}


def bars(title: str, description: str, unit: str, query: Query, limits: Limits = NO_LIMIT, width: int = 12) -> Json:
    """A bar for each series, with the last value in the time range."""
    made = _panel("bargauge", title, description, unit, (query,), limits, width, 8, floor=0)
    made["fieldConfig"]["defaults"] |= {"color": {"mode": "thresholds"}, "noValue": "none"}
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "orientation": "horizontal",
        "displayMode": "basic",
        "valueMode": "text",
        "namePlacement": "left",
        "showUnfilled": True,
        "minVizWidth": 8,
        "minVizHeight": 16,
        "maxVizHeight": 300,
        "sizing": "auto",
        "legend": LEGEND | {"showLegend": False},
    }
    return made | {"options": options}


def heatmap(title: str, description: str, unit: str, query: Query, counted: str, width: int = 12) -> Json:
    """Buckets of a histogram over time. unit: of the buckets; counted: of what is in them."""
    made = _panel("heatmap", title, description, counted, (query,), NO_LIMIT, width, 8)
    made["targets"][0]["format"] = "heatmap"
    made["fieldConfig"]["defaults"]["custom"] = {"scaleDistribution": {"type": "linear"}}
    options = {
        "calculate": False,
        "cellGap": 1,
        "cellValues": {"unit": counted},
        "color": {
            "mode": "scheme",
            "scheme": "Oranges",
            "fill": "orange",
            "exponent": 0.5,
            "steps": 64,
            "reverse": False,
        },
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "showValue": "never",
        "tooltip": {"mode": "single", "yHistogram": True, "showColorScale": True},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": unit},
    }
    return made | {"options": options}


@dataclass(frozen=True)
class Column:
    """A number of each row of a table; without a name, what is shown are the labels that only this query has."""

    name: str
    expr: str
    unit: str
    limits: Limits = NO_LIMIT
    bar: bool = False  # a bar from 0 to 1 instead of a number


def table(
    title: str,
    description: str,
    labels: Sequence[str],
    columns: Sequence[Column],
    link: tuple[str, str] | None = None,
) -> Json:
    """A row for each value of the first of the labels. link: text and URL behind it."""
    queries = [Query(column.expr) for column in columns]
    made = _panel("table", title, description, "short", queries, NO_LIMIT, 24, 8, instant=True)
    for target in made["targets"]:
        target["format"] = "table"
    made["fieldConfig"]["defaults"] |= {
        "custom": {"align": "auto", "filterable": False, "inspect": False},
        "noValue": "-",
    }
    made["fieldConfig"]["overrides"] = [_of_column(column) for column in columns if column.name]
    if link is not None:
        links = [{"title": link[0], "url": link[1], "targetBlank": False}]
        made["fieldConfig"]["overrides"].append(
            {"matcher": {"id": "byName", "options": labels[0]}, "properties": [{"id": "links", "value": links}]}
        )
    values = {f"Value #{target['refId']}": column.name for target, column in zip(made["targets"], columns, strict=True)}
    names = {value: name for value, name in values.items() if name}
    order = {name: index for index, name in enumerate([*labels, *names])}
    hidden = {"Time": True} | {value: True for value, name in values.items() if not name}
    made["transformations"] = [
        {"id": "merge", "options": {}},
        {
            "id": "organize",
            "options": {"excludeByName": hidden, "indexByName": order, "renameByName": names},
        },
    ]
    sort = [{"displayName": labels[0], "desc": False}]
    return made | {"options": {"frameIndex": 0, "showHeader": True, "cellHeight": "sm", "sortBy": sort}}


def _of_column(column: Column) -> Json:
    properties: list[Json] = [
        {"id": "unit", "value": column.unit},
        {"id": "thresholds", "value": column.limits.json()},
    ]
    if column.bar:
        shape = {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}
        properties += [
            {"id": "min", "value": 0},
            {"id": "max", "value": 1},
            {"id": "custom.cellOptions", "value": shape},
        ]
    elif column.limits != NO_LIMIT:
        properties.append({"id": "custom.cellOptions", "value": {"type": "color-text"}})
    return {"matcher": {"id": "byName", "options": column.name}, "properties": properties}


def _panel(
    kind: str,
    title: str,
    description: str,
    unit: str,
    queries: Sequence[Query],
    limits: Limits,
    width: int,
    height: int,
    floor: float | None = None,
    ceiling: float | None = None,
    instant: bool = False,
) -> Json:
    bounds = {"min": floor, "max": ceiling}
    defaults: Json = {"unit": unit, "thresholds": limits.json()}
    defaults |= {name: bound for name, bound in bounds.items() if bound is not None}
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "gridPos": {"x": 0, "y": 0, "w": width, "h": height},
        "targets": [_target(query, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[i], instant) for i, query in enumerate(queries)],
        "fieldConfig": {"defaults": defaults, "overrides": []},
    }


def _target(query: Query, ref: str, instant: bool) -> Json:
    return {
        "refId": ref,
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "instant": instant,
        "range": not instant,
    }


def _fixed_color(color: str) -> Json:
    return {"id": "color", "value": {"mode": "fixed", "fixedColor": color}}
