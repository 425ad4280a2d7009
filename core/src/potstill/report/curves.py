"""Learning curves, as plotly figures without a background of their own, for light and dark pages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import isclose
from typing import Any

import plotly.graph_objects as go

from potstill.report.folder import StageFolder
from potstill.report.table import SHARES, heading, is_number

COLOURS = ("#3b7dd8", "#e8833a", "#3fa66b", "#b05cc6", "#d9534f", "#2aa5a5", "#a0792c", "#7d8597")


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
    return level(lines(series, "loss", markers=False))


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
    return level(lines(series, "on the validation rows", markers=True), names)


def lines(series: Mapping[str, Sequence[tuple[Any, Any]]], axis: str, markers: bool) -> go.Figure:
    """A line a series of (update, value), without the points where one is no number."""
    figure = go.Figure()
    for number, (name, points) in enumerate(series.items()):
        known = [(x, y) for x, y in points if is_number(x) and is_number(y)]
        figure.add_scatter(
            x=[x for x, _ in known],
            y=[y for _, y in known],
            name=plain(name),
            meta=name,
            mode="lines+markers" if markers or len(known) < 3 else "lines",
            line={"color": COLOURS[number % len(COLOURS)], "width": 2},
        )
    style(figure, "updates", axis)
    return figure


def style(figure: go.Figure, x: str, y: str) -> None:
    """Gives a figure the look of the page, and its axes their titles."""
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


def level(figure: go.Figure, metrics: Iterable[str] = ()) -> go.Figure:
    """Gives equal values an axis of a few percent around them, where plotly's would reach from 0 to 2 for 1.

    Args:
        metrics: what the values are; where all are shares, the axis stays between 0 and 1.

    Returns: the figure itself.
    """
    values = [value for mark in figure.data for value in mark.y or () if value is not None]
    bars = [end for mark in figure.data for ends in (mark.error_y.array, mark.error_y.arrayminus) for end in ends or ()]
    if not values or any(bars) or not isclose(min(values), max(values)):
        return figure
    room = 0.05 * abs(values[0]) or 0.05
    low, high = values[0] - room, values[0] + room
    named = set(metrics)
    if named and named <= set(SHARES):
        low, high = max(low, 0.0), min(high, 1.0)
    figure.update_yaxes(range=[low, high])
    return figure.update_traces(cliponaxis=False)  # a mark on the edge stays whole


def plain(text: object, longest: int = 60) -> str:
    """Text that plotly shows as it is, which reads some of HTML in names and labels.

    A longer one is cut in its middle, since names that differ mostly do so at an end.
    """
    words = " ".join(str(text).split())
    if len(words) > longest:
        words = f"{words[: longest // 2]}…{words[longest // 2 + 1 - longest :]}"
    return escape(words, quote=False)
