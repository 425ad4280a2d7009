"""The losses between attention scores against plain NumPy loops over rows, heads and tokens, values and gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from potstill_layers import attention
from torch import Tensor

from potstill.errors import ShapeError

Array = npt.NDArray[np.float64]
LOSSES = [attention.attention_mse, attention.attention_mse_sum, attention.attention_ce, attention.attention_ce_mean]
ANY_HEADS = [attention.attention_mse_sum, attention.attention_ce_mean]

cases = st.tuples(
    st.integers(0, 2**32 - 1),  # seed
    st.integers(1, 3),  # heads
    st.lists(st.integers(1, 4), min_size=1, max_size=3),  # lengths of the rows
    st.booleans(),  # whether there is a mask
)


def drawn(seed: int, lengths: list[int], *heads: int) -> list[Array]:
    """Scores of rows one position longer than the longest; padded keys hold scores like any other."""
    generator = np.random.default_rng(seed)
    padded = max(lengths) + 1
    return [generator.normal(0, 2, (len(lengths), count, padded, padded)) for count in heads]


def mask_of(lengths: list[int]) -> Tensor:
    return (torch.arange(max(lengths) + 1) < torch.tensor(lengths)[:, None]).long()


def counted(lengths: list[int], masked: bool) -> tuple[Tensor | None, list[int]]:
    return (mask_of(lengths), lengths) if masked else (None, [max(lengths) + 1] * len(lengths))


def softmax(row: Array) -> Array:
    exponentials = np.exp(row - row.max())
    return exponentials / exponentials.sum()


def mse(student: Array, teacher: Array, lengths: list[int]) -> float:
    """The mean square over pairs of tokens and heads."""
    parts = [(s[:, :n, :n] - t[:, :n, :n]) ** 2 for s, t, n in zip(student, teacher, lengths, strict=True)]
    return sum(part.sum() for part in parts) / sum(part.size for part in parts)


def cross_entropy(student: Array, teacher: Array, lengths: list[int]) -> float:
    """The mean over queries and heads of the cross-entropy over the keys that are tokens."""
    found = [
        -(softmax(t[head, query, :n]) @ np.log(softmax(s[head, query, :n])))
        for s, t, n in zip(student, teacher, lengths, strict=True)
        for head in range(s.shape[0])
        for query in range(n)
    ]
    return float(np.mean(found))


def check(loss: Callable[[Tensor], Tensor], formula: Callable[[Array], float], student: Array) -> None:
    """Value, and derivative in a random direction."""
    at = torch.tensor(student, requires_grad=True)
    value = loss(at)
    (gradient,) = torch.autograd.grad(value, at)
    along, step = np.random.default_rng(0).normal(size=student.shape), 1e-5
    slope = (formula(student + step * along) - formula(student - step * along)) / (2 * step)
    assert value.item() == pytest.approx(formula(student), rel=1e-10, abs=1e-12)
    assert float((gradient.numpy() * along).sum()) == pytest.approx(slope, rel=1e-4, abs=1e-7)


def reduced(scores: Array, how: str) -> Array:
    return getattr(scores, how)(axis=1, keepdims=True)  # type: ignore[no-any-return]


@settings(deadline=None, max_examples=25)
@given(cases)
def test_attention_mse_is_the_mean_square_over_pairs_of_tokens_and_heads(
    case: tuple[int, int, list[int], bool],
) -> None:
    seed, heads, lengths, masked = case
    student, teacher = drawn(seed, lengths, heads, heads)
    mask, kept = counted(lengths, masked)
    check(lambda s: attention.attention_mse(s, torch.tensor(teacher), mask), lambda s: mse(s, teacher, kept), student)


@settings(deadline=None, max_examples=25)
@given(cases)
def test_attention_mse_sum_compares_the_sums_over_any_number_of_heads(case: tuple[int, int, list[int], bool]) -> None:
    seed, heads, lengths, masked = case
    student, teacher = drawn(seed, lengths, heads, heads + 1)
    mask, kept = counted(lengths, masked)
    check(
        lambda s: attention.attention_mse_sum(s, torch.tensor(teacher), mask),
        lambda s: mse(reduced(s, "sum"), reduced(teacher, "sum"), kept),
        student,
    )


@settings(deadline=None, max_examples=25)
@given(cases)
def test_attention_ce_is_the_cross_entropy_over_the_keys_that_are_tokens(
    case: tuple[int, int, list[int], bool],
) -> None:
    seed, heads, lengths, masked = case
    student, teacher = drawn(seed, lengths, heads, heads)
    mask, kept = counted(lengths, masked)
    check(
        lambda s: attention.attention_ce(s, torch.tensor(teacher), mask),
        lambda s: cross_entropy(s, teacher, kept),
        student,
    )


@settings(deadline=None, max_examples=25)
@given(cases)
def test_attention_ce_mean_compares_the_means_over_any_number_of_heads(case: tuple[int, int, list[int], bool]) -> None:
    seed, heads, lengths, masked = case
    student, teacher = drawn(seed, lengths, heads, heads + 1)
    mask, kept = counted(lengths, masked)
    check(
        lambda s: attention.attention_ce_mean(s, torch.tensor(teacher), mask),
        lambda s: cross_entropy(reduced(s, "mean"), reduced(teacher, "mean"), kept),
        student,
    )


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("lowest", [-10_000.0, torch.finfo(torch.float32).min, float("-inf")])
def test_masked_keys_of_any_kind_count_for_nothing(loss: Callable[..., Tensor], lowest: float) -> None:
    lengths = [4, 2]
    student, teacher = (torch.tensor(scores, dtype=torch.float32) for scores in drawn(3, lengths, 3, 3))
    mask = mask_of(lengths)
    want = loss(student, teacher, mask)
    hidden = mask[:, None, None, :] == 0
    at = student.masked_fill(hidden, lowest).requires_grad_(True)
    value = loss(at, teacher.masked_fill(hidden, lowest), mask)
    assert value.item() == pytest.approx(want.item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(value, at)
    assert gradient.isfinite().all()
    assert not gradient.masked_select(hidden.expand_as(gradient)).any()


@pytest.mark.parametrize("loss", LOSSES)
def test_without_a_mask_masked_keys_give_finite_losses_and_no_gradient(loss: Callable[..., Tensor]) -> None:
    hidden = mask_of([4, 2])[:, None, None, :] == 0
    lowest = torch.finfo(torch.float32).min
    student, teacher = (
        torch.tensor(scores, dtype=torch.float32).masked_fill(hidden, lowest) for scores in drawn(3, [4, 2], 3, 3)
    )
    at = student.requires_grad_(True)
    value = loss(at, teacher)
    (gradient,) = torch.autograd.grad(value, at)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert not gradient.masked_select(hidden.expand_as(gradient)).any()


@pytest.mark.parametrize("loss", LOSSES)
def test_an_empty_mask_gives_no_loss_and_no_gradient(loss: Callable[..., Tensor]) -> None:
    student, teacher = (torch.tensor(scores, dtype=torch.float32) for scores in drawn(3, [2, 2], 2, 2))
    at = student.requires_grad_(True)
    value = loss(at, teacher, torch.zeros(2, 3, dtype=torch.long))
    assert value.item() == 0
    assert not torch.autograd.grad(value, at)[0].any()


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_is_widened(loss: Callable[..., Tensor]) -> None:
    student, teacher = (torch.tensor(scores).to(torch.float16) for scores in drawn(2, [4, 3], 4, 4))
    value = loss(student, teacher, mask_of([4, 3]))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(loss(student.double(), teacher.double(), mask_of([4, 3])).item(), rel=1e-5)


@pytest.mark.parametrize("loss", ANY_HEADS)
def test_textbrewer_without_a_mask_drops_every_negative_score(loss: Callable[..., Tensor]) -> None:
    student, teacher = (torch.tensor(scores) for scores in drawn(5, [3], 2, 2))
    ours, theirs = loss(student, teacher), loss(student, teacher, reference="textbrewer")
    assert ours.item() != pytest.approx(theirs.item(), rel=1e-3)
    above = [scores.abs() + 1 for scores in (student, teacher)]
    assert loss(*above).item() == pytest.approx(loss(*above, reference="textbrewer").item(), rel=1e-12)


@pytest.mark.parametrize(
    ("loss", "hint"),
    [
        (attention.attention_mse, "student has 2 heads and the teacher 3; attention_mse_sum"),
        (attention.attention_ce, "attention_ce_mean compares the means over heads"),
    ],
)
def test_unequal_heads_are_one_sentence_with_the_loss_that_takes_them(loss: Callable[..., Tensor], hint: str) -> None:
    with pytest.raises(ShapeError, match=hint):
        loss(torch.ones(1, 2, 4, 4), torch.ones(1, 3, 4, 4))
