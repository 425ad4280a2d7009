"""Losses between hidden states, layer against layer, as in TextBrewer's losses.py.

Shapes: student and teacher [batch, seq, width]; mask [batch, seq], 1 for tokens, None to count padding too. Every
function returns a scalar, gives 0 (and a gradient of 0) where the mask is empty, and widens half precision.
"""

from __future__ import annotations

from torch import Tensor

from potstill_layers.masked import difference, per_token, require_equal_widths, tokens, unit_vectors


def hidden_mse(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Σ (s − t)² / (Σ len · width): a mean per TOKEN (POSITION without a mask), divided by the width.

    TextBrewer's hidden_mse and KnowledgeDistillation's mse_with_mask; without a mask the latter's mse, which takes
    any shape: of pooled [batch, width] vectors it is a mean per EXAMPLE.

    Raises: ShapeError where the shapes differ.
    """
    require_equal_widths(student, teacher, "hidden_mse")
    squares = difference(student, teacher, tokens(mask, student.dim())).square()
    if mask is None:
        return squares.mean()
    return squares.sum() / (mask.sum().clamp(min=1) * student.shape[-1])


def cos(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of 1 − cos(s, t) per TOKEN (POSITION without a mask), as DistilBERT's. A zero vector is at distance 1.

    Raises: ShapeError where the shapes differ.
    """
    return per_token(cosine_distances(student, teacher), mask)


def cosine_distances(student: Tensor, teacher: Tensor) -> Tensor:
    """1 − cos(s, t) of vectors [..., width]: [...]. Half of it is KnowledgeDistillation's cos.

    Raises: ShapeError where the shapes differ.
    """
    require_equal_widths(student, teacher, "cos")
    return 1 - (unit_vectors(student) * unit_vectors(teacher)).sum(-1)


def pkd(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """‖s/|s| − t/|t|‖² of position 0, a mean per EXAMPLE (patient distillation, arXiv 1908.09355, eq. 7).

    TextBrewer's pkd divides by the norm alone, so that a zero vector gives NaN; here it stays zero, at distance 1.

    Args:
        student, teacher: [batch, seq, width], or [batch, width] for the vectors themselves.
        mask: not looked at; position 0 is [CLS].

    Raises: ShapeError where the widths differ.
    """
    first = [state[:, 0] if state.dim() == 3 else state for state in (student, teacher)]
    require_equal_widths(first[0], first[1], "pkd")
    return (unit_vectors(first[0]) - unit_vectors(first[1])).square().sum(-1).mean()
