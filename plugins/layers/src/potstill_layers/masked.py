"""Differences and means that leave padding out, and never make a NaN of nothing.

Shapes: a mask is [batch, seq], 1 for tokens; None counts every position, padding too.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from potstill.errors import ShapeError
from potstill.tasks import full_precision

Reference = Literal["textbrewer", "textbrewer-head"]
"""Whose numbers to give where they differ from ours: TextBrewer 0.2.1.post1 (PyPI), or the head of its repository."""


def difference(student: Tensor, teacher: Tensor, keep: Tensor | None) -> Tensor:
    """student − teacher in full precision; 0 where `keep` is False, whatever stands there.

    Args:
        keep: broadcasts to the shape of both; None keeps everything.
    """
    apart = full_precision(student) - full_precision(teacher)
    return apart if keep is None else apart.masked_fill_(~keep, 0)


def tokens(mask: Tensor | None, dims: int) -> Tensor | None:
    """The mask as booleans that broadcast to [batch, seq, ...] of `dims` dimensions."""
    return None if mask is None else mask.bool().view(*mask.shape, *[1] * (dims - 2))


def pairs(mask: Tensor | None) -> Tensor | None:
    """[batch, seq, seq], True where query and key are both tokens."""
    return None if mask is None else mask.bool().unsqueeze(-1) & mask.bool().unsqueeze(-2)


def per_token(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of [batch, seq] values over tokens; over all positions without a mask; 0 where there is no token."""
    if mask is None:
        return values.mean()
    return values.masked_fill(~mask.bool(), 0).sum() / mask.sum().clamp(min=1)


def per_pair(total: Tensor, shape: torch.Size, mask: Tensor | None) -> Tensor:
    """A sum over pairs of positions, divided by their number: Σ len² with a mask, batch · seq · seq without.

    Args:
        shape: ends in [seq, seq] and begins with batch.
    """
    if mask is None:
        return total / (shape[0] * shape[-2] * shape[-1])
    return total / mask.sum(-1).square().sum().clamp(min=1)


def unit_vectors(vectors: Tensor) -> Tensor:
    """[..., width] divided by their norms, in full precision; a zero vector stays zero, with a finite gradient."""
    vectors = full_precision(vectors)
    squared = vectors.square().sum(-1, keepdim=True)
    return vectors * torch.where(squared > torch.finfo(squared.dtype).tiny, squared, 1.0).rsqrt()


def require_equal_widths(student: Tensor, teacher: Tensor, loss: str) -> None:
    """Raises ShapeError where the last dimensions differ, or any other one."""
    if student.shape == teacher.shape:
        return
    if student.shape[:-1] == teacher.shape[:-1]:
        raise ShapeError(
            f"{loss} compares vectors of one width, and the student's have {student.shape[-1]} numbers and the "
            f"teacher's {teacher.shape[-1]}; project the student's."
        )
    raise ShapeError(
        f"{loss} compares position by position, and the student's feature is {list(student.shape)} and the teacher's "
        f"{list(teacher.shape)}."
    )
