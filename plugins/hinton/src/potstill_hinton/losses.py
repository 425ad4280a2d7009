"""Soft-target losses (Hinton, Vinyals and Dean 2015, arXiv 1503.02531), on logits alone.

Shapes: n rows (sentences, tokens or spans), c classes; T is the temperature. Every function returns a scalar.
Student and teacher logits have one shape; gradients flow into both, so pass a teacher without gradient.
Half precision is widened to float32 before the softmax.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from potstill.errors import ShapeError
from potstill.tasks import class_mean, full_precision

Kind = Literal["categorical", "bernoulli"]
"""What a row of logits means: one of c classes, or c independent yes/no answers."""


def kl(
    student: Tensor, teacher: Tensor, temperature: float, *, t_squared: bool = True, kind: Kind = "categorical"
) -> Tensor:
    """T² KL(softmax(teacher/T) ‖ softmax(student/T)): the sum over classes, the mean over rows ("batchmean").

    Section 2 of the paper: the gradients of soft targets shrink as 1/T², so T² keeps their balance with the hard
    term while T is tuned. As in RepDistiller (distiller_zoo/KD.py) and DistilBERT.

    Args:
        student, teacher: [n, c] logits.
        temperature: T, above 0.
        t_squared: whether the factor T² is there.
        kind: for "bernoulli", the sum over the c two-way divergences.

    Returns: nats, a mean per row; NaN for 0 rows.
    Raises: ShapeError where the shapes differ.
    """
    return _scaled(_kl_rows(student, teacher, temperature, kind).mean(), temperature, t_squared)


def soft_ce(
    student: Tensor, teacher: Tensor, temperature: float, *, t_squared: bool = True, kind: Kind = "categorical"
) -> Tensor:
    """T² Σ −p log q, the cross-entropy with the teacher's soft targets p, a mean over rows.

    The gradient is that of `kl`; the value is larger by T² times the teacher's entropy. With `t_squared=False`
    this is TextBrewer's kd_ce_loss, whose pull fades as 1/T² when T grows.

    Args, Returns, Raises: as `kl`.
    """
    known, learnt = _log_probabilities(student, teacher, temperature, kind)
    return _scaled(-(known.exp() * learnt).sum(-1).mean(), temperature, t_squared)


def kl_mean(
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    *,
    t_squared: bool = True,
    kind: Kind = "categorical",
    choices: Tensor | None = None,
) -> Tensor:
    """`kl` divided by c: what `KLDivLoss(reduction="mean")` gives, c times too weak. Only to repeat references.

    With T² it is loss_fn_kd of haitongli/knowledge-distillation-pytorch, PKD and DIITO-XXS; without, the soft loss
    of taishan1994/pytorch_knowledge_distillation (kd_main.py).

    Args: as `kl`, and
        choices: [n, c] true at the classes that a row can be, where the others are padding; None: all of them.

    Returns, Raises: as `kl`; a mean per (row, class).
    """
    rows = _kl_rows(student, teacher, temperature, kind)
    return _scaled((rows / (student.shape[-1] if choices is None else choices.sum(-1))).mean(), temperature, t_squared)


def logit_mse(
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    *,
    t_squared: bool = False,
    kind: Kind = "categorical",
    choices: Tensor | None = None,
) -> Tensor:
    """Mean over rows and classes of (student/T − teacher/T)²: TextBrewer's kd_mse_loss, which has no T².

    Section 2.1 of the paper: what soft targets come to for a large T and logits of mean zero.

    Args, Returns, Raises: as `kl_mean`. `kind` changes nothing.
    """
    _require_same_shape(student, teacher)
    difference = (full_precision(student) - full_precision(teacher)) / temperature
    return _scaled(class_mean(difference.square(), choices).mean(), temperature, t_squared)


def value_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over elements of (student − teacher)², for heads that put out values; temperature has no meaning there.

    Args:
        student, teacher: [n] or [n, values], of one shape.

    Raises: ShapeError where the shapes differ.
    """
    _require_same_shape(student, teacher)
    return F.mse_loss(full_precision(student), full_precision(teacher))


def span_kl(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], temperature: float) -> Tensor:
    """`kl` over positions, for start and end, and the mean of the two (DistilBERT's run_squad_w_distillation.py).

    The reference leaves padding in the softmax; mask the logits of both sides beforehand to take it out.

    Args:
        student, teacher: start and end logits, each [n, seq].
        temperature: T, above 0.

    Returns: nats, a mean per row.
    Raises: ShapeError where a shape differs.
    """
    start, end = (kl(learnt, known, temperature) for learnt, known in zip(student, teacher, strict=True))
    return (start + end) / 2


VARIANTS: dict[str, Callable[..., Tensor]] = {
    "kl": kl,
    "soft_ce": soft_ce,
    "kl_mean": kl_mean,
    "logit_mse": logit_mse,
}
"""By the name that the option `loss` has for them."""
PER_CLASS = ("kl_mean", "logit_mse")
"""Those that average over classes, and so take `choices`."""


def weights(alpha: float, hard: float | None = None) -> tuple[float, float]:
    """Weights of the soft and the hard term: α and 1 − α, or α and `hard` where that is given."""
    return alpha, 1 - alpha if hard is None else hard


def _kl_rows(student: Tensor, teacher: Tensor, temperature: float, kind: Kind) -> Tensor:
    """[n], summed over classes."""
    known, learnt = _log_probabilities(student, teacher, temperature, kind)
    return (known.exp() * (known - learnt)).sum(-1)


def _log_probabilities(student: Tensor, teacher: Tensor, temperature: float, kind: Kind) -> tuple[Tensor, Tensor]:
    """The teacher's and the student's log-probabilities at T, [n, c]; [n, 2c] (yes, no) for "bernoulli"."""
    _require_same_shape(student, teacher)
    return _log_softmax(teacher, temperature, kind), _log_softmax(student, temperature, kind)


def _log_softmax(logits: Tensor, temperature: float, kind: Kind) -> Tensor:
    softened = full_precision(logits) / temperature
    if kind == "bernoulli":
        return torch.cat((F.logsigmoid(softened), F.logsigmoid(-softened)), dim=-1)
    return F.log_softmax(softened, dim=-1)


def _scaled(value: Tensor, temperature: float, t_squared: bool) -> Tensor:
    return value * temperature**2 if t_squared else value


def _require_same_shape(student: Tensor, teacher: Tensor) -> None:
    if student.shape == teacher.shape:
        return
    if student.shape[:-1] == teacher.shape[:-1]:
        raise ShapeError(
            f"The teacher's logits have {teacher.shape[-1]} classes and the student's {student.shape[-1]}; "
            "soft targets need the same classes on both sides, so take a teacher that was trained on these labels."
        )
    raise ShapeError(
        f"The teacher's logits are {list(teacher.shape)} and the student's {list(student.shape)}; "
        "soft targets need the same rows and classes on both sides."
    )
