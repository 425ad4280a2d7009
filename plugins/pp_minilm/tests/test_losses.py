"""PP-MiniLM's three relations against the formula written out, values and gradients, with padding of every kind."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from potstill_pp_minilm.losses import Mode, Relation, relation_loss, vectors_loss
from torch import Tensor

from potstill.errors import ShapeError
from potstill.features import Projections

MASKS = {
    "no padding": torch.ones(3, 5),
    "ragged": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]),
    "left": torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 1, 1]]),
    "one row": torch.tensor([[1, 1, 1, 0]]),
}
SHAPES = [((4, 6), (2, 3), 6), ((2, 4), (4, 2), 4), ((3, 4), (3, 2), 1)]
"""Heads and widths of the teacher and the student, and relation heads."""


def formula(teacher: Tensor, student: Tensor, relation: Relation, mask: Tensor, heads: int, mode: Mode) -> Tensor:
    """The loss as written: every relation held, every row's KL, the counted ones summed and divided."""
    (rows, length), seen = mask.shape, mask.bool()

    def log_relation(x: Tensor) -> Tensor:
        x = x.transpose(1, 2).reshape(rows, length, heads, -1)  # [B, L, R, d]
        if relation == "head":
            scores = torch.einsum("blrd,blsd->blrs", x, x)
        elif relation == "token":
            scores = torch.einsum("blrd,bmrd->blrm", x, x).masked_fill(~seen[:, None, None], -1e30)
        else:
            scores = torch.einsum("blrd,clrd->blrc", x, x)
            if mode == "corrected":
                scores = scores.masked_fill(~seen.T[None, :, None], -1e30)
        return F.log_softmax(scores / x.shape[-1] ** 0.5, -1)

    known, learnt = log_relation(teacher), log_relation(student)
    divergence = (known.exp() * (known - learnt)).sum(-1)  # [B, L, R]
    return divergence[seen].mean() if mode == "corrected" else divergence.mean()


@pytest.mark.parametrize("mode", get_args(Mode))
@pytest.mark.parametrize("relation", get_args(Relation))
@pytest.mark.parametrize("padding", MASKS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value_and_gradient_are_the_formulas(
    shape: tuple[tuple[int, int], tuple[int, int], int], padding: str, relation: Relation, mode: Mode
) -> None:
    (numbers, widths, heads), mask = shape, MASKS[padding]
    rows, length = mask.shape
    teacher = torch.randn(rows, numbers[0], length, numbers[1], dtype=torch.float64)
    student = torch.randn(rows, widths[0], length, widths[1], dtype=torch.float64).requires_grad_()
    got, want = (loss(teacher, student, relation, mask, heads, mode) for loss in (vectors_loss, formula))
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-13)
    [mine], [theirs] = (torch.autograd.grad(loss, student) for loss in (got, want))
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-13)


def projections(rows: int, length: int, width: int = 3) -> Projections:
    return Projections(*(torch.randn(rows, 2, length, width, dtype=torch.float64) for _ in range(3)))


@pytest.mark.parametrize("relation", get_args(Relation))
def test_in_corrected_mode_padding_changes_nothing(relation: Relation) -> None:
    teacher, student = projections(3, 4), projections(3, 4)
    want = relation_loss(teacher, student, relation, torch.ones(3, 4), 2, "corrected")
    padded = [Projections(*(F.pad(x, (0, 0, 0, 2), value=7.0) for x in side)) for side in (teacher, student)]
    got = relation_loss(padded[0], padded[1], relation, F.pad(torch.ones(3, 4), (0, 2)), 2, "corrected")
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)


@pytest.mark.parametrize("relation", ["head", "sample"])
def test_in_reference_mode_the_mask_does_nothing_among_heads_and_samples(relation: Relation) -> None:
    teacher, student = projections(3, 5), projections(3, 5)
    one, other = (relation_loss(teacher, student, relation, MASKS[p], 2, "reference") for p in ("ragged", "no padding"))
    assert one == other


@pytest.mark.parametrize("mode", get_args(Mode))
def test_one_row_has_no_other_samples(mode: Mode) -> None:
    assert relation_loss(projections(1, 4), projections(1, 4), "sample", MASKS["one row"], 2, mode) == 0


@pytest.mark.parametrize("relation", get_args(Relation))
def test_a_batch_without_a_token_gives_0(relation: Relation) -> None:
    assert relation_loss(projections(2, 3), projections(2, 3), relation, torch.zeros(2, 3), 2, "corrected") == 0


def test_heads_that_divide_no_width_are_refused() -> None:
    with pytest.raises(ShapeError, match="relation_heads = 4 does not divide the teacher's width 6"):
        vectors_loss(torch.randn(1, 2, 4, 3), torch.randn(1, 2, 4, 4), "head", MASKS["one row"], 4, "corrected")


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="mode = 'wrong' is none of corrected, reference"):
        relation_loss(projections(1, 4), projections(1, 4), "head", MASKS["one row"], 2, "wrong")  # type: ignore[arg-type]
