"""Tokenized rows in an Arrow file, memory-mapped: opening costs nothing, reading copies nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

CHUNK = 4096
"""Rows a record batch; every one but the last of a file holds exactly that many."""

SCHEMA_TYPES = {"input_ids": pa.int32(), "token_type_ids": pa.int8()}


_TOGETHER = 65_536
"""Rows that are counted at once."""


class Tokens(Protocol):
    """What a table of tokens is to those who read it.

    Attributes:
        names: the inputs, "input_ids" first.
        lengths: [rows] int32, tokens a row.
        key: a hash of rows, tokenizer and length.
    """

    names: tuple[str, ...]
    lengths: npt.NDArray[np.int32]
    key: str

    def __len__(self) -> int: ...

    def rows(self, indices: npt.NDArray[np.int64]) -> dict[str, list[npt.NDArray[Any]]]:
        """By input name, one array of [tokens] a row; read-only."""

    def counts(self, size: int) -> npt.NDArray[np.int64]:
        """[size], how often each of the first `size` tokens occurs."""


class TokenTable:
    """Token ids of every row, and token types where the tokenizer gives them.

    Attributes:
        names: the inputs, "input_ids" first.
        lengths: [rows] int32, tokens a row.
        key: a hash of rows, tokenizer and length.
    """

    def __init__(self, table: pa.Table, key: str = "") -> None:
        self.key = key
        self.names: tuple[str, ...] = tuple(table.column_names)
        self._table = table  # keeps the mapping alive
        self._chunk = max(table.column(0).chunk(0).__len__(), 1) if table.num_rows else 1
        self._starts, self.lengths = _extents(table.column("input_ids"))
        self._values = {name: [_values(part) for part in table.column(name).chunks] for name in self.names}

    @classmethod
    def open(cls, path: Path, key: str = "") -> TokenTable:
        """Maps a file that `writer` wrote.

        Raises: pyarrow.ArrowInvalid where the file is not a whole one.
        """
        with pa.memory_map(str(path)) as source:
            return cls(pa.ipc.open_file(source).read_all(), key)

    def __len__(self) -> int:
        return len(self.lengths)

    def rows(self, indices: npt.NDArray[np.int64]) -> dict[str, list[npt.NDArray[Any]]]:
        """By input name, one array of [tokens] a row: read-only views of the mapped file."""
        starts = self._starts[indices]
        ends = (starts + self.lengths[indices]).tolist()
        chunks, begins = (indices // self._chunk).tolist(), starts.tolist()
        return {
            name: [values[c][s:e] for c, s, e in zip(chunks, begins, ends, strict=True)]
            for name, values in self._values.items()
        }

    def counts(self, size: int) -> npt.NDArray[np.int64]:
        """[size], how often each of the first `size` tokens occurs."""
        return count_tokens(self, size)


def count_tokens(table: Tokens, size: int, begin: int = 0) -> npt.NDArray[np.int64]:
    """[size], how often each of the first `size` tokens occurs in the rows from `begin` on."""
    counts = np.zeros(size, dtype=np.int64)
    for start in range(begin, len(table), _TOGETHER):
        ids = table.rows(np.arange(start, min(start + _TOGETHER, len(table))))["input_ids"]
        counts += np.bincount(np.concatenate(ids), minlength=size)[:size]
    return counts


def schema(names: tuple[str, ...]) -> pa.Schema:
    """The file's columns: a list of integers a row for each input."""
    return pa.schema([(name, pa.list_(SCHEMA_TYPES[name])) for name in names])


def record(names: tuple[str, ...], columns: dict[str, list[list[int]]]) -> pa.RecordBatch:
    """Encoded rows as Arrow holds them."""
    arrays = [pa.array(columns[name], type=pa.list_(SCHEMA_TYPES[name])) for name in names]
    return pa.record_batch(arrays, schema=schema(names))


def _extents(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """[rows] where a row starts within its chunk, and [rows] how many tokens it has."""
    offsets = [np.asarray(part.offsets).astype(np.int64) for part in column.chunks] or [np.zeros(1, np.int64)]
    starts = np.concatenate([part[:-1] for part in offsets])
    return starts, np.concatenate([np.diff(part) for part in offsets]).astype(np.int32)


def _values(part: pa.ListArray) -> npt.NDArray[Any]:
    # `.values`, unlike `.flatten()`, is the whole buffer, which the offsets count from.
    values: npt.NDArray[Any] = part.values.to_numpy(zero_copy_only=True)
    return values
