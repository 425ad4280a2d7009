"""Whether one model is faster than another, judged from rounds in which both had a turn.

Both turns of a round saw nearly the same machine, so the logarithm of the ratio of their medians says how much faster
one of them was just then, whatever else the machine was doing. The speed-up is the median of these, and its interval
is the sign test's: between the k-th smallest and the k-th largest of n ratios lies the true median with probability
1 - 2 P(X < k), X ~ Binomial(n, 1/2), however the noise is distributed, as long as rounds are independent. k is the
largest for which that is at least 95 %. An interval that does not lie beyond MARGIN on one side of 1 ranks nobody.

Six rounds are the fewest that can say anything: with five, the smallest and the largest ratio enclose the median with
probability 1 - 2/2^5 = 94 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from potstill.timing.result import Timing

CONFIDENCE = 0.95
"""The least probability with which an interval encloses the true median."""
MARGIN = 1.02
"""Speed-ups nearer to 1 are nobody's: one file in two processes may differ by as much, for where its memory lies."""

TOO_NOISY = "too noisy to rank"
TOO_FEW = "too few rounds to rank"
EQUAL = "about equal"


@dataclass(frozen=True)
class Speedup:
    """How many times faster a model is than another.

    Attributes:
        over: the other model's name.
        ratio: the median over the rounds of the other's time by this one's; above 1 is faster.
        low, high: the interval of the median; None where there are too few rounds for one.
        confidence: with which the interval encloses it; 0 where there is none.
        verdict: "faster", "slower", EQUAL, TOO_NOISY or TOO_FEW.
    """

    over: str
    ratio: float
    low: float | None
    high: float | None
    confidence: float
    verdict: str

    @property
    def ranked(self) -> bool:
        return self.verdict in ("faster", "slower")

    @property
    def interval(self) -> str | None:
        """ "1.31–1.58×"."""
        return None if self.low is None or self.high is None else f"{self.low:.2f}–{self.high:.2f}×"

    @property
    def shown(self) -> float | str:
        """For a table: the ratio of models that can be ranked, else why there is none."""
        return self.ratio if self.ranked else self.verdict

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def speedup(over: str, theirs: Sequence[float], ours: Sequence[float]) -> Speedup:
    """Compares two models round by round.

    Args:
        over: the other model's name.
        theirs: its time in each round, in any unit; above 0.
        ours: this model's time in the same rounds.
    """
    logs = sorted(math.log(a / b) for a, b in zip(theirs, ours, strict=True))
    ratio = math.exp(_median(logs))
    rank, confidence = interval_rank(len(logs))
    if not rank:
        return Speedup(over, ratio, None, None, 0.0, TOO_FEW)
    low, high = math.exp(logs[rank - 1]), math.exp(logs[-rank])
    return Speedup(over, ratio, low, high, confidence, _verdict(low, high))


def interval_rank(rounds: int) -> tuple[int, float]:
    """How far from either end of the sorted ratios their median's interval begins, and its confidence; 0 for none."""
    rank, outside = 0, 0.0
    for k in range(rounds // 2):
        beyond = outside + 2 * math.comb(rounds, k) / 2**rounds
        if 1 - beyond < CONFIDENCE:
            break
        rank, outside = k + 1, beyond
    return rank, 1 - outside if rank else 0.0


def over_the_first(timings: Sequence[Timing]) -> list[Speedup | None]:
    """Each timing's speed-up over the first model at the same batch size and length; None for that model's own."""
    first: dict[tuple[int, int], Timing] = {}
    found: list[Speedup | None] = []
    for timing in timings:
        base = first.setdefault((timing.batch, timing.length), timing)
        found.append(None if base is timing else speedup(base.name, base.round_p50_ms, timing.round_p50_ms))
    return found


def records(timings: Sequence[Timing]) -> list[dict[str, Any]]:
    """For JSON: each timing with its "speedup" over the first model at the same batch size and length, or None."""
    pairs = zip(timings, over_the_first(timings), strict=True)
    return [timing.as_dict() | {"speedup": found.as_dict() if found else None} for timing, found in pairs]


def _verdict(low: float, high: float) -> str:
    if low > MARGIN:
        return "faster"
    if high < 1 / MARGIN:
        return "slower"
    return EQUAL if low >= 1 / MARGIN and high <= MARGIN else TOO_NOISY


def _median(values: Sequence[float]) -> float:
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2
