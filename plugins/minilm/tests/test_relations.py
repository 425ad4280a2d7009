"""The loss over relations and its gradient, against the formula written out in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from potstill_minilm import relations
from potstill_minilm.relations import Related, relation_kl
from torch import Tensor

from potstill.errors import ShapeError, TrainingError


def plain(teacher: Related, student: Related, weights: Tensor, keys: Tensor | None = None) -> Tensor:
    """The formula, with every relation held."""

    def log_relation(related: Related) -> Tensor:
        right = related.left if related.right is None else related.right
        scores = related.left.double() @ right.double().transpose(-1, -2) / related.left.shape[-1] ** 0.5
        if keys is not None:
            scores = scores.masked_fill(~keys[:, None, None, :].bool(), -1e30)
        return F.log_softmax(scores, -1)

    known, learnt = log_relation(teacher), log_relation(student)
    rows = (known.exp() * (known - learnt)).sum(-1)
    return (rows * weights[:, None].double()).sum()


def vectors(outer: int, inner: int, rows: int, width: int, number: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(outer, inner, rows, width, dtype=number)


def ragged(outer: int, rows: int) -> Tensor:
    lengths = torch.randint(1, rows + 1, (outer, 1))
    return torch.arange(rows) < lengths


@pytest.mark.parametrize("block", [1, 3000, 2**20])
@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_value_and_gradient_are_the_formulas_in_blocks_of_any_size(
    block: int, pairs: bool, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(relations.BLOCK, "cpu", block)
    outer, inner, rows = 4, 3, 9
    keys = ragged(outer, rows) if masked else None
    weights = torch.rand(outer, rows, dtype=torch.float64) * (1 if keys is None else keys)
    teacher = Related(vectors(outer, inner, rows, 5), vectors(outer, inner, rows, 5) if pairs else None)
    inputs = [vectors(outer, inner, rows, 7).requires_grad_() for _ in range(1 + pairs)]
    got, want = (loss(teacher, Related(*inputs), weights, keys) for loss in (relation_kl, plain))
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-13)
    mine, theirs = (torch.autograd.grad(loss * 3, inputs) for loss in (got, want))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)


def test_queries_of_padding_count_where_they_have_a_weight() -> None:
    keys = torch.tensor([[True, True, False, False]])
    weights = torch.full((1, 4), 0.25)
    teacher, student = Related(vectors(1, 2, 4, 3)), Related(vectors(1, 2, 4, 3))
    got = relation_kl(teacher, student, weights, keys)
    torch.testing.assert_close(got, plain(teacher, student, weights, keys), rtol=1e-12, atol=0)
    assert not torch.allclose(got, plain(teacher, student, weights * keys, keys))


def test_a_row_without_any_key_gives_no_nan() -> None:
    keys = torch.tensor([[False, False], [True, True]])
    student = vectors(2, 2, 2, 3).requires_grad_()
    loss = relation_kl(Related(vectors(2, 2, 2, 3)), Related(student), keys.double(), keys)
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert (student.grad[0] == 0).all()


@pytest.mark.parametrize("number", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_is_widened_and_gets_a_gradient_of_its_own_kind(number: torch.dtype) -> None:
    weights = torch.rand(2, 6)
    teacher, student = vectors(2, 2, 6, 4, number), vectors(2, 2, 6, 4, number).requires_grad_()
    loss = relation_kl(Related(teacher), Related(student), weights)
    exact = student.detach().double().requires_grad_()
    want = plain(Related(teacher.double()), Related(exact), weights)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), want, rtol=1e-5, atol=1e-6)
    [mine], [theirs] = torch.autograd.grad(loss, student), torch.autograd.grad(want, exact)
    assert mine.dtype == number
    torch.testing.assert_close(mine.double(), theirs, rtol=1e-2, atol=1e-2 if number != torch.float32 else 1e-5)


def test_autocast_does_not_reach_the_scores() -> None:
    teacher, student, weights = vectors(1, 2, 5, 4), vectors(1, 2, 5, 4), torch.rand(1, 5)
    with torch.autocast("cpu", torch.bfloat16):
        loss = relation_kl(Related(teacher), Related(student), weights)
    torch.testing.assert_close(loss, plain(Related(teacher), Related(student), weights), rtol=1e-12, atol=1e-13)


def test_a_second_derivative_is_refused_in_a_sentence() -> None:
    student = vectors(1, 1, 3, 2).requires_grad_()
    loss = relation_kl(Related(vectors(1, 1, 3, 2)), Related(student), torch.ones(1, 3))
    [gradient] = torch.autograd.grad(loss, student, create_graph=True)
    with pytest.raises(TrainingError, match="A second derivative of a relation loss is asked for"):
        gradient.sum().backward()


def test_a_gradient_is_kept_for_one_backward_pass() -> None:
    student = vectors(1, 1, 3, 2).requires_grad_()
    loss = relation_kl(Related(vectors(1, 1, 3, 2)), Related(student), torch.ones(1, 3))
    loss.backward(retain_graph=True)
    with pytest.raises(TrainingError, match="went backward twice"):
        loss.backward()


def test_the_teacher_gets_no_gradient() -> None:
    teacher = vectors(1, 1, 3, 2).requires_grad_()
    loss = relation_kl(Related(teacher), Related(vectors(1, 1, 3, 2)), torch.ones(1, 3))
    assert not loss.requires_grad


def test_other_rows_are_refused() -> None:
    with pytest.raises(ShapeError, match="only the last number, their width, may differ"):
        relation_kl(Related(vectors(1, 2, 3, 2)), Related(vectors(1, 1, 3, 2)), torch.ones(1, 3))
