"""Random draws on data, keyed by (seed, epoch, row), so that a row draws the same in any batch and on any rank."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_WORD = (1 << 64) - 1
_ROW, _BATCH, _ORDER = 0, 1, 2  # the last word of Philox's counter keeps the kinds of draws apart

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S40 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(40)


class RowRandom:
    """What `collate` hooks draw from: one stream a row, whatever batch the row is in.

    Args:
        seed: of the run or stage.
        epoch: counts from 0; another epoch draws other numbers.
        index: [batch], the rows in the data set.
        stream: what the draws are for; other words draw other numbers for the same rows.
    """

    def __init__(self, seed: int, epoch: int, index: npt.ArrayLike, stream: str = "") -> None:
        self.seed, self.epoch = seed, epoch
        self._stream = int(hashlib.sha256(stream.encode()).hexdigest()[:12], 16) if stream else 0
        self.index = np.asarray(index, dtype=np.int64)
        self._generators: dict[int, np.random.Generator] = {}
        self._calls = 0

    def __len__(self) -> int:
        return len(self.index)

    def generator(self, i: int) -> np.random.Generator:
        """The generator of row `i` of this batch. A second call gives the same one, and its draws go on."""
        if i not in self._generators:
            self._generators[i] = _philox(self.seed, self.epoch, int(self.index[i]), _ROW, self._stream)
        return self._generators[i]

    def uniform(self, width: int) -> Tensor:
        """[batch, width] float32 in [0, 1). Column j of a row is the same for any width above j.

        Each call of one batch draws anew, so two plugins that mask do not mask the same tokens. This is
        SplitMix64 (Steele, Lea and Flood 2014), started at a hash of (seed, epoch, call, row): some
        microseconds for the whole batch, where a generator a row costs that for every row.
        """
        start = _start(self.seed, self.epoch, self._calls, *([self._stream] if self._stream else []))
        self._calls += 1
        rows = _mixed(_mixed(self.index.astype(np.uint64) * _GAMMA + start))
        steps = np.arange(1, width + 1, dtype=np.uint64) * _GAMMA
        bits = _mixed(rows[:, None] + steps) >> _S40
        return torch.from_numpy(bits.astype(np.float32) * np.float32(2.0**-24))

    @cached_property
    def batch(self) -> np.random.Generator:
        """A generator for the batch as a whole, keyed by (seed, epoch, first row)."""
        first = int(self.index[0]) if len(self.index) else _WORD
        return _philox(self.seed, self.epoch, first, _BATCH, self._stream)


def permutation(seed: int, epoch: int, n: int) -> npt.NDArray[np.int64]:
    """[n], the order of an epoch's rows."""
    return order_generator(seed, epoch).permutation(n)


def order_generator(seed: int, epoch: int) -> np.random.Generator:
    """The generator that decides the order of an epoch's rows and batches."""
    return _philox(seed, epoch, 0, _ORDER)


def _philox(seed: int, epoch: int, row: int, kind: int, stream: int = 0) -> np.random.Generator:
    # Key and counter are written, not hashed: no two (seed, epoch, row, kind) share a stream. The counter's low
    # words are left for 2^128 draws. `stream` has 48 bits, above those of `kind`.
    key: Any = np.array((seed & _WORD, row & _WORD), dtype=np.uint64)
    counter: Any = np.array((0, 0, epoch & _WORD, kind | stream << 8), dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def _start(*words: int) -> np.uint64:
    value = np.zeros(1, dtype=np.uint64)  # an array, since scalars warn where they wrap around
    for word in words:
        value = _mixed(value + np.uint64(word & _WORD) + _GAMMA)
    return np.uint64(value[0])


def _mixed(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finalizer: every input bit reaches every output bit."""
    value = (value ^ (value >> _S30)) * _MIX_1
    value = (value ^ (value >> _S27)) * _MIX_2
    return value ^ (value >> _S31)
