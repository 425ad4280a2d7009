"""How likely a module is replaced, and which ones are: no model, no engine."""

from __future__ import annotations

import numpy.typing as npt
from torch import Tensor

from potstill.data.random import RowRandom

_OWN_DRAWS = 0x7468657365757321
"""Keeps these draws apart from those of plugins that draw on the data with the same seed."""


def constant_rate(applied: int, rate: float, full_after: int | None) -> float:
    """The replacing rate p of the update after `applied` ones: `rate`, and 1 from update `full_after` on.

    Args:
        applied: updates that changed the weights so far.
        full_after: None: never. The authors' `steps_for_replacing`, of which 0 means 1 in their code.
    """
    return 1.0 if full_after is not None and applied >= full_after else rate


def linear_rate(applied: int, start: float, slope: float) -> float:
    """min(1, slope · applied + start), the paper's curriculum (section 3.3)."""
    return min(1.0, slope * applied + start)


def rising_rate(applied: int, start: float, full_after: int) -> float:
    """The line of `linear_rate` that begins at `start` and reaches 1 after `full_after` updates."""
    return 1.0 if applied >= full_after else start + (1 - start) * applied / full_after


def draw(rate: float, modules: int, *, seed: int, update: int, keys: npt.ArrayLike) -> Tensor:
    """Which modules are replaced: an independent Bernoulli(rate) draw for each key and module (section 3.1).

    The same arguments draw the same, whatever was drawn before, on any rank.

    Args:
        rate: probability that a module is replaced, 0 to 1.
        modules: how many there are.
        update: number of the update.
        keys: [keys], numbers that tell apart what draws in one update, such as rows of the data set.

    Returns: [keys, modules], True where the successor stands in.
    """
    return RowRandom(seed ^ _OWN_DRAWS, update, keys).uniform(modules) < rate
