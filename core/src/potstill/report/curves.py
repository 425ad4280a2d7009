"""Learning curves, as plotly figures without a background of their own, for light and dark pages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from potstill.report.folder import StageFolder
from potstill.report.table import heading, is_number

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
    return lines(series, "loss", markers=False)


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
    return lines(series, "on the validation rows", markers=True)


def lines(series: Mapping[str, Sequence[tuple[Any, Any]]], axis: str, markers: bool) -> go.Figure:
    """A line a series of (update, value), without the points where one is no number."""
    figure = go.Figure()
    for number, (name, points) in enumerate(series.items()):
        known = [(x, y) for x, y in points if is_number(x) and is_number(y)]
        figure.add_scatter(
            x=[x for x, _ in known],
            y=[y for _, y in known],
            name=plain(name),
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


def plain(text: object, longest: int = 60) -> str:
    """Text that plotly shows as it is, which reads some of HTML in names and labels; cut where it is longer."""
    words = " ".join(str(text).split())
    return escape(words if len(words) <= longest else f"{words[: longest - 1]}…", quote=False)
