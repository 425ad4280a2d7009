"""Batches of rows of like length (the authors' grouped_batch_sampler.py), as the slot "sampler"."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

STEP, FIRST = 4, 3
"""Lengths up to 3 are a group, up to 7 the next, and so on: the authors' steps."""

Rows = npt.NDArray[np.int64]


def edges(longest: int) -> npt.NDArray[np.int64]:
    """The lengths at which a new group begins, all below `longest`."""
    return np.arange(FIRST, longest, STEP)


def groups(lengths: npt.NDArray[np.integer], longest: int) -> npt.NDArray[np.int64]:
    """[rows], each row's group."""
    return np.searchsorted(edges(longest), lengths, side="right")


def grouped(order: Iterable[int], group_of: npt.NDArray[np.int64], batch_size: int) -> list[Rows]:
    """Micro-batches of rows of one group, in the order in which they become full.

    What is left of the groups at the end is joined by ascending group and cut; only the last one may be short.

    Args:
        order: of all rows.
        group_of: [rows].
    """
    waiting: dict[int, list[int]] = defaultdict(list)
    batches = []
    for row in order:
        bucket = waiting[int(group_of[row])]
        bucket.append(int(row))
        if len(bucket) == batch_size:
            batches.append(np.array(bucket, dtype=np.int64))
            bucket.clear()
    left = [row for group in sorted(waiting) for row in waiting[group]]
    cuts = range(0, len(left), batch_size)
    return [*batches, *(np.array(left[cut : cut + batch_size], dtype=np.int64) for cut in cuts)]
