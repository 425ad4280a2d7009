"""One picture of all models: quality over latency and over size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from potstill.details import wilson
from potstill.report.curves import COLOURS, level, plain, style
from potstill.report.folder import RecordedRun, StageFolder
from potstill.report.table import METRICS, SIZES, heading, is_number, rows_of

NOTE = (
    "Squares are teachers, open circles students trained without a teacher, filled circles those with one; diamonds "
    "and triangles are exported forms. Bars are 95 % intervals over the rows. A dotted line is a model that has no "
    "measured latency and no exported form."
)
_AXES = (("p50_ms", "latency p50, ms"), ("bytes", "size, MB"), ("parameters", "parameters, M"))
_SCALE = {"bytes": 1e6, "parameters": 1e6}
_EXPORTED = ("diamond", "triangle-up", "star", "hexagon", "cross")
Intervals = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Point:
    """A model in the picture.

    Attributes:
        row: of the table of models.
        origin: the model that it is, or that it was exported from; models of one origin have one colour.
        symbol: what plotly draws.
        intervals: low and high of metrics.
        run: the name of its run where several are shown, each in one colour.
    """

    row: Mapping[str, Any]
    origin: str
    symbol: str
    intervals: Intervals
    run: str = ""

    @property
    def name(self) -> str:
        """As the pointer tells it."""
        model = str(self.row.get("model", "?"))
        return f"{self.run}: {model}" if self.run else model

    @property
    def legend(self) -> str:
        """The line of the legend that it belongs to."""
        return self.run or self.name

    @property
    def colour(self) -> str:
        """What has one colour."""
        return self.run or self.origin


def points(run: RecordedRun) -> list[Point]:
    """A run's models, in the order of its table."""
    stages = run.finished_stages
    known = {name: _intervals(tables.get("validation", {})) for name, tables in run.details.items()}
    counted = next((row["rows"] for _, row in _accuracies(run) if is_number(row.get("rows"))), None)
    found: list[Point] = []
    for row in rows_of(run):
        name = str(row.get("model", "?"))
        origin = run.origin(name)
        if name in stages or name == "teacher":
            symbol = role_symbol(stages[name]) if name in stages else "square"
            found.append(Point(row, origin, symbol, known.get(name, {})))
        else:
            forms = sum(point.origin == origin and point.symbol in _EXPORTED for point in found)
            found.append(Point(row, origin, _EXPORTED[forms % len(_EXPORTED)], _shares(row, counted)))
    return found


def role_symbol(stage: StageFolder) -> str:
    """A square for a teacher, a filled circle for a student with a teacher, an open one for a student without."""
    if stage.result.get("trains") == "teacher":
        return "square"
    taught = stage.result.get("taught", bool(stage.result.get("plugins")))  # older runs do not say
    return "circle" if taught else "circle-open"


def picture(points: Sequence[Point], metric: str | None = None) -> tuple[str, go.Figure] | None:
    """Every model's metric over its latency and over its size; over its parameters where neither is known.

    Args:
        metric: the recipe's; where no model has it, the first one of the table that some model has.

    Returns: the picture's title and the figure; None where no two numbers of one model are known.
    """
    every = dict.fromkeys([metric, *METRICS, *(name for point in points for name in point.row)])
    for name in (name for name in every if name and name not in SIZES):
        judged = [point for point in points if is_number(point.row.get(name))]
        known = [axis for axis in _AXES if any(_known(point.row, axis[0]) for point in judged)]
        axes = known[:-1] if len(known) > 1 and known[-1] == _AXES[-1] else known
        if axes:
            costs = " and ".join({"p50_ms": "latency", "bytes": "size"}.get(column, column) for column, _ in axes)
            return f"{heading(name)} over {costs}".capitalize(), _figure(judged, axes, name)
    return None


