"""How often each word stands in the training rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from potstill.data.table import TokenTable

TOGETHER = 65_536
"""Rows that are counted at once."""


def count_words(table: TokenTable, size: int) -> Tensor:
    """[size] int64, each word's count.

    Args:
        size: of the vocabulary.
    """
    counts = np.zeros(size, dtype=np.int64)
    for start in range(0, len(table), TOGETHER):
        ids = table.rows(np.arange(start, min(start + TOGETHER, len(table))))["input_ids"]
        counts += np.bincount(np.concatenate(ids), minlength=size)[:size]
    return torch.from_numpy(counts)
