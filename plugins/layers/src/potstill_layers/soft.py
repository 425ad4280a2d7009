"""Losses between logits with a temperature a row, and TextBrewer's probability shift.

Shapes: logits [..., classes], the temperature a number or a tensor [...]. Every function returns a scalar, a mean
over rows; gradients flow into both sides, so pass a teacher without gradient. Half precision is widened.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from potstill.errors import ShapeError
from potstill.tasks import class_mean, full_precision

Temperature = float | Tensor
Kind = Literal["categorical", "bernoulli"]
"""What a row of logits means: one of the classes, or independent yes/no answers."""


def kd_ce(
    student: Tensor,
    teacher: Tensor,
    temperature: Temperature,
    *,
    t_squared: bool = True,
    kind: Kind = "categorical",
) -> Tensor:
    """T² Σ −p log q with p = softmax(teacher/T), q = softmax(student/T): a mean per row.

    T² keeps the gradients' size while T changes (arXiv 1503.02531, section 2); TextBrewer's kd_ce has none
    (`t_squared=False`), so that its pull fades as 1/T². Both are a cross-entropy: the least is T² times the teacher's
    entropy.

    Args:
        kind: for "bernoulli", the sum over classes of the two-way cross-entropies.

    Raises: ShapeError where the shapes differ.
    """
    _require_same_shape(student, teacher)
    known = _log_softmax(teacher, temperature, kind).exp()
    rows = -(known * _log_softmax(student, temperature, kind)).sum(-1)
    return (rows * temperature**2).mean() if t_squared else rows.mean()


def kd_mse(
    student: Tensor,
    teacher: Tensor,
    temperature: Temperature,
    *,
    t_squared: bool = False,
    choices: Tensor | None = None,
) -> Tensor:
    """((s − t)/T)², a mean per row and class; TextBrewer's kd_mse, without T².

    Args:
        choices: [..., classes] true at the classes that a row can be, where the others are padding.

    Raises: ShapeError where the shapes differ.
    """
    _require_same_shape(student, teacher)
    apart = (full_precision(student) - full_precision(teacher)).square()
    rows = class_mean(apart, choices)
    return rows.mean() if t_squared else (rows / temperature**2).mean()


def probability_shift(teacher: Tensor, labels: Tensor) -> Tensor:
    """The teacher's logits with the largest and the label's exchanged, so that the label is what it predicts.

    Rows without a label (below 0) stay as they are, in any shape; TextBrewer leaves them alone for [batch, seq,
    classes] only, and changes the logits in place.

    Args:
        labels: integers, [...].
    """
    top = teacher.argmax(-1, keepdim=True)
    gold = torch.where(labels.unsqueeze(-1) < 0, top, labels.unsqueeze(-1))
    highest, said = teacher.gather(-1, top), teacher.gather(-1, gold)
    return teacher.scatter(-1, top, said).scatter(-1, gold, highest)


def _log_softmax(logits: Tensor, temperature: Temperature, kind: Kind) -> Tensor:
    per_row = temperature.unsqueeze(-1) if isinstance(temperature, Tensor) else temperature
    softened = full_precision(logits) / per_row
    if kind == "bernoulli":
        return torch.cat((F.logsigmoid(softened), F.logsigmoid(-softened)), dim=-1)
    return F.log_softmax(softened, dim=-1)


def _require_same_shape(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise ShapeError(
            f"The teacher's logits are {list(teacher.shape)} and the student's {list(student.shape)}; soft targets "
            "need the same rows and classes on both sides, so take a teacher that was trained on these labels."
        )
