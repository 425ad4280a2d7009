"""Learning-rate schedules, as multipliers of the peak."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int, int], float]
"""(applied updates so far, total updates) -> multiplier of the peak learning rate."""


def warmup_updates(warmup: int | float, total: int) -> int:
    """Updates of warm-up: an integer as it is, a fraction as floor(fraction * total)."""
    return warmup if isinstance(warmup, int) else math.floor(warmup * total)


def multiplier(kind: str, update: int, total: int, warmup: int | float, start: float | None = None) -> float:
    """The learning rate of one update over the peak.

    A line from `start` at update 0 to 1 at update `warmup`, then a line ("linear") or half a cosine
    ("cosine") to 0 at `total`, or 1 to the end ("constant").

    Args:
        update: updates applied before this one, from 0.
        total: updates in all.
        warmup: as in `warmup_updates`.
        start: the multiplier at update 0 of a warm-up. None: 1 / (warmup + 1), so that the first update
            learns; 0 is what the schedules of transformers and PaddleNLP do (their first update is lost).
    """
    rising = warmup_updates(warmup, total)
    if update < rising:
        first = 1 / (rising + 1) if start is None else start
        return first + (1 - first) * update / rising
    if kind == "constant":
        return 1.0
    left = max(0.0, (total - update) / max(1, total - rising))
    if kind == "cosine":
        return 0.5 * (1 - math.cos(math.pi * left))
    return left
