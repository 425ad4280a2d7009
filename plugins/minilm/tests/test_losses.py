"""MiniLM's losses: how rows are weighed, how heads are split, what is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from potstill_minilm.losses import Normalisation, common_heads, pair_loss, row_weights
from torch import Tensor

from potstill.errors import ShapeError
from potstill.features import Projections

MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])


def projections(heads: int, width: int, *, grad: bool = False) -> Projections:
    made = [torch.randn(3, heads, 5, width, dtype=torch.float64).requires_grad_(grad) for _ in range(3)]
    return Projections(*made)


def by_rows(teacher: Projections, student: Projections, pair: str, heads: int) -> list[Tensor]:
    """Row by row, cut to its tokens, with loops: [R, tokens] nats each."""

    def log_relation(side: Projections, row: int, length: int) -> Tensor:
        joined = [x[row].transpose(0, 1).flatten(1)[:length] for x in (side["qkv".index(letter)] for letter in pair)]
        left, right = (x.view(length, heads, -1).transpose(0, 1) for x in joined)
        return F.log_softmax(left @ right.transpose(1, 2) / left.shape[-1] ** 0.5, -1)

    found = []
    for row, length in enumerate(MASK.sum(1).tolist()):
        known, learnt = (log_relation(side, row, length) for side in (teacher, student))
        found.append((known.exp() * (known - learnt)).sum(-1))
    return found


@pytest.mark.parametrize("pair", ["qq", "kk", "vv", "qk", "kv"])
@pytest.mark.parametrize("heads", [1, 2, 6])
def test_a_pair_is_the_published_formula_row_by_row(pair: str, heads: int) -> None:
    teacher, student = projections(4, 6), projections(2, 3, grad=True)
    rows = by_rows(teacher, student, pair, heads)
    wants = {"example": torch.stack([row.mean() for row in rows]).mean()}
    wants["token"] = torch.cat([row.sum(0) for row in rows]).mean() / heads
    for normalisation, want in wants.items():
        got = pair_loss(teacher, student, pair, MASK, heads, normalisation)  # type: ignore[arg-type]
        torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
        letters = [student["qkv".index(letter)] for letter in set(pair)]
        mine, theirs = (torch.autograd.grad(loss, letters, retain_graph=True) for loss in (got, want))
        for one, other in zip(mine, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("normalisation", ["example", "token", "all_rows"])
def test_weights_add_up_to_one(normalisation: Normalisation) -> None:
    assert row_weights(MASK, normalisation).sum() == pytest.approx(1)
    assert row_weights(MASK[:0], normalisation).shape == (0, 5)


def test_without_padding_all_normalisations_agree() -> None:
    teacher, student, mask = projections(2, 4), projections(2, 4), torch.ones(3, 5)
    values = [pair_loss(teacher, student, "qk", mask, 2, n) for n in ("example", "token", "all_rows")]
    assert values[0] == pytest.approx(float(values[1])) == pytest.approx(float(values[2]))


def test_heads_that_divide_no_width_are_refused() -> None:
    with pytest.raises(ShapeError, match="relation_heads = 4 does not divide the student's width 6"):
        pair_loss(projections(2, 4), projections(2, 3), "qq", MASK, 4)


def test_queries_and_keys_of_unequal_widths_make_no_pair() -> None:
    teacher = Projections(*(torch.randn(3, heads, 5, 4) for heads in (4, 2, 2)))
    with pytest.raises(ShapeError, match="The relation 'qk' needs queries, keys and values of one width; the teacher"):
        pair_loss(teacher, teacher, "qk", MASK, 2)
    assert pair_loss(teacher, teacher, "kv", MASK, 2).isfinite()


@pytest.mark.parametrize(
    ("teacher", "student", "most", "heads"), [(768, 384, 48, 48), (1024, 384, 64, 64), (256, 96, 48, 32)]
)
def test_the_default_is_the_largest_number_of_heads_that_fits_both(
    teacher: int, student: int, most: int, heads: int
) -> None:
    assert common_heads(teacher, student, most) == heads
