"""The table of models: a row for each model that a run made, and the one way potstill prints tables."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.report.folder import RecordedRun, StageFolder

if TYPE_CHECKING:
    from rich.console import Console

Row = Mapping[str, Any]

SHARES = ("accuracy", "micro_f1", "macro_f1", "f1", "precision", "recall")
"""Metrics between 0 and 1."""
METRICS = (*SHARES, "matthews", "pearson", "spearman")
"""Metrics in the order of their columns; others follow by name. A metric on the test rows is "test_" + name."""
SIZES = ("parameters", "bytes", "p50_ms", "p95_ms", "speedup")
COLUMNS = ("model", *METRICS, *SIZES)
"""The columns that have a place; every other key of a row gets one between the metrics and the sizes."""

_HEADINGS = {
    "micro_f1": "micro-F1",
    "macro_f1": "macro-F1",
    "f1": "F1",
    "bytes": "size",
    "p50_ms": "p50 ms",
    "p95_ms": "p95 ms",
    "p99_ms": "p99 ms",
    "cpu_ms_per_row": "CPU ms/row",
    "rows_per_second": "rows/s",
    "peak_bytes": "memory",
    "speedup": "speed-up",
    "learning_rate": "learning rate",
}
_HEADLINE = ("accuracy", "micro_f1", "macro_f1", "pearson", "spearman")
"""What a terminal has room for, with the recipe's own metric; the HTML report shows every metric."""


def model_rows(folder: Path) -> list[dict[str, Any]]:
    """One row for each model of a run: its stages in order, then what the exports measured.

    Metrics are those on the validation rows; those on the test rows are named "test_accuracy" and so on.
    An export's row with the name of a stage's row completes that row. Missing parts make missing cells.
    """
    return rows_of(RecordedRun(folder))


def rows_of(run: RecordedRun) -> list[dict[str, Any]]:
    """`model_rows` of a folder that is open already."""
    rows = {stage.name: _stage_row(stage) for stage in run.stages if stage.result}
    teacher = run.result.get("teacher")
    if isinstance(teacher, dict):  # one that came trained, and so has no stage
        rows = {"teacher": _row("teacher", teacher), **rows}
    for row in run.export_rows:
        name = str(row.get("model", "?"))
        known = rows.get(name, {"model": name})
        rows[name] = {**known, **{key: value for key, value in row.items() if value is not None}}
    return list(rows.values())


def _stage_row(stage: StageFolder) -> dict[str, Any]:
    return _row(str(stage.result.get("stage", stage.name)), stage.result)


def _row(name: str, result: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"model": name, **(result.get("metrics") or {})}
    row |= {f"test_{metric}": value for metric, value in (result.get("test") or {}).items()}
    return row | {size: result[size] for size in ("parameters", "bytes") if result.get(size) is not None}


def columns_of(rows: Iterable[Row], headline: Iterable[str] | None = None) -> list[str]:
    """The columns that some row fills, in order.

    Args:
        headline: metrics to keep, as "accuracy" (which keeps "test_accuracy" too); None keeps all. Where a
            table has none of them, all metrics stay.
    """
    present = dict.fromkeys(key for row in rows for key, value in row.items() if value is not None)
    plain = [name for name in present if name not in COLUMNS and not name.startswith("test_")]
    test = [name for name in present if name.startswith("test_")]
    metrics = [name for name in METRICS if name in present] + plain
    metrics += sorted(test, key=lambda name: _position(name.removeprefix("test_"), metrics))
    if headline is not None:
        wanted = set(headline)
        metrics = [name for name in metrics if name.removeprefix("test_") in wanted] or metrics
    return [name for name in ("model", *metrics, *SIZES) if name in present]


def headline(metric: str | None = None) -> tuple[str, ...]:
    """The metrics for a narrow table: the usual ones and the recipe's own."""
    return (*_HEADLINE, metric) if metric else _HEADLINE


def heading(column: str, names: Collection[str] = ()) -> str:
    """A column's title: "macro_f1" → "macro-F1", "test_accuracy" → "test accuracy".

    Args:
        names: columns that hold somebody's own name, of a model or a run, and so stand as they are.
    """
    if column in names:
        return column
    if column.startswith("test_"):
        return f"test {heading(column.removeprefix('test_'))}"
    return _HEADINGS.get(column, column.replace("_", " "))


def cell(column: str, value: Any) -> str:
    """A value as a table shows it: 4.2 M parameters, 16.8 MB, 1.23 ms, 3.4×, four digits of a metric."""
    if value is None:
        return "–"
    if isinstance(value, (list, tuple, set, frozenset)):
        return ", ".join(str(part) for part in value) or "–"
    if isinstance(value, bool) or not isinstance(value, Real):
        return str(value)
    number = float(value)
    if column == "parameters":
        return scaled(number)
    if column in ("bytes", "peak_bytes"):
        return f"{scaled(number)}B" if number >= 1000 else f"{number:.0f} B"
    if column.endswith("_ms") or column == "cpu_ms_per_row":
        return f"{number:.2f}"
    if column == "rows_per_second":
        return f"{number:,.0f}"
    if column == "speedup":
        return f"{number:.1f}×" if number >= 2 or number == 1 else f"{number:.2f}×"
    if isinstance(value, int):
        return str(value)
    metric = column.removeprefix("test_") in METRICS or column.startswith("F1 ")  # F1 of one of several models
    return f"{number:.4f}" if metric else f"{number:.4g}"


def scaled(number: float) -> str:
    """A number of at most four digits and a power of a thousand: 4203000 → "4.20 M"."""
    for sign, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= factor:
            digits = 2 if number < 10 * factor else 1
            return f"{number / factor:.{digits}f} {sign}"
    return f"{number:.0f}"


def print_table(
    rows: Sequence[Row],
    console: Console | None = None,
    *,
    columns: Sequence[str] | None = None,
    title: str | None = None,
    names: Collection[str] = (),
) -> None:
    """Prints rows under the columns (default: all that are filled); text to the left, numbers to the right.

    Args:
        names: as `heading` takes them.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    console = console or stdout_console()
    columns = columns if columns is not None else columns_of(rows)
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False, header_style="bold")
    for column in columns:
        numbers = any(is_number(row.get(column)) for row in rows)
        table.add_column(
            Text(heading(column, names)),
            justify="right" if numbers else "left",
            no_wrap=numbers,
            overflow="ellipsis" if numbers else "fold",
        )
    for row in rows:
        table.add_row(*(Text(cell(column, row.get(column))) for column in columns))
    console.print(table)


def markdown(rows: Sequence[Row], columns: Sequence[str] | None = None, *, names: Collection[str] = ()) -> str:
    """The same table in Markdown."""
    columns = columns if columns is not None else columns_of(rows)
    numbers = [any(is_number(row.get(column)) for row in rows) for column in columns]
    lines = [
        _markdown_line([heading(column, names) for column in columns]),
        _markdown_line(["---:" if number else "---" for number in numbers]),
        *(_markdown_line([cell(column, row.get(column)) for column in columns]) for row in rows),
    ]
    return "\n".join(lines) + "\n"


def stdout_console() -> Console:
    """A console on standard output: as wide as the terminal, wide enough for any table where it is none."""
    from rich.console import Console

    return Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=200)


def _markdown_line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in cells) + " |"


def is_number(value: Any) -> bool:
    """Whether a value is a finite number; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _position(name: str, order: Sequence[str]) -> int:
    return order.index(name) if name in order else len(order)
