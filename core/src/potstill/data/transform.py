"""Training rows that a plugin changes as text, before they are tokenized; made once and kept by content."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

import potstill
from potstill.data.random import RowRandom
from potstill.errors import DataError
from potstill.files import file_hash, new_folder, read_json, text_hash, write_json

if TYPE_CHECKING:
    from potstill.data.source import Source
    from potstill.progress import Bar, Progress

Row = dict[str, Any]
"""A row by role: "text" and, where the data has them, "text_pair" and "label"."""
_TABLE, _MANIFEST = "rows.arrow", "manifest.json"
_ORIGIN = "origin"


@dataclass(frozen=True)
class Transform:
    """What replaces each row.

    Attributes:
        name: told beside the progress bar, such as "augmenting".
        key: whatever decides the outcome beside rows and seed, as text: options, hashes of models.
        apply: given rows and a random generator a row, the list of rows that replaces each. It may not look beyond
            the rows it is given.
        batch: how many rows are given at once.
    """

    name: str
    key: str
    apply: Callable[[list[Row], list[np.random.Generator]], Sequence[Sequence[Row]]]
    batch: int = 64


def transformed(source: Source, transform: Transform, seed: int, cache: Path, progress: Progress) -> Source:
    """The rows after a transform, memory-mapped from the cache, which is filled first where it does not hold them.

    Each row draws from a generator of its own, keyed by (seed, row). `Source.origin` tells which row of the data
    each one comes from.

    Raises: DataError where no row is left.
    """
    facts = [potstill.__version__, source.fingerprint, transform.name, transform.key, seed]
    folder = cache / text_hash(json.dumps(facts))[:32]
    if not _whole(folder):
        with new_folder(folder) as draft:
            rows = _write(draft / _TABLE, source, transform, seed, progress)
            write_json(draft / _MANIFEST, {"rows": rows, "sha256": file_hash(draft / _TABLE)})
    dataset = Dataset.from_file(str(folder / _TABLE))
    if not len(dataset):
        raise DataError(f"{source.path}: nothing is left after {transform.name}.")
    origin = dataset.with_format("numpy")[_ORIGIN]
    origin = np.asarray(origin) if source.origin is None else source.origin[np.asarray(origin)]
    return replace(source, dataset=dataset.remove_columns(_ORIGIN), fingerprint=folder.name, origin=origin)


def _whole(folder: Path) -> bool:
    try:
        return bool(file_hash(folder / _TABLE) == read_json(folder / _MANIFEST)["sha256"])
    except OSError:
        return False


def _write(path: Path, source: Source, transform: Transform, seed: int, progress: Progress) -> int:
    schema = source.dataset.features.arrow_schema.remove_metadata().append(pa.field(_ORIGIN, pa.int64()))
    written = 0
    with (
        progress.bar(transform.name, len(source)) as bar,
        pa.OSFile(str(path), "wb") as file,
        pa.ipc.new_stream(file, schema) as out,
    ):
        for start, given, made in _blocks(source, transform, seed, bar):
            columns: dict[str, list[Any]] = {name: [] for name in schema.names}
            for number, (row, rows) in enumerate(zip(given, made, strict=True), start=start):
                for new in rows:
                    _append(columns, {**new, _ORIGIN: number}, row, transform)
            batch = pa.RecordBatch.from_pydict(columns, schema)
            out.write_batch(batch)
            written += batch.num_rows
    return written


def _append(columns: dict[str, list[Any]], new: Mapping[str, Any], row: Row, transform: Transform) -> None:
    if new.keys() != columns.keys():
        raise DataError(
            f"After {transform.name} a row has {', '.join(new.keys() - {_ORIGIN})}, and before it had {', '.join(row)}."
        )
    for name, value in new.items():
        columns[name].append(value)


def _blocks(
    source: Source, transform: Transform, seed: int, bar: Bar
) -> Iterator[tuple[int, list[Row], Sequence[Sequence[Row]]]]:
    for start in range(0, len(source), transform.batch):
        columns = source.dataset[start : start + transform.batch]
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        random = RowRandom(seed, 0, range(start, start + len(rows)))
        yield start, rows, transform.apply(rows, [random.generator(i) for i in range(len(rows))])
        bar.advance(len(rows))
