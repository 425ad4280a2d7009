"""Which row of the corpus is the source of which: permutations that need no memory."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from potstill.data.random import RowRandom

Rows = npt.NDArray[np.int64]
Pairing = Literal["epoch", "once", "batch"]
"""A permutation of the corpus drawn anew each epoch, one for all epochs (as published), or one of the micro-batch."""

_STREAM = "diito pairs"
"""Keeps these draws apart from all others."""
_ROUNDS = 4


def partners(rows: Rows, epoch: int, count: int, *, seed: int, pairing: Pairing = "epoch") -> Rows:
    """The source row of each row. A row may be its own source, as in the authors' code.

    Of the corpus this is a Feistel network whose two halves together are no smaller than `count`, walked until it
    lands within; so a row's partner is computed from the row alone, in memory that does not grow with the corpus.

    Args:
        rows: [n], the micro-batch's, before processes share it.
        epoch: from 0.
        count: rows of the data set.
        seed: of the stage.
        pairing: see `Pairing`. Rows that differ have partners that differ, in all three.

    Returns: [n] int64.
    """
    if pairing == "batch":
        return rows[RowRandom(seed, epoch, rows, _STREAM).batch.permutation(len(rows))]
    drawn = RowRandom(seed, epoch if pairing == "epoch" else 0, [0], _STREAM).generator(0)
    keys = drawn.integers(0, 2**64, size=_ROUNDS, dtype=np.uint64)
    bits = max(1, (max(1, count - 1).bit_length() + 1) // 2)
    found = _feistel(rows.astype(np.uint64), keys, bits)
    while (outside := found >= count).any():
        found[outside] = _feistel(found[outside], keys, bits)
    return found.astype(np.int64)


def _feistel(values: npt.NDArray[np.uint64], keys: npt.NDArray[np.uint64], bits: int) -> npt.NDArray[np.uint64]:
    """A permutation of the numbers below 2^(2 · bits)."""
    width, low = np.uint64(bits), np.uint64((1 << bits) - 1)
    left, right = values >> width, values & low
    for key in keys:
        left, right = right, left ^ (_scrambled(right ^ key) & low)
    return (left << width) | right


def _scrambled(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Every bit of the input reaches the low ones of the output (the finalizer of MurmurHash3)."""
    value = (value ^ (value >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    value = (value ^ (value >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return value ^ (value >> np.uint64(33))
