"""Data is streamed: no reader holds a file, or a column of texts, in memory."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from potstill.data.columns import as_text, values_of
from potstill.data.files import rows_of
from potstill.errors import DataError

ROWS, COLUMNS = 12_000, {"text": "text", "label": "label"}
TEXT = "wave tide anchor reef " * 20
"""Of 440 bytes, so that the rows are 5 MB."""


def peak(work: Callable[[], Any]) -> int:
    """Bytes that Python held at most during the work, above what it held before."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def labels() -> list[str]:
    return [("sea", "wood")[row % 2] for row in range(ROWS)]


def written(folder: Path, kind: str) -> Path:
    path = folder / f"rows.{kind}"
    rows = [{"text": f"{TEXT}{row}", "label": label} for row, label in enumerate(labels())]
    if kind in ("csv", "tsv"):
        mark = "," if kind == "csv" else "\t"
        lines = [f"text{mark}label", *(f"{row['text']}{mark}{row['label']}" for row in rows)]
        path.write_text("\n".join(lines))
    elif kind == "txt":
        path.write_text("\n".join(row["text"] for row in rows))
    else:
        path.write_text(json.dumps(rows) if kind == "json" else "\n".join(map(json.dumps, rows)))
    assert path.stat().st_size > 5_000_000
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "txt", "json", "jsonl"])
def test_a_text_file_is_never_in_memory_as_a_whole(kind: str, tmp_path: Path) -> None:
    path = written(tmp_path, kind)
    columns = COLUMNS if kind != "txt" else {"text": "text"}
    seen = 0

    def read() -> None:
        nonlocal seen
        seen = sum(1 for _ in rows_of((str(path),), columns, {}, kind, None))

    assert peak(read) < 1_000_000
    assert seen == ROWS


@pytest.fixture
def mapped(tmp_path: Path) -> Dataset:
    """Rows on disk, the last text missing."""
    texts = [f"{TEXT}{row}" for row in range(ROWS - 1)]
    pq.write_table(pa.table({"text": [*texts, None], "label": labels()}), tmp_path / "rows.parquet")
    return Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path / "cache"))


def test_the_row_without_a_text_is_found_without_loading_the_column(mapped: Dataset) -> None:
    def check() -> None:
        with pytest.raises(DataError, match=f"row {ROWS}: the text 'text' is missing"):
            as_text(mapped, COLUMNS, "data.train")

    before = pa.total_allocated_bytes()
    assert peak(check) < 4_500_000  # a block of 4,096 rows
    assert pa.total_allocated_bytes() - before < 1_000_000


def test_labels_cost_a_reference_a_row(mapped: Dataset) -> None:
    values: list[Any] = []
    held = peak(lambda: values.extend(values_of(mapped, "label")))
    assert values == labels()
    assert held < 40 * ROWS  # two lists of references and a block of texts; 60 bytes more a text otherwise
