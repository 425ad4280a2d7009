"""The sequences of many shards as one table, with the surface of `potstill.data.table.TokenTable`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from potstill.corpus.shards import COUNTS, INDEX, TABLE
from potstill.data.table import CHUNK, count_tokens
from potstill.files import text_hash

if TYPE_CHECKING:
    from potstill.corpus.preparing import Shard


_MAPS = 8192
"""So many shards are mapped at once."""


class CorpusTable:
    """Token ids of every sequence. A shard is mapped when a row of it is read; of a row nothing is in memory but its
    length.

    Args:
        shards: in the order of the rows.
        types: whether there are token types, all 0.
        rows: only the first so many.

    Attributes:
        names: the inputs, "input_ids" first.
        lengths: [rows] int32, tokens a row.
        key: a hash of rows, tokenizer and rules.
        files: [files + 1] int64, where the rows of each file begin, and the end.
    """

    def __init__(self, shards: Sequence[Shard], types: bool, rows: int | None = None) -> None:
        self.names: tuple[str, ...] = ("input_ids", "token_type_ids") if types else ("input_ids",)
        self.shards = list(shards)
        parts = [np.load(shard.folder / INDEX) for shard in shards]
        self.lengths: npt.NDArray[np.int32] = np.concatenate([np.zeros(0, np.int32), *parts])[:rows]
        self.key = text_hash(" ".join([*(shard.folder.name for shard in shards), str(rows)]))[:32]
        self._begins = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        firsts = [n for n, shard in enumerate(shards) if n == 0 or shard.unit.path != shards[n - 1].unit.path]
        self.files = np.minimum(self._begins[[*firsts, len(shards)]], len(self.lengths))
        self.origin: npt.NDArray[np.int64] | None = None
        self._mapped: dict[int, _Mapped] = {}
        self._zeros = np.zeros(int(self.lengths.max(initial=0)), np.int8)

    def __len__(self) -> int:
        return len(self.lengths)

    def rows(self, indices: npt.NDArray[np.int64]) -> dict[str, list[npt.NDArray[Any]]]:
        """By input name, one array of [tokens] a row: read-only views of the mapped files."""
        of = np.searchsorted(self._begins, indices, side="right") - 1
        within = indices - self._begins[of]
        ids = [self._shard(shard).row(row) for shard, row in zip(of.tolist(), within.tolist(), strict=True)]
        if len(self.names) == 1:
            return {"input_ids": ids}
        return {"input_ids": ids, "token_type_ids": [self._zeros[: len(row)] for row in ids]}

    def marks(self, indices: npt.NDArray[np.int64], *names: str) -> list[list[npt.NDArray[Any]]]:
        """None: a corpus is tokens alone."""
        return []

    def counts(self, size: int) -> npt.NDArray[np.int64]:
        """[size], how often each token occurs; of whole shards as they were counted when they were made."""
        total = np.zeros(size, np.int64)
        whole = int(np.searchsorted(self._begins, len(self), side="right")) - 1
        for shard in self.shards[:whole]:
            kept = np.load(shard.folder / COUNTS)[:size]
            total[: len(kept)] += kept
        return total + count_tokens(self, size, int(self._begins[whole]))

    def _shard(self, number: int) -> _Mapped:
        if number not in self._mapped:
            if len(self._mapped) >= _MAPS:  # the system allows some 65,000 of a process; views keep theirs
                del self._mapped[next(iter(self._mapped))]
            self._mapped[number] = _Mapped(self.shards[number].folder / TABLE)
        return self._mapped[number]


class _Mapped:
    """A shard's file, by rows."""

    def __init__(self, path: Path) -> None:
        with pa.memory_map(str(path)) as source:
            self._table = pa.ipc.open_file(source).read_all()  # keeps the mapping alive
        parts = self._table.column("input_ids").chunks
        self._ends = [part.offsets.to_numpy() for part in parts]
        self._values = [part.values.to_numpy() for part in parts]

    def row(self, number: int) -> npt.NDArray[Any]:
        chunk, place = divmod(number, CHUNK)
        ends = self._ends[chunk]
        found: npt.NDArray[Any] = self._values[chunk][ends[place] : ends[place + 1]]
        return found
