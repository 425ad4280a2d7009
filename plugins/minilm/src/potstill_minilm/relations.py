"""The KL divergence between two models' relations of vectors, without ever holding the relations.

A relation is softmax(X Y^T / sqrt(width)): how much each of some vectors has to do with each other. The loss over
them is a scalar whose gradient in the student's scores is softmax(student) - softmax(teacher), so loss and gradient
are computed in one pass, some relations at a time, and only the gradient in X and Y is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from potstill.errors import ShapeError, TrainingError

BLOCK = {"cpu": 2**20, "cuda": 2**27}
"""Bytes of the scores that are looked at together; on a CPU they stay in its cache."""


class Related(NamedTuple):
    """Vectors and those they are related to, each [outer, inner, rows, width]; `right` None: to each other."""

    left: Tensor
    right: Tensor | None = None


def relation_kl(teacher: Related, student: Related, weights: Tensor, keys: Tensor | None = None) -> Tensor:
    """The sum over all rows of weight * KL(teacher's relation of the row || student's).

    A row's relation is softmax(x Y^T / sqrt(width)) over the keys. Outer and inner number independent relations;
    widths may differ, each model's scores are divided by the root of its own. Half precision is widened.
    The memory needed beside the inputs is that of the student's gradient. There is no gradient in the teacher.

    Args:
        teacher, student: of one outer, inner and number of rows.
        weights: [outer, rows], what each row counts; 0 leaves it out.
        keys: [outer, rows], True where a vector is one that others may be related to. None: all are.

    Returns: nats, a scalar.
    Raises:
        ShapeError: shapes that do not fit.
        TrainingError: in a second derivative, which there is none of.
    """
    _check(teacher, student)
    right = student.left if student.right is None else student.right
    wanted = torch.is_grad_enabled() and (student.left.requires_grad or right.requires_grad)
    keys = None if keys is None else keys.bool()
    arguments = (teacher.left.detach(), None if teacher.right is None else teacher.right.detach())
    return cast(Tensor, _RelationKL.apply(*arguments, student.left, student.right, weights, keys, wanted))  # type: ignore[no-untyped-call]


def _check(teacher: Related, student: Related) -> None:
    for side, related in (("teacher", teacher), ("student", student)):
        if related.right is not None and related.right.shape != related.left.shape:
            raise ShapeError(
                f"The {side} relates vectors {list(related.left.shape)} to vectors {list(related.right.shape)}, and "
                "both must have one shape."
            )
    if teacher.left.shape[:-1] != student.left.shape[:-1]:
        raise ShapeError(
            f"The teacher relates vectors {list(teacher.left.shape)} and the student {list(student.left.shape)}; only "
            "the last number, their width, may differ."
        )


class _RelationKL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        teacher: Tensor,
        teacher_right: Tensor | None,
        student: Tensor,
        student_right: Tensor | None,
        weights: Tensor,
        keys: Tensor | None,
        wanted: bool,
    ) -> Tensor:
        known, learnt = Related(teacher, teacher_right), Related(student, student_right)
        number = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
        gradients = _Gradients.like(learnt, number) if wanted else None
        total = torch.zeros((), dtype=number, device=student.device)
        with torch.autocast(student.device.type, enabled=False):
            for outer, inner, rows in _blocks(student, weights, keys):
                part = (outer, inner, slice(rows))
                seen = None if keys is None else keys[outer, :rows]
                scale = weights[outer, :rows].to(number)
                total += _block(known, learnt, part, scale, seen, gradients, number)
        ctx.gradients = gradients
        ctx.save_for_backward(*((student,) if student_right is None else (student, student_right)))
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        [factor] = outer
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise TrainingError("A relation loss went backward twice; its gradient is kept for one backward pass.")
        vectors = (*ctx.saved_tensors, None)[:2]
        left, right = (
            None if part is None else _once(part, factor, own) for part, own in zip(gradients, vectors, strict=True)
        )
        return None, None, left, right, None, None, None


class _Gradients(NamedTuple):
    left: Tensor
    right: Tensor | None

    @classmethod
    def like(cls, student: Related, number: torch.dtype) -> _Gradients:
        def zeros(vectors: Tensor) -> Tensor:
            return torch.zeros(vectors.shape, dtype=number, device=vectors.device)

        return cls(zeros(student.left), None if student.right is None else zeros(student.right))


def _blocks(student: Tensor, weights: Tensor, keys: Tensor | None) -> Iterator[tuple[slice, slice, int]]:
    """Slices of outer and inner, and how many rows of them have a weight or are seen."""
    outer, inner, rows, _ = student.shape
    room = BLOCK.get(student.device.type, BLOCK["cuda"])
    together = max(1, room // (4 * max(1, rows) ** 2))
    many, some = max(1, together // max(1, inner)), min(inner, together)
    counts = _rows_used(weights, keys, rows)
    for start in range(0, outer, many):
        used = max(counts[start : start + many])
        for first in range(0, inner if used else 0, some):
            yield slice(start, start + many), slice(first, first + some), used


def _rows_used(weights: Tensor, keys: Tensor | None, rows: int) -> list[int]:
    if weights.device.type != "cpu":
        return [rows] * len(weights)  # counting would wait for the device
    used = weights != 0 if keys is None else (weights != 0) | keys
    counts: list[int] = (used * torch.arange(1, rows + 1)).amax(1).tolist()
    return counts


def _block(
    teacher: Related,
    student: Related,
    part: tuple[slice, slice, slice],
    weights: Tensor,
    keys: Tensor | None,
    gradients: _Gradients | None,
    number: torch.dtype,
) -> Tensor:
    """One block's loss; adds its gradient where one is wanted.

    Everything of [relations, rows, rows] is written in place: t becomes t - max, s the same, then s the gradient.
    """
    known, known_right = _vectors(teacher, part, number)
    left, right = _vectors(student, part, number)
    relations, rows, _ = left.shape
    weights = weights[:, None].expand(-1, relations // len(weights), -1).reshape(relations, rows)
    mask = None
    if keys is not None and not (keys.device.type == "cpu" and bool(keys.all())):
        mask = ~keys[:, None].expand(-1, relations // len(keys), -1).reshape(relations, 1, rows)
    t, s = _scores(known, known_right, mask), _scores(left, right, mask)
    p = t.exp()
    teacher_sum = p.sum(-1, keepdim=True)
    p.mul_(teacher_sum.reciprocal())
    loss = torch.linalg.vecdot(t.sub_(s), p)
    student_sum = s.exp_().sum(-1, keepdim=True)
    loss = torch.sum((loss + (student_sum.log() - teacher_sum.log()).squeeze(-1)) * weights)
    if gradients is not None:
        slope = s.mul_(student_sum.reciprocal()).sub_(p)
        _add_gradient(gradients, part, slope, left, right, weights[..., None] / math.sqrt(left.shape[-1]))
    return loss


def _vectors(related: Related, part: tuple[slice, slice, slice], number: torch.dtype) -> tuple[Tensor, Tensor]:
    left = related.left[part].to(number).flatten(0, 1)
    return left, left if related.right is None else related.right[part].to(number).flatten(0, 1)


def _scores(left: Tensor, right: Tensor, mask: Tensor | None) -> Tensor:
    """[relations, rows, rows], each row's largest 0, a masked key's the lowest number: its exponential is 0."""
    scores = torch.bmm(left * left.shape[-1] ** -0.5, right.transpose(1, 2))
    if mask is not None:
        scores.masked_fill_(mask, torch.finfo(scores.dtype).min)
    return scores.sub_(scores.amax(-1, keepdim=True))


def _add_gradient(
    gradients: _Gradients, part: tuple[slice, slice, slice], slope: Tensor, left: Tensor, right: Tensor, scale: Tensor
) -> None:
    """Adds scale * slope @ right to the left's gradient, and slope^T @ (scale * left) to the right's."""
    # Narrow factors lie width by rows in memory: on a CPU these products are several times faster that way.
    own = torch.bmm(slope, _by_width(right).transpose(1, 2)).mul_(scale)
    other = torch.bmm(_by_width(left * scale), slope).transpose(1, 2)
    target = gradients.left[part]
    if gradients.right is None:
        target.copy_(own.add_(other).view(target.shape))
    else:
        target.copy_(own.view(target.shape))
        gradients.right[part].copy_(other.reshape(target.shape))


def _by_width(vectors: Tensor) -> Tensor:
    return vectors.transpose(1, 2).contiguous()


def _once(gradient: Tensor, factor: Tensor, vectors: Tensor) -> Tensor:
    if torch.is_grad_enabled():
        return cast(Tensor, _Once.apply(gradient, factor, vectors))  # type: ignore[no-untyped-call]
    return gradient.mul_(factor)


class _Once(torch.autograd.Function):
    """A gradient that depends on the vectors, and refuses to say how."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, factor: Tensor, vectors: Tensor) -> Tensor:
        return gradient * factor

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        raise TrainingError(
            "A second derivative of a relation loss is asked for, and there is none: its gradient is computed with it."
        )
