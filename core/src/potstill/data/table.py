"""Tokenized rows in an Arrow file, memory-mapped: opening costs nothing, reading copies nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

CHUNK = 4096
"""Rows of the data that become one record batch."""

SCHEMA_TYPES = {"input_ids": pa.int32(), "token_type_ids": pa.int8()}
"""What a model reads. Other columns are marks: a number beside each token."""
ORIGIN = "origin"
"""The column that tells of each row which row of the data it was made of, where these are not one to one."""
_TOGETHER = 65_536
"""Rows that are counted at once."""


class Tokens(Protocol):
    """What a table of tokens is to those who read it.

    Attributes:
        names: the inputs, "input_ids" first.
        lengths: [rows] int32, tokens a row.
        origin: [rows] int64, the row of the data that each one was made of; None where they are the data's own.
        key: a hash of rows, tokenizer and length.
    """

    names: tuple[str, ...]
    lengths: npt.NDArray[np.int32]
    origin: npt.NDArray[np.int64] | None
    key: str

    def __len__(self) -> int: ...

    def rows(self, indices: npt.NDArray[np.int64]) -> dict[str, list[npt.NDArray[Any]]]:
        """By input name, one array of [tokens] a row; read-only."""

    def marks(self, indices: npt.NDArray[np.int64], *names: str) -> list[list[npt.NDArray[Any]]]:
        """For each name of a mark, one array of [tokens] a row, as `rows`."""

    def counts(self, size: int) -> npt.NDArray[np.int64]:
        """[size], how often each of the first `size` tokens occurs."""


class TokenTable:
    """Token ids of every row, token types where the tokenizer gives them, and what a task keeps beside each token.

    Attributes:
        names: the inputs, "input_ids" first.
        lengths: [rows] int32, tokens a row.
        origin: [rows] int64, the row of the data that each one was made of; None where they are the data's own.
        key: a hash of rows, tokenizer and length.
    """

    def __init__(self, table: pa.Table, key: str = "") -> None:
        self.key = key
        self.names: tuple[str, ...] = tuple(name for name in table.column_names if name in SCHEMA_TYPES)
        self._table = table  # keeps the mapping alive
        self._bounds = np.cumsum([len(part) for part in table.column("input_ids").chunks])
        self._starts, self.lengths = _extents(table.column("input_ids"))
        self._values = {
            name: [_values(part) for part in table.column(name).chunks] for name in table.column_names if name != ORIGIN
        }
        self.origin = table.column(ORIGIN).to_numpy() if ORIGIN in table.column_names else None

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
        return self._taken(indices, self.names)

    def marks(self, indices: npt.NDArray[np.int64], *names: str) -> list[list[npt.NDArray[Any]]]:
        """For each name of a mark, one array of [tokens] a row, as `rows`."""
        return list(self._taken(indices, names).values())

    def _taken(self, indices: npt.NDArray[np.int64], names: tuple[str, ...]) -> dict[str, list[npt.NDArray[Any]]]:
        starts = self._starts[indices]
        ends = (starts + self.lengths[indices]).tolist()
        chunks, begins = np.searchsorted(self._bounds, indices, side="right").tolist(), starts.tolist()
        return {
            name: [self._values[name][c][s:e] for c, s, e in zip(chunks, begins, ends, strict=True)] for name in names
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
    """The file's columns: a list of integers a row for each input and mark; one integer for the origin."""
    return pa.schema([(name, _type(name)) for name in names])


def record(names: tuple[str, ...], columns: Mapping[str, Sequence[Any]]) -> pa.RecordBatch:
    """Encoded rows as Arrow holds them."""
    return pa.record_batch([pa.array(columns[name], type=_type(name)) for name in names], schema=schema(names))


def _type(name: str) -> pa.DataType:
    return pa.int64() if name == ORIGIN else pa.list_(SCHEMA_TYPES.get(name, pa.int32()))


def _extents(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """[rows] where a row starts within its chunk, and [rows] how many tokens it has."""
    offsets = [np.asarray(part.offsets).astype(np.int64) for part in column.chunks] or [np.zeros(1, np.int64)]
    starts = np.concatenate([part[:-1] for part in offsets])
    return starts, np.concatenate([np.diff(part) for part in offsets]).astype(np.int32)


def _values(part: pa.ListArray) -> npt.NDArray[Any]:
    # `.values`, unlike `.flatten()`, is the whole buffer, which the offsets count from.
    values: npt.NDArray[Any] = part.values.to_numpy(zero_copy_only=True)
    return values
