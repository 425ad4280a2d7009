"""TinyBERT's losses (Jiao et al. 2020, arXiv 1909.10351) on tensors alone.

Every function returns a scalar. Gradients flow into both sides, so pass a teacher without gradient. Half precision is
widened to float32 first. The authors' code means task_distill.py of huawei-noah/Pretrained-Language-Model.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from potstill.errors import ShapeError
from potstill.tasks import class_mean, full_precision

Padding = Literal["excluded", "reference"]
"""Whether padding is out of sum and divisor, or counts as in the authors' code."""
Reduction = Literal["row", "reference"]
"""Whether a prediction loss is a mean per row times T², or one per row and class without T² as in the authors' code."""

SCORE_THRESHOLD = -1e2
"""Scores up to this, masked or genuine, are taken for masked by the authors' code."""


def hidden_mse(student: Tensor, teacher: Tensor, mask: Tensor, *, padding: Padding = "excluded") -> Tensor:
    """Mean squared error of hidden states or embeddings (equations 8 and 9).

    The authors' code averages over padding too, so that a row weighs more the shorter its batch mates are.

    Args:
        student, teacher: [batch, seq, width], the student's in the teacher's width.
        mask: [batch, seq], 1 for tokens.
        padding: "excluded" leaves padding out of sum and divisor; "reference" counts all positions.

    Returns: a mean per (token, dimension), with "reference" per (position, dimension); NaN where there is none.
    Raises: ShapeError where the shapes differ.
    """
    if student.shape != teacher.shape:
        raise ShapeError(
            f"The teacher's hidden states are {list(teacher.shape)} and the student's {list(student.shape)}; "
            "where the widths differ, a projection has to lead from one to the other."
        )
    difference = full_precision(student) - full_precision(teacher)
    if padding == "reference":
        return difference.square().mean()
    tokens = mask.bool()
    total = difference.masked_fill(~tokens[..., None], 0.0).square().sum()
    return total / (tokens.sum() * student.shape[-1])


def attention_mse(student: Tensor, teacher: Tensor, mask: Tensor, *, padding: Padding = "excluded") -> Tensor:
    """Mean squared error of attention scores before the softmax (equation 7).

    A key that either side masks adds nothing: between two tokens that happens where a model looks at a window of
    them only. The authors' code sets every score up to -100 to 0, each side by itself, lets padding act as queries,
    and divides by all pairs of positions.

    Args:
        student, teacher: [batch, heads, seq, seq], queries before keys; masked keys have the lowest finite number.
        mask: [batch, seq], 1 for tokens.
        padding: "excluded" leaves pairs with padding out of sum and divisor; "reference" is the authors' way.

    Returns: a mean per (head, pair of tokens of a row), with "reference" per (head, pair of positions); NaN where
        there is none.
    Raises: ShapeError for another number of heads, and where the shapes differ otherwise.
    """
    _require_same_scores(student, teacher)
    student, teacher = full_precision(student), full_precision(teacher)
    if padding == "reference":
        return F.mse_loss(_without_low_scores(student), _without_low_scores(teacher))
    tokens = mask.bool()
    pairs = tokens[:, None, :, None] & tokens[:, None, None, :]
    seen = pairs & ~_masked(student) & ~_masked(teacher)
    total = (student - teacher).masked_fill(~seen, 0.0).square().sum()
    return total / (pairs.sum() * student.shape[1])


def soft_ce(
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    *,
    reduction: Reduction = "row",
    kind: Literal["categorical", "bernoulli"] = "categorical",
    choices: Tensor | None = None,
) -> Tensor:
    """Cross-entropy with the teacher's softened predictions (equation 10).

    Soft targets have gradients that shrink as 1/T², which T² undoes, so that the temperature does not act as a
    learning rate. The authors' code has no T² and divides by the number of classes too; at their T = 1 it is c times
    smaller.

    Args:
        student, teacher: [n, c] logits.
        temperature: T, above 0.
        reduction: "row" sums over classes and multiplies by T²; "reference" is the authors' way.
        kind: for "bernoulli", the c classes are yes/no answers, each with a two-way cross-entropy.
        choices: [n, c] true at the classes that a row can be, where the others are padding; for "reference".

    Returns: nats, a mean per row; NaN for 0 rows.
    Raises: ShapeError where the shapes differ.
    """
    _require_same_predictions(student, teacher)
    learnt, known = full_precision(student) / temperature, full_precision(teacher) / temperature
    if kind == "bernoulli":
        crossed = F.binary_cross_entropy_with_logits(learnt, known.sigmoid(), reduction="none")
    else:
        crossed = -known.softmax(-1) * learnt.log_softmax(-1)
    if reduction == "reference":
        return class_mean(crossed, choices).mean()
    return crossed.sum(-1).mean() * temperature**2


def value_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of predicted values, for regression.

    The authors' code compares with the label there and does not ask the teacher.

    Args:
        student, teacher: of one shape.

    Raises: ShapeError where the shapes differ.
    """
    _require_same_predictions(student, teacher)
    return F.mse_loss(full_precision(student), full_precision(teacher))


def _without_low_scores(scores: Tensor) -> Tensor:
    return torch.where(scores <= SCORE_THRESHOLD, torch.zeros_like(scores), scores)


def _masked(scores: Tensor) -> Tensor:
    # The lowest finite number of float16 is -65504, of the others -3e38; a genuine score is near neither.
    return scores < -3e4


def _require_same_scores(student: Tensor, teacher: Tensor) -> None:
    if student.shape == teacher.shape:
        return
    if student.dim() == teacher.dim() == 4 and student.shape[1] != teacher.shape[1]:
        raise ShapeError(
            f"The teacher has {teacher.shape[1]} attention heads and the student {student.shape[1]}; attention scores "
            "are compared head by head, so both need the same number."
        )
    raise ShapeError(
        f"The teacher's attention scores are {list(teacher.shape)} and the student's {list(student.shape)}; "
        "they need the same rows, heads and positions."
    )


def _require_same_predictions(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise ShapeError(
            f"The teacher's predictions are {list(teacher.shape)} and the student's {list(student.shape)}; they need "
            "the same rows and classes, so take a teacher that was trained on these labels."
        )
