"""What changes while training: a temperature for every row, and weights that fall or grow.

The temperatures are those of arXiv 1911.07471 as TextBrewer has them: τ = T + β (mean w − w), with a weight w for
every row that says how hard it is; a hard row gets a lower temperature. The mean is over the rows at hand, so these
temperatures, unlike every loss here, depend on how an update is cut into micro-batches.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from potstill.tasks import full_precision

WeightSchedule = Literal["constant", "linear_decay", "linear_growth"]
TemperatureSchedule = Literal["constant", "flsw", "cwsm"]


@torch.no_grad()
def flsw_weights(
    student: Tensor, teacher: Tensor, gamma: float, eps: float = 1e-4, *, choices: Tensor | None = None
) -> Tensor:
    """(1 − cos(s, t))^γ of logits [..., classes]: how far a row's logits are from the teacher's.

    Args:
        eps: added to the norms.
        choices: [..., classes] true at the classes that a row can be, where the others are padding, which is no part
            of the cosine.
    """
    ours, theirs = (full_precision(logits) for logits in (student, teacher))
    if choices is not None:
        ours, theirs = (logits.where(choices, 0) for logits in (ours, theirs))
    ours, theirs = (logits / (logits.norm(dim=-1, keepdim=True) + eps) for logits in (ours, theirs))
    # rounding may bring the cosine above 1, and a fractional power of less than 0 is NaN
    apart: Tensor = 1 - (ours * theirs).sum(-1)
    return apart.clamp(min=0).pow(gamma)


@torch.no_grad()
def cwsm_weights(student: Tensor, eps: float = 1e-3) -> Tensor:
    """1 / (the student's highest probability + eps) of logits [..., classes]: how unsure it is of a row."""
    return 1 / (full_precision(student).softmax(-1).amax(-1) + eps)


def row_temperatures(base: float, weights: Tensor, beta: float, *, lowest: float | None) -> Tensor:
    """τ = T + β (mean w − w), [...], at least `lowest`.

    Nothing keeps the formula above 0, and a temperature below 0 teaches the opposite of what the teacher says.
    `lowest=None` leaves it so, as TextBrewer does.
    """
    rows = base + (weights.mean() - weights) * beta
    return rows if lowest is None else rows.clamp(min=lowest)


def scheduled(weight: float, schedule: WeightSchedule, progress: float, *, replaces: bool = False) -> float:
    """The weight at `progress`, the share of all updates that are done: from 0 to below 1.

    linear_decay multiplies by 1 − progress, linear_growth by progress.

    Args:
        replaces: as in TextBrewer, where the schedule's value *replaces* the weight as soon as one update is done.
    """
    if schedule == "constant":
        return weight
    factor = progress if schedule == "linear_growth" else 1 - progress
    return weight * factor if not replaces else weight if progress == 0 else factor
