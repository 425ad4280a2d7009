"""DIITO's losses (Wu et al. 2022, *Causal Distillation for Language Models*, arXiv 2112.02505), on outputs alone.

Both models ran over the same base rows with activations of the same source rows put in: counterfactual outputs.
"""

from __future__ import annotations

from typing import Literal

from potstill_hinton.losses import kl, kl_mean, value_mse
from torch import Tensor
from torch.nn import functional as F

from potstill.errors import ShapeError
from potstill.tasks import full_precision

Reduction = Literal["sum", "mean"]
Kind = Literal["categorical", "bernoulli", "value"]


def causal_ce(
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    *,
    reduction: Reduction = "sum",
    kind: Kind = "categorical",
    choices: Tensor | None = None,
) -> Tensor:
    """T² KL(softmax(teacher/T) ‖ softmax(student/T)) of counterfactual logits.

    Args:
        student, teacher: [n, classes], a row for each of the base's tokens (masked LM) or rows (classification).
        temperature: T, above 0.
        reduction: "sum" over classes, the mean over rows. "mean" over classes too, as in DIITO-XXS.
        kind: "bernoulli": `classes` independent answers; "value": mean squared error, without T.
        choices: [n, classes] true at the classes that a row can be, where the others are padding; for "mean".

    Returns: nats, a mean per row; NaN for 0 rows.
    Raises: ShapeError where the shapes differ.
    """
    if kind == "value":
        return value_mse(student, teacher)
    if reduction == "sum":
        return kl(student, teacher, temperature, kind=kind)
    return kl_mean(student, teacher, temperature, kind=kind, choices=choices)


def causal_cos(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """1 − cos of the counterfactual last hidden states, the mean over tokens.

    Args:
        student, teacher: [batch, seq, hidden].
        mask: [batch, seq], 1 for the base's tokens.

    Returns: 0 to 2, a mean per TOKEN; 0 where there is none.
    Raises: ShapeError where the shapes differ.
    """
    if student.shape != teacher.shape:
        raise ShapeError(
            f"The cosine of the teacher's hidden states {list(teacher.shape)} and the student's {list(student.shape)} "
            "needs both equally wide."
        )
    apart = 1 - F.cosine_similarity(full_precision(student), full_precision(teacher), dim=-1)
    kept = mask.to(apart.dtype)
    return (apart * kept).sum() / kept.sum().clamp(min=1)
