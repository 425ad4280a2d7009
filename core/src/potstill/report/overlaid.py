"""One curve of several runs in one picture, and one metric over their seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from potstill.report.curves import COLOURS, level, lines, plain, style
from potstill.report.folder import StageFolder
from potstill.report.seeds import Spread
from potstill.report.table import METRICS, heading


def overlaid(stages: Mapping[str, StageFolder], kind: str, name: str) -> go.Figure:
    """A line a run over its updates.

    Args:
        stages: by the run's name.
        kind, name: "loss" and "", "term" and a loss term's name, or "metric" and a metric's.
    """
    series = {run: _points(stage, kind, name) for run, stage in stages.items()}
    title = {"loss": "loss", "term": name, "metric": heading(name)}[kind]
    return level(lines(series, plain(title), markers=kind == "metric"), [name] if kind == "metric" else ())


def seeds(groups: Mapping[str, Mapping[str, Mapping[str, Spread]]], metric: str | None) -> go.Figure | None:
    """The mean of every model with its interval, a colour a group; None where no model has a metric."""
    having = {name for models in groups.values() for metrics in models.values() for name in metrics}
    shown = next((name for name in (metric, *METRICS, *sorted(having)) if name in having), None)
    if shown is None:
        return None
    figure = go.Figure()
    for number, (group, models) in enumerate(groups.items()):
        found = {model: metrics[shown] for model, metrics in models.items() if shown in metrics}
        half = [(one.high or one.mean) - one.mean for one in found.values()]
        figure.add_scatter(
            x=[plain(model) for model in found],
            y=[one.mean for one in found.values()],
            error_y={"array": half, "thickness": 1.5, "width": 6},
            name=plain(group),
            meta=group,
            mode="markers",
            marker={"size": 10, "color": COLOURS[number % len(COLOURS)]},
        )
    style(figure, "", heading(shown))
    figure.update_xaxes(type="category")
    return level(figure, [shown])


def _points(stage: StageFolder, kind: str, name: str) -> list[tuple[Any, Any]]:
    if kind == "metric":
        return [(line.get("update"), line["evaluation"].get(name)) for line in stage.evaluations]
    if kind == "term":
        return [(line.get("update"), (line.get("terms") or {}).get(name)) for line in stage.losses]
    return [(line.get("update"), line["loss"]) for line in stage.losses]
