"""How much each micro-batch weighs in its update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from potstill.batch import UNITS, Batch, Unit

SumOverRanks = Callable[[list[int]], list[int]]


@dataclass(frozen=True)
class Shares:
    """Counts of every unit in each micro-batch of an update, and their totals over all ranks."""

    counts: tuple[dict[str, int], ...]
    totals: dict[str, int]

    def count(self, unit: Unit, micro: int) -> int:
        """How many of `unit` micro-batch number `micro` holds."""
        return self.counts[micro][unit.name]

    def share(self, unit: Unit, micro: int) -> float:
        """The factor that turns a mean over micro-batch `micro` into its part of the update's mean."""
        count = self.count(unit, micro)
        return count / self.totals[unit.name] if count else 0.0


def shares(
    batches: Sequence[Batch], units: Sequence[Unit] = UNITS, sum_over_ranks: SumOverRanks | None = None
) -> Shares:
    """The shares of one update's micro-batches, from the batches alone.

    Args:
        batches: the micro-batches of this rank, some without a row where another rank has them all.
        units: what may be counted.
        sum_over_ranks: adds a list of numbers up over all ranks. None: there is one rank.
    """
    counts = tuple({unit.name: unit.count(batch) if len(batch) else 0 for unit in units} for batch in batches)
    sums = [sum(count[unit.name] for count in counts) for unit in units]
    if sum_over_ranks is not None:
        sums = sum_over_ranks(sums)
    return Shares(counts, {unit.name: total for unit, total in zip(units, sums, strict=True)})
