"""Whether one model's scores are higher than another's: a paired t-test over seeds, a paired bootstrap over rows.

The two look at different chances: which seed was drawn, and which rows the data happens to have. Everywhere a
difference is the first model's score minus the second's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

LEVEL = 0.95
RESAMPLES = 1000
ENOUGH_SEEDS = 3
"""From so many pairs on there is a test over seeds: two pairs leave one degree of freedom."""

Verdict = Literal["better", "worse", "inconclusive"]
Scorer = Callable[[npt.NDArray[np.int64]], float]
"""The score on some rows, by their numbers; a row may come several times."""


@dataclass(frozen=True)
class Seeds:
    """A paired t-test over seeds: the difference's mean, its confidence interval, and the two-sided p-value."""

    difference: float
    low: float
    high: float
    p: float


def paired_t(first: Sequence[float], second: Sequence[float], level: float = LEVEL) -> Seeds:
    """Student's paired t-test of scores with the same seeds.

    Differences that are all one number have an interval of that number, with p = 0, or 1 where it is 0.

    Args:
        first, second: [seeds], at least two, in one order.
    """
    from scipy.stats import t

    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    count, mean = len(differences), float(np.mean(differences))
    error = float(np.std(differences, ddof=1)) / math.sqrt(count)
    if error == 0:
        return Seeds(mean, mean, mean, 0.0 if mean else 1.0)
    reach = float(t.ppf((1 + level) / 2, count - 1)) * error
    return Seeds(mean, mean - reach, mean + reach, float(2 * t.sf(abs(mean) / error, count - 1)))


def bootstrap(
    first: Sequence[Scorer], second: Sequence[Scorer], rows: int, *, resamples: int = RESAMPLES, seed: int = 0
) -> npt.NDArray[np.float64]:
    """[resamples] differences of the two mean scores, each on `rows` rows drawn with replacement.

    Paired: both models, with every seed, are scored on the same draw.

    Args:
        first, second: one scorer a seed.
    """
    draw = np.random.default_rng(seed)
    found = np.empty(resamples)
    for number in range(resamples):
        drawn = draw.integers(0, rows, rows)
        found[number] = np.mean([score(drawn) for score in first]) - np.mean([score(drawn) for score in second])
    return found


def interval(differences: npt.NDArray[np.float64], level: float = LEVEL) -> tuple[float, float]:
    """The percentile interval of resampled differences; those that are NaN (a draw without a score) are left out.

    NaN at both ends where all of them are.
    """
    if np.isnan(differences).all():
        return math.nan, math.nan
    low, high = np.nanquantile(differences, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def verdict(
    rows: tuple[float, float] | None, seeds: Seeds | None, level: float = LEVEL, *, less: bool = False
) -> Verdict:
    """What both tests say together; where they do not agree, nothing is known.

    Args:
        rows: the bootstrap's interval; None where rows cannot be drawn.
        seeds: None where there are too few.
        less: whether less of the score is better.
    """
    sides = set() if rows is None else {_side(*rows)}
    if seeds is not None:
        sides.add(_side(seeds.low, seeds.high) if seeds.p < 1 - level else 0)
    side = sides.pop() if len(sides) == 1 else 0
    if side == 0:
        return "inconclusive"
    return "better" if (side > 0) != less else "worse"


def _side(low: float, high: float) -> int:
    """1 where an interval lies above 0, -1 below, 0 where 0 is in it or it has no ends."""
    return 1 if low > 0 else -1 if high < 0 else 0
