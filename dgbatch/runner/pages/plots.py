"""Figures -> what plotly.js draws; with the library itself, the only home of plotly (docs/adr/0011).

A plot is plain data here: traces and a layout, in which a colour is the name of a CSS variable of the page, so that
page.js can draw it for light and for dark. All text in it is ours, never a row's.
"""

from __future__ import annotations

import base64
import gzip
from functools import cache
from html import escape
from math import inf
from typing import TYPE_CHECKING, Any

from dgbatch.runner.terminal.plain import clock, rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dgbatch.runner.pages.distribution import Distribution
    from dgbatch.runner.pages.timeline import Life, Throughput

UNITS = ((3 * 3600.0, 3600.0, "hours"), (180.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))  # from, seconds, name
PHASES = {
    "load": "--phase-load", "tokenize": "--phase-tokenize", "prefill": "--phase-prefill",
    "denoise": "--phase-denoise", "forward": "--phase-denoise", "sample": "--phase-sample",
    "wait_input": "--phase-wait-input", "wait_output": "--phase-wait-output", "idle": "--phase-wait-input",
}  # fmt: skip
MOST_WORKERS = 40  # with a bar of their own
BAR_PX, ROOM_PX = 26, 44

Plot = dict[str, Any]


@cache
def library() -> str:
    """plotly.js, gzipped and in base64: 2 MB in place of 4.8. page.js unpacks it."""
    from plotly.offline import get_plotlyjs  # 50 ms that only a page is worth

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 5, mtime=0)).decode()


def over_time(found: Throughput, rates: Sequence[float], what: str) -> Plot:
    """Rates over seconds of work, with a line at each restart and a mark where a worker was lost."""
    total = found.width_s * len(rates)
    _, unit, name = next(each for each in UNITS if total >= each[0])
    # A step ends where the next one begins: the last rate once more closes the last bin.
    x = [found.width_s * index / unit for index in range(len(rates) + 1)]
    y = [*rates, rates[-1]]
    said = [f"{clock(found.width_s * index)}  <b>{rate(made)}</b> {what}" for index, made in enumerate(y)]
    traces: list[Plot] = [
        {
            "type": "scatter", "mode": "lines", "x": _round(x), "y": _round(y), "text": said, "hoverinfo": "text",
            "line": {"shape": "hv", "width": 1.5, "color": "--accent"}, "fill": "tozeroy", "fillcolor": "--accent-wash",
        }
    ]  # fmt: skip
    if found.losses:
        traces.append(
            {
                "type": "scatter", "mode": "markers", "x": _round(at / unit for at, _ in found.losses),
                "y": [0] * len(found.losses), "text": [f"worker {escape(worker)} lost" for _, worker in found.losses],
                "hoverinfo": "text", "cliponaxis": False,
                "marker": {"symbol": "triangle-up", "size": 9, "color": "--warn"},
            }
        )  # fmt: skip
    lines = [
        {
            "type": "line", "x0": at / unit, "x1": at / unit, "yref": "paper", "y0": 0, "y1": 1,
            "line": {"color": "--muted", "width": 1, "dash": "dot"},
        }
        for at, _ in found.restarts
    ]  # fmt: skip
    notes = [
        {
            "x": at / unit, "yref": "paper", "y": 1, "yanchor": "bottom", "showarrow": False,
            "xanchor": "right" if at > 0.85 * total else "left" if at < 0.15 * total else "center",
            "text": f"again after {clock(rest)}", "font": {"size": 11, "color": "--muted"},
        }
        for at, rest in found.restarts[:6]
    ]  # fmt: skip
    return {
        "data": traces,
        "layout": {
            "height": 190, "shapes": lines, "annotations": notes, "margin": {"t": 18, "l": 46},
            "xaxis": {"title": {"text": f"{name} of work"}, "range": [0, total / unit]},
            "yaxis": {"rangemode": "tozero", "nticks": 4, "automargin": False},
        },
    }  # fmt: skip


def bars(found: Distribution, axis: str, noun: str) -> Plot:
    """A distribution, with a line at its median."""
    total = found.total
    said = [
        f"{label} {axis}<br><b>{count:,}</b> {noun}, {count / total:.1%}"
        for label, count in zip(found.labels, found.bars, strict=True)
    ]
    trace: Plot = {
        "type": "bar", "y": list(found.bars), "hovertext": said, "hoverinfo": "text", "textposition": "none",
        "marker": {"color": "--accent", "line": {"width": 0}},
    }  # fmt: skip
    layout: Plot = {"height": 170, "bargap": 0.08, "xaxis": {"title": {"text": axis}}, "yaxis": {"nticks": 4}}
    if not found.even:
        names = [f"≤ {edge:g}" if edge < inf else f"> {found.edges[-2]:g}" for edge in found.edges[1:]]
        layout["xaxis"] |= {"type": "category"}
        return {"data": [{**trace, "x": names}], "layout": layout}
    width = found.edges[1] - found.edges[0]
    shift = 0.0 if found.whole and width == 1 else width / 2  # a bar that counts one number stands on it
    trace["x"], trace["width"] = _round(edge + shift for edge in found.edges[:-1]), width * 0.92
    median = float(found.median or 0.0)
    layout["shapes"] = [
        {
            "type": "line", "x0": median, "x1": median, "yref": "paper", "y0": 0, "y1": 1,
            "line": {"color": "--ink", "width": 1, "dash": "dot"},
        }
    ]  # fmt: skip
    return {"data": [trace], "layout": layout}


def phases(lives: Sequence[Life]) -> Plot:
    """What each worker did with its time, in shares of it."""
    shown = [life for life in lives if life.phases][:MOST_WORKERS]
    names = [escape(f"{life.worker} ") for life in shown]
    repeated = len(set(names)) < len(names)
    labels = [f"{name}· {number + 1} " if repeated else name for number, name in enumerate(names)]
    data = []
    for phase in known_phases(shown):
        took = [life.phases.get(phase, 0.0) for life in shown]
        shares = [seconds / (sum(life.phases.values()) or 1.0) for seconds, life in zip(took, shown, strict=True)]
        said = [
            f"{escape(phase.replace('_', ' '))}  <b>{share:.1%}</b>  {clock(seconds)}"
            for share, seconds in zip(shares, took, strict=True)
        ]
        data.append(
            {
                "type": "bar", "orientation": "h", "y": labels, "x": _round(shares), "hovertext": said,
                "hoverinfo": "text", "textposition": "none",
                "marker": {"color": colour(phase), "line": {"width": 1, "color": "--paper"}},
            }
        )  # fmt: skip
    return {
        "data": data,
        "layout": {
            "barmode": "stack", "height": BAR_PX * len(shown) + ROOM_PX, "bargap": 0.25,
            "xaxis": {"range": [0, 1], "tickformat": ".0%", "dtick": 0.25},
            "yaxis": {"type": "category", "autorange": "reversed", "showgrid": False},
            "margin": {"t": 4, "r": 20},
        },
    }  # fmt: skip


def known_phases(lives: Sequence[Life]) -> list[str]:
    """Those that these lives have, in the order of a row's way through a worker; unknown ones last."""
    found = {phase for life in lives for phase in life.phases}
    return [*(phase for phase in PHASES if phase in found), *sorted(found - PHASES.keys())]


def colour(phase: str) -> str:
    """The CSS variable of a phase."""
    return PHASES.get(phase, "--phase-other")


def _round(values: Any) -> list[float]:
    """Six digits: nobody sees more, and each costs a byte."""
    return [float(f"{value:.6g}") for value in values]
