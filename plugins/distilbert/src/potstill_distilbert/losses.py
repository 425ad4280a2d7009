"""DistilBERT's losses (Sanh et al. 2019, arXiv 1910.01108; `Distiller.step` of the authors' distiller.py).

Shapes: B rows, L tokens with padding, V words of the vocabulary, H the width; T is the temperature. `chosen` [n] are
the positions that count, as numbers in the flattened [B * L] (`Batch.attended`, `Batch.labelled`). Every function gives
a scalar, a mean per chosen position, and 0 where none is chosen.
Gradients flow into the student's side; pass a teacher without gradient. Half precision is widened to float32.
"""

from __future__ import annotations

import torch.nn.functional as F
from potstill_hinton.losses import kl
from torch import Tensor

from potstill.errors import ShapeError
from potstill.tasks import full_precision


def soft_ce(student: Tensor, teacher: Tensor, chosen: Tensor, temperature: float) -> Tensor:
    """T² KL(softmax(teacher/T) ‖ softmax(student/T)): the sum over the vocabulary.

    The authors call this the cross-entropy; it is the divergence, which has the same gradient.

    Args:
        student, teacher: logits [B, L, V].
        temperature: T, above 0.

    Raises: ShapeError where the shapes differ.
    """
    _require_same_shape(student, teacher, "logits")
    if not len(chosen):
        return student.sum() * 0
    return kl(student.flatten(0, 1)[chosen], teacher.flatten(0, 1)[chosen], temperature)


def logit_mse(student: Tensor, teacher: Tensor, chosen: Tensor) -> Tensor:
    """The squared distance of the logits, without a temperature: the sum over the vocabulary.

    Args, Raises: as `soft_ce`.
    """
    _require_same_shape(student, teacher, "logits")
    learnt, known = (_at(x, chosen) for x in (student, teacher))
    return _mean((learnt - known).square().sum(-1))


def cosine(student: Tensor, teacher: Tensor, chosen: Tensor) -> Tensor:
    """1 − cos(student, teacher) of the last hidden states.

    Args:
        student, teacher: [B, L, H].

    Raises: ShapeError where the shapes differ.
    """
    _require_same_shape(student, teacher, "hidden states")
    learnt, known = (_at(x, chosen) for x in (student, teacher))
    return _mean(1 - F.cosine_similarity(learnt, known, dim=-1))


def _at(values: Tensor, chosen: Tensor) -> Tensor:
    return full_precision(values.flatten(0, 1)[chosen])


def _mean(values: Tensor) -> Tensor:
    return values.sum() / max(1, values.numel())


def _require_same_shape(student: Tensor, teacher: Tensor, what: str) -> None:
    if student.shape != teacher.shape:
        raise ShapeError(
            f"The teacher's {what} are {list(teacher.shape)} and the student's {list(student.shape)}; both models must "
            "have one vocabulary and one width."
        )
