"""From row numbers to a batch of this process: masking, companions, and the plugins' `collate` hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from potstill.batch import Batch
from potstill.data.random import RowRandom
from potstill.errors import ModelError, PluginError

if TYPE_CHECKING:
    from potstill.data.examples import Examples
    from potstill.stage import Stage

Rows = npt.NDArray[np.int64]
Masked = Callable[[Batch, RowRandom], None]
"""Slot "masking": changes the tokens of a whole micro-batch in place and sets its labels, [batch, seq]."""
Partner = Callable[[Rows, int, int], Rows]
"""Rows of a micro-batch, the epoch, the number of rows of the data set -> a partner row for each."""


class Collation:
    """Makes the batches of one stage's training rows.

    Raises: ModelError where tokens are masked, and teacher and student read different ones.
    """

    def __init__(self, stage: Stage, rows: Examples) -> None:
        self._stage, self._rows, self._ranks = stage, rows, stage.context.ranks
        if stage.masking is not None and rows.teacher is not None:
            raise ModelError(
                f"The stage '{stage.plan.name}' masks tokens, so teacher and student must share a tokenizer, and they "
                "do not."
            )

    def batch(self, rows: Rows, epoch: int) -> Batch:
        """This process's share of a micro-batch; a batch of 0 rows where the others have them all.

        Companions come first: a hook that sees them in `batch.companions` sees them as it left them.
        """
        mine = np.arange(self._ranks.rank, len(rows), self._ranks.world)
        companions = {}
        for name, partner in self._stage.companions.items():
            partners = self._partners(name, partner, rows, epoch)
            companions[name] = self._masked(partners, mine, epoch, name)
            self._hook(companions[name], epoch, name)
        batch = self._masked(rows, mine, epoch, "")
        batch.companions.update(companions)
        self._hook(batch, epoch, "")
        return batch

    def _masked(self, rows: Rows, mine: Rows, epoch: int, name: str) -> Batch:
        masking = self._stage.masking
        if masking is None:
            return self._rows.batch(rows[mine])
        whole = self._rows.batch(rows)
        if len(rows):
            masking(whole, RowRandom(self._stage.seed, epoch, rows, f"{name} masking"))
        return whole if self._ranks.world == 1 else whole.take(torch.from_numpy(mine))

    def _hook(self, batch: Batch, epoch: int, name: str) -> None:
        if len(batch):
            rng = RowRandom(self._stage.seed, epoch, batch.index.numpy(), name)
            self._stage.hook.collate(batch=batch, rng=rng)

    def _partners(self, name: str, partner: Partner, rows: Rows, epoch: int) -> Rows:
        count = len(self._rows)
        found = np.asarray(partner(rows, epoch, count))
        fits = found.shape == rows.shape and np.issubdtype(found.dtype, np.integer)
        if not fits or (len(found) and not (found.min() >= 0 and found.max() < count)):
            raise PluginError(
                f"The partner rows of the companion '{name}' must be {len(rows)} row numbers below {count}, one for "
                f"each row of the micro-batch, and are {found.dtype} {list(found.shape)}"
                f"{f' from {found.min()} to {found.max()}' if found.size else ''}."
            )
        return found.astype(np.int64)
