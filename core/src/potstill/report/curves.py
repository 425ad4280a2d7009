"""The pictures of a report, as plotly figures without colours of their own background, for light and dark pages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from potstill.report.folder import StageFolder
from potstill.report.table import METRICS, heading, is_number

COLOURS = ("#3b7dd8", "#e8833a", "#3fa66b", "#b05cc6", "#d9534f", "#2aa5a5", "#a0792c", "#7d8597")
_QUALITY_AXES = (("p50_ms", "latency p50, ms"), ("bytes", "size, bytes"), ("parameters", "parameters"))


def loss_curves(stage: StageFolder) -> go.Figure | None:
    """The loss and its terms over the updates; None where nothing was logged."""
    if not stage.losses:
        return None
    terms = dict.fromkeys(name for line in stage.losses for name in line.get("terms") or {})
    series: dict[str, list[tuple[Any, Any]]] = {
        name: [(line.get("update"), (line.get("terms") or {}).get(name)) for line in stage.losses] for name in terms
    }
    if len(terms) != 1:
        series = {"loss": [(line.get("update"), line["loss"]) for line in stage.losses], **series}
    return _lines(series, "loss", markers=False)


def metric_curves(stage: StageFolder, metrics: Iterable[str] = ()) -> go.Figure | None:
    """Each metric over the updates it was measured after; None where nothing was measured.

    Args:
        metrics: which, where they were measured; else all but the loss.
    """
    found = dict.fromkeys(name for line in stage.evaluations for name in line["evaluation"])
    names = (
        [name for name in found if name in set(metrics)] or [name for name in found if name != "loss"] or list(found)
    )
    if not names:
        return None
    series = {
        heading(name): [(line.get("update"), line["evaluation"].get(name)) for line in stage.evaluations]
        for name in names
    }
    return _lines(series, "on the validation rows", markers=True)


def quality_picture(rows: Sequence[Mapping[str, Any]], metric: str | None = None) -> tuple[str, go.Figure] | None:
    """Every model's metric over its latency, or over its size where no latency was measured.

    Returns: the picture's title and the figure; None where no two numbers of one model are known.
    """
    for metric_name in dict.fromkeys(name for name in (metric, *METRICS) if name):
        for column, axis in _QUALITY_AXES:
            points = [row for row in rows if is_number(row.get(column)) and is_number(row.get(metric_name))]
            if points:
                cost = {"p50_ms": "latency", "bytes": "size"}.get(column, "parameters")
                return f"{heading(metric_name)} and {cost}".capitalize(), _points(points, column, axis, metric_name)
    return None


def _points(rows: Sequence[Mapping[str, Any]], column: str, axis: str, metric: str) -> go.Figure:
    figure = go.Figure()
    for number, row in enumerate(rows):
        figure.add_scatter(
            x=[row[column]],
            y=[row[metric]],
            text=[str(row.get("model", "?"))],
            mode="markers+text",
            textposition="bottom center" if number % 2 else "top center",  # neighbours do not cover each other
            marker={"size": 13, "color": COLOURS[number % len(COLOURS)]},
            hovertemplate=f"%{{text}}<br>{axis} %{{x:.4s}}<br>{heading(metric)} %{{y:.4f}}<extra></extra>",
            cliponaxis=False,
        )
    values = [float(row[column]) for row in rows]
    wide = min(values) > 0 and max(values) / min(values) > 5
    _style(figure, axis, heading(metric))
    figure.update_layout(showlegend=False, height=380)
    figure.update_xaxes(**({"type": "log", "dtick": "D2"} if wide else {}), **_room(values, wide))
    figure.update_yaxes(**_room([float(row[metric]) for row in rows], False))
    return figure


def _room(values: Sequence[float], logarithmic: bool) -> dict[str, Any]:
    """An axis range with room for the labels at its ends."""
    from math import log10

    ends = [log10(value) if logarithmic else value for value in (min(values), max(values))]
    margin = 0.18 * (ends[1] - ends[0]) or 0.1 * abs(ends[0]) or 1.0
    return {"range": [ends[0] - margin, ends[1] + margin]}


def _lines(series: Mapping[str, Sequence[tuple[Any, Any]]], axis: str, markers: bool) -> go.Figure:
    figure = go.Figure()
    for number, (name, points) in enumerate(series.items()):
        known = [(x, y) for x, y in points if is_number(x) and is_number(y)]
        figure.add_scatter(
            x=[x for x, _ in known],
            y=[y for _, y in known],
            name=name,
            mode="lines+markers" if markers or len(known) < 3 else "lines",
            line={"color": COLOURS[number % len(COLOURS)], "width": 2},
        )
    _style(figure, "updates", axis)
    return figure


def _style(figure: go.Figure, x: str, y: str) -> None:
    figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13, "color": "#777"},
        margin={"l": 64, "r": 16, "t": 16, "b": 48},
        height=300,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        showlegend=True,
        hoverlabel={"namelength": -1},
    )
    grid = {"gridcolor": "rgba(128,128,128,0.25)", "zeroline": False, "linecolor": "rgba(128,128,128,0.5)"}
    figure.update_xaxes(title={"text": x, "standoff": 8}, **grid)
    figure.update_yaxes(title={"text": y, "standoff": 8}, **grid)
