"""Latency as people read it: a table of every shape, and one of p50 with a column a shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from potstill.report.table import cell
from potstill.timing import Speedup

Row = Mapping[str, Any]

_COLUMNS = (
    "model", "runtime", "batch", "length", "p50_ms", "p95_ms", "p99_ms", "cpu_ms_per_row", "rows_per_second",
    "peak_bytes", "bytes", "speedup", "interval",
)  # fmt: skip


def cells(records: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows of a table, of what `potstill.timing.records` gives; a runtime that all share is left out."""
    several = len({record["runtime"] for record in records}) > 1
    return [
        {
            **record,
            "model": record["name"],
            "runtime": record["runtime"] if several else None,
            "speedup": found.shown if (found := _speedup(record)) else None,
            "interval": found.interval if found else None,
        }
        for record in records
    ]


def columns(rows: Sequence[Row]) -> list[str]:
    """The columns of `cells` that some row fills."""
    return [name for name in _COLUMNS if any(row.get(name) is not None for row in rows)]


def grid(records: Sequence[Row]) -> list[dict[str, Any]]:
    """A row a model, a column a shape such as "8 × 128", in it p50 in ms and the speed-up or why there is none."""
    rows: dict[str, dict[str, Any]] = {}
    for record in records:
        row = rows.setdefault(record["name"], {"model": record["name"]})
        row[f"{record['batch']} × {record['length']}"] = _cell(record)
    return list(rows.values())


def _cell(record: Row) -> str:
    found = _speedup(record)
    return cell("p50_ms", record["p50_ms"]) + (f" ({cell('speedup', found.shown)})" if found else "")


def _speedup(record: Row) -> Speedup | None:
    content = record.get("speedup")
    return Speedup(**content) if content else None
