"""Pictures of where models err: F1 by class, a confusion matrix, quality by length, predictions beside the truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from potstill.report.curves import COLOURS, level, plain, style
from potstill.report.table import heading, is_number

Rows = Sequence[Mapping[str, Any]]

_CLASSES = 15
"""So many classes have a line of their own."""
_SIDE = 20
"""So many classes a confusion matrix shows."""
_WRITTEN = 10
"""Up to so many classes the cells have room for their numbers."""
_NOT_A_METRIC = ("from", "to", "rows", "low", "high")
_RIGHT, _WRONG = (63, 166, 107), (217, 83, 79)


def class_scores(rows: Rows, models: Sequence[str]) -> go.Figure:
    """F1 of every model on the classes of the first rows, a dot each.

    Args:
        rows: of `errors.class_rows`.
    """
    shown = list(rows)[:_CLASSES][::-1]
    figure = go.Figure()
    for number, model in enumerate(models):
        column = f"F1 {model}" if len(models) > 1 else "f1"
        figure.add_scatter(
            x=_numbers(shown, column),
            y=list(range(len(shown))),
            name=plain(model),
            meta=model,
            mode="markers",
            marker={"size": 10, "color": COLOURS[number % len(COLOURS)], "opacity": 0.85},
            customdata=[plain(row["class"]) for row in shown],
            hovertemplate="%{customdata}<br>F1 %{x:.4f}",
        )
    style(figure, "F1", "")
    figure.update_layout(height=110 + 24 * len(shown))
    figure.update_xaxes(range=[-0.03, 1.03])
    figure.update_yaxes(**_ticks([row["class"] for row in shown]), range=[-0.6, len(shown) - 0.4], automargin=True)
    return figure


def confusion(classes: Rows, mistakes: Rows) -> tuple[int, int, go.Figure]:
    """A confusion matrix as a heat map, of the classes with the most mistakes where there are many.

    Args:
        classes, mistakes: as `potstill.details` makes them.

    Returns: how many classes are shown, how many there are, and the figure.
    """
    known = {str(row.get("class")): row for row in classes}
    names = _most_confused(list(known), mistakes)
    counts = {(str(row.get("label")), str(row.get("predicted"))): row.get("count") for row in mistakes}
    right, wrong = _empty(len(names)), _empty(len(names))
    for y, label in enumerate(names):
        support = known[label].get("support")
        right[y][y] = known[label].get("recall") if support else None
        for x, predicted in enumerate(names):
            count = counts.get((label, predicted))
            if is_number(count) and support:
                wrong[y][x] = count / support
    figure = go.Figure()
    worst = max((share for line in wrong for share in line if share is not None), default=1.0)
    for shares, colour, top in ((wrong, _WRONG, worst), (right, _RIGHT, 1.0)):
        figure.add_heatmap(**_cells(shares, names, colour, top))
    style(figure, "predicted", "label")
    ticks = _ticks(names)
    tilted = len(names) > 3 or any(len(name) > 10 for name in names)  # they would lie over each other
    figure.update_layout(height=170 + max(24 * len(names), 160) + (60 if tilted else 0), showlegend=False)
    figure.update_xaxes(**ticks, tickangle=-45 if tilted else 0, automargin=True, showgrid=False)
    figure.update_yaxes(**ticks, autorange="reversed", automargin=True, showgrid=False)
    return len(names), len(known), figure


def lengths(models: Mapping[str, Rows]) -> go.Figure:
    """The first metric of every model by the length of the text, with its interval where that is known."""
    figure, metric = go.Figure(), ""
    tops = {tuple(row.get("to") for row in rows) for rows in models.values()}
    for number, (model, rows) in enumerate(models.items()):
        known = [row for row in rows if is_number(row.get("from")) and is_number(row.get("to"))]
        name = next((name for row in known for name in row if name not in _NOT_A_METRIC), "")
        metric = metric or name
        values = _numbers(known, metric)
        figure.add_scatter(
            x=[_span(row) if len(tops) == 1 else (row["from"] + row["to"]) / 2 for row in known],
            y=values,
            error_y=_bars(known, values),
            name=plain(model),
            meta=model,
            mode="lines+markers",
            line={"color": COLOURS[number % len(COLOURS)], "width": 2},
            customdata=[[_span(row), row.get("rows")] for row in known],
            hovertemplate=f"%{{customdata[0]}} tokens, %{{customdata[1]}} rows<br>{heading(metric)} %{{y:.4f}}",
        )
    style(figure, "tokens of the text", heading(metric))
    if len(tops) == 1:
        figure.update_xaxes(type="category")
    return level(figure, [metric])


def scatter(models: Mapping[str, Rows]) -> go.Figure:
    """Predictions over labels."""
    figure = go.Figure()
    for number, (model, rows) in enumerate(models.items()):
        figure.add_scatter(
            x=_numbers(rows, "label"),
            y=_numbers(rows, "predicted"),
            name=plain(model),
            meta=model,
            mode="markers",
            marker={"size": 6, "color": COLOURS[number % len(COLOURS)], "opacity": 0.5},
        )
    labels = [value for rows in models.values() for value in _numbers(rows, "label") if value is not None]
    ends = [min(labels, default=0), max(labels, default=1)]
    figure.add_scatter(
        x=ends, y=ends, mode="lines", line={"color": "rgba(128,128,128,0.8)", "dash": "dot"}, showlegend=False
    )
    style(figure, "label", "predicted")
    figure.update_layout(height=420)
    return figure


def _most_confused(names: list[str], mistakes: Rows) -> list[str]:
    """At most 20 classes, those of the most mistakes, in the order of their names."""
    if len(names) > _SIDE:
        made: Counter[str] = Counter(dict.fromkeys(names, 0))
        for row in mistakes:
            for side in ("label", "predicted"):
                if is_number(row.get("count")) and str(row.get(side)) in made:
                    made[str(row[side])] += row["count"]
        names = [name for name, _ in made.most_common(_SIDE)]
    return sorted(names, key=lambda name: (0, int(name), "") if name.isdecimal() else (1, 0, name))


def _cells(
    shares: list[list[float | None]], names: Sequence[str], colour: tuple[int, int, int], top: float
) -> dict[str, Any]:
    """A heat map of one colour, clear at 0, its numbers in the cells where there is room."""
    shade = f"rgba({colour[0]},{colour[1]},{colour[2]},{{}})"
    return {
        "z": shares,
        "zmin": 0,
        "zmax": top,
        "colorscale": [[0, shade.format(0.06)], [1, shade.format(0.75)]],
        "showscale": False,
        "hoverongaps": False,
        "xgap": 1,
        "ygap": 1,
        "text": [[f"{plain(label)} → {plain(predicted)}" for predicted in names] for label in names],
        "textfont": {"color": "#777"},  # by itself plotly takes a cell that is half clear to lie on white
        "texttemplate": "%{z:.0%}" if len(names) <= _WRITTEN else "",
        "hovertemplate": "%{text}<br>%{z:.2%} of the label's rows<extra></extra>",
    }


def _ticks(names: Sequence[str]) -> dict[str, Any]:
    return {"tickvals": list(range(len(names))), "ticktext": [plain(name, 28) for name in names]}


def _empty(side: int) -> list[list[float | None]]:
    return [[None] * side for _ in range(side)]


def _numbers(rows: Rows, column: str) -> list[Any]:
    return [row.get(column) if is_number(row.get(column)) else None for row in rows]


def _span(row: Mapping[str, Any]) -> str:
    return f"{row['from']}–{row['to']}" if row["from"] != row["to"] else str(row["from"])


def _bars(rows: Rows, values: Sequence[Any]) -> dict[str, Any]:
    lows, highs = _numbers(rows, "low"), _numbers(rows, "high")
    if any(end is None for end in (*lows, *highs, *values)):
        return {"visible": False}
    return {
        "array": [high - value for high, value in zip(highs, values, strict=True)],
        "arrayminus": [value - low for low, value in zip(lows, values, strict=True)],
        "thickness": 1,
        "width": 3,
    }