def _figure(points: Sequence[Point], axes: Sequence[tuple[str, str]], metric: str) -> go.Figure:
    figure = make_subplots(1, len(axes), shared_yaxes=True, horizontal_spacing=0.04)
    style(figure, "", heading(metric))
    colours = dict(zip(dict.fromkeys(point.colour for point in points), COLOURS * len(points), strict=False))
    timed = {(point.run, point.origin) for point in points if _known(point.row, "p50_ms")}
    for point in points:
        colour = colours[point.colour]
        for number, (column, _) in enumerate(axes, start=1):
            if _known(point.row, column):
                _mark(figure, point, column, metric, colour, number)
            elif column == "p50_ms" and (point.run, point.origin) not in timed:
                height, line = point.row[metric], {"color": colour, "dash": "dot", "width": 2}
                figure.add_shape(
                    type="line", x0=0, x1=1, y0=height, y1=height, line=line, xref="x domain", row=1, col=number
                )
    for number, (column, title) in enumerate(axes, start=1):
        values = [float(point.row[column]) / _SCALE.get(column, 1) for point in points if _known(point.row, column)]
        figure.update_xaxes(title={"text": title}, col=number, **_axis(values))
    if len(axes) > 1:
        figure.update_yaxes(title=None, col=2)
    figure.update_layout(height=420, margin={"t": 8}, legend={"y": 1.04})
    return level(figure, [metric])


def _mark(figure: go.Figure, point: Point, column: str, metric: str, colour: str, number: int) -> None:
    value, ends = float(point.row[metric]), point.intervals.get(metric)
    bars = {"array": [ends[1] - value], "arrayminus": [value - ends[0]]} if ends else {}
    exported = point.symbol in _EXPORTED  # smaller, since it often lies on the model it was made of
    figure.add_scatter(
        x=[float(point.row[column]) / _SCALE.get(column, 1)],
        y=[value],
        error_y={**bars, "thickness": 1, "width": 3, "visible": bool(bars)},
        name=plain(point.legend),
        legendgroup=point.legend,
        meta=point.legend,
        showlegend=not any(trace.legendgroup == point.legend for trace in figure.data),
        mode="markers",
        marker={
            "size": 9 if exported else 15,
            "color": colour,
            "symbol": point.symbol,
            "opacity": 1 if exported or "open" in point.symbol else 0.6,
        },
        hovertemplate=f"{plain(point.name)}<br>%{{x:.4s}}<br>{heading(metric)} %{{y:.4f}}<extra></extra>",
        row=1,
        col=number,
    )


def _axis(values: Sequence[float]) -> dict[str, Any]:
    """A range with room at its ends, logarithmic where the largest value is more than 5 times the smallest."""
    wide = max(values) / min(values) > 5
    ends = [log10(value) if wide else value for value in (min(values), max(values))]
    margin = 0.12 * (ends[1] - ends[0]) or 0.5 * abs(ends[0]) or 1.0
    axis = {"range": [ends[0] - margin, ends[1] + margin]}
    if not wide:
        return axis
    decades = range(floor(axis["range"][0]), ceil(axis["range"][1]))
    ticks = [float(f"{digit}e{decade}") for decade in decades for digit in (1, 2, 5)]
    return axis | {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def _known(row: Mapping[str, Any], column: str) -> bool:
    value = row.get(column)
    return is_number(value) and float(value) > 0  # type: ignore[arg-type]


def _accuracies(run: RecordedRun) -> list[tuple[str, Mapping[str, Any]]]:
    """The intervals of the accuracy that count rows, by model: an exported model's is of the same rows."""
    return [
        (name, row)
        for name, tables in run.details.items()
        for row in tables.get("validation", {}).get("intervals", ())
        if row.get("metric") == "accuracy"
    ]


def _intervals(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, tuple[float, float]]:
    rows = [row for row in tables.get("intervals", ()) if is_number(row.get("low")) and is_number(row.get("high"))]
    return {str(row.get("metric")): (row["low"], row["high"]) for row in rows}


def _shares(row: Mapping[str, Any], count: Any) -> dict[str, tuple[float, float]]:
    accuracy: Any = row.get("accuracy")
    if not is_number(accuracy) or not is_number(count) or not 0 <= accuracy <= 1:  # a damaged one
        return {}
    return {"accuracy": wilson(accuracy * count, count)}
