"""Which rows share a batch: rows of like length, so that little is padded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from potstill.data.random import order_generator

Rows = npt.NDArray[np.int64]
"""Rows of the data set that make one micro-batch."""

POOL = 50
"""Batches that are sorted by length together: enough for little padding, few enough to stay random."""


def bucketed(lengths: npt.NDArray[np.int32], batch_size: int, *, seed: int, epoch: int) -> list[Rows]:
    """An epoch's micro-batches, every row exactly once; the short last one stays.

    The rows are shuffled, pools of `POOL` batches are sorted by length and cut, and the batches are shuffled.

    Args:
        lengths: [rows], tokens a row.
    """
    generator = order_generator(seed, epoch)
    order = generator.permutation(len(lengths))
    pool = np.arange(len(order)) // (POOL * batch_size)
    batches = _cut(order[np.lexsort((lengths[order], pool))], batch_size)
    return [batches[i] for i in generator.permutation(len(batches))]


def by_files(files: npt.NDArray[np.int64], batch_size: int, *, seed: int, epoch: int) -> list[Rows]:
    """An epoch's micro-batches, every row exactly once: the files in a new order, the rows of each in theirs.

    A batch may hold the end of one file and the beginning of the next; the short last one stays.

    Args:
        files: [files + 1], where the rows of each begin, and the end.
    """
    order = order_generator(seed, epoch).permutation(len(files) - 1)
    return _cut(np.concatenate([np.arange(files[i], files[i + 1]) for i in order]), batch_size)


def in_order(lengths: npt.NDArray[np.int32], batch_size: int) -> list[Rows]:
    """Batches for evaluation: all rows sorted by length, ties by row."""
    return _cut(np.argsort(lengths, kind="stable"), batch_size)


def padded_share(lengths: npt.NDArray[np.int32], batches: Iterable[Rows]) -> float:
    """The share of positions that are padding, 0 to 1, where each batch is as wide as its longest row."""
    positions = tokens = 0
    for rows in batches:
        if len(rows):
            here = lengths[rows]
            positions += int(here.max()) * len(rows)
            tokens += int(here.sum())
    return 1.0 - tokens / positions if positions else 0.0


def _cut(order: Rows, batch_size: int) -> list[Rows]:
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def one_by_one(rows: Sequence[npt.NDArray[np.int64]]) -> Iterable[Sequence[npt.NDArray[np.int64]]]:
    """Each batch an update of its own."""
    return ([batch] for batch in rows)
