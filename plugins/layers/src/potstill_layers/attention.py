"""Losses between attention scores, as in TextBrewer's losses.py.

Shapes: student and teacher [batch, heads, seq, seq], scores *before* the softmax (QKᵀ/√d, masked keys at a very low
number); the mse losses take probabilities too. mask [batch, seq], 1 for tokens, None to count padding too. Every
function returns a scalar, gives 0 (and a gradient of 0) where the mask is empty, and widens half precision.

`reference`, in every function: "textbrewer" and "textbrewer-head" give that library's numbers where they differ.
"""

from __future__ import annotations

import torch
from torch import Tensor

from potstill.errors import ShapeError
from potstill.tasks import full_precision
from potstill_layers.masked import Reference, difference, pairs, per_pair, per_token

MASKED = -5000.0
"""A score this low is a mask's. Masks are −10,000 or the lowest number there is; no score of a model gets near."""
_TEXTBREWER = -1e-3  # what TextBrewer takes for a mask's where no mask is given: it catches every negative score


def attention_mse(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, *, reference: Reference | None = None
) -> Tensor:
    """Σ (S − T)² over pairs of tokens / (heads · Σ len²): a mean per PAIR, divided by the heads.

    Without a mask a mean per POSITION_PAIR, where a masked key counts as 0 on both sides; TextBrewer sets every
    score up to −0.001 to 0 then, and so forgets half of what it should match. KnowledgeDistillation's
    attention_mse_with_mask is this one with a mask.

    Raises: ShapeError where heads or lengths differ.
    """
    if student.shape[1] != teacher.shape[1]:
        raise ShapeError(
            f"attention_mse compares head by head, and the student has {student.shape[1]} heads and the teacher "
            f"{teacher.shape[1]}; attention_mse_sum compares the sums over heads."
        )
    if mask is None:
        floor = MASKED if reference is None else _TEXTBREWER
        student, teacher = (scores.masked_fill(scores <= floor, 0) for scores in (student, teacher))
    keep = pairs(mask)
    apart = difference(student, teacher, None if keep is None else keep.unsqueeze(1))
    return per_pair(apart.square().sum(), apart.shape, mask) / apart.shape[1]


def attention_mse_sum(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, *, reference: Reference | None = None
) -> Tensor:
    """`attention_mse` of the sums over heads, whose number may differ: Σ (ΣS − ΣT)² / Σ len², a mean per PAIR.

    Raises: ShapeError where lengths differ.
    """
    summed = [full_precision(scores).sum(1, keepdim=True) for scores in (student, teacher)]
    return attention_mse(summed[0], summed[1], mask, reference=reference)


def attention_ce(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, *, reference: Reference | None = None
) -> Tensor:
    """−Σ softmax(T) log softmax(S) over keys, a mean per TOKEN (POSITION without a mask) and head.

    The least it can be is the entropy of the teacher's attention. With a mask, the softmax is over the keys that are
    tokens. TextBrewer takes it over all keys and leaves the others out of the sum (the same where the scores were
    masked before); without a mask it drops the keys whose teacher score is up to −0.001.

    Raises: ShapeError where heads or lengths differ.
    """
    if student.shape != teacher.shape:
        raise ShapeError(
            f"attention_ce compares head by head, and the student's scores are {list(student.shape)} and the "
            f"teacher's {list(teacher.shape)}; attention_ce_mean compares the means over heads."
        )
    student, teacher = full_precision(student), full_precision(teacher)
    hidden = None if mask is None else ~mask.bool()[:, None, None, :]
    if hidden is not None and reference is None:
        lowest = torch.finfo(student.dtype).min
        student, teacher = student.masked_fill(hidden, lowest), teacher.masked_fill(hidden, lowest)
    known = teacher.softmax(-1)
    if reference is not None:
        known = known.masked_fill(teacher <= _TEXTBREWER if hidden is None else hidden, 0)
    return per_token(-(known * student.log_softmax(-1)).sum(-1).mean(1), mask)


def attention_ce_mean(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, *, reference: Reference | None = None
) -> Tensor:
    """`attention_ce` of the means over heads of the scores, whose number may differ: a mean per TOKEN.

    Raises: ShapeError where lengths differ.
    """
    means = [_head_mean(full_precision(scores)) for scores in (student, teacher)]
    return attention_ce(means[0], means[1], mask, reference=reference)


def _head_mean(scores: Tensor) -> Tensor:
    """[batch, 1, seq, seq]; the sum of several lowest numbers overflows, and 0 · log 0 would be NaN then."""
    return scores.mean(1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)
