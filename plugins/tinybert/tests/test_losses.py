"""TinyBERT's losses against plain NumPy formulas in float64, values and gradients, on rows of uneven lengths."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from potstill_tinybert import losses
from torch import Tensor

from potstill.errors import ShapeError

Array = npt.NDArray[np.float64]

cases = st.tuples(
    st.integers(0, 2**32 - 1),  # seed
    st.lists(st.integers(1, 6), min_size=1, max_size=4),  # lengths
    st.integers(1, 4),  # heads, or width
)

LOWEST = torch.finfo(torch.float64).min


def mask_of(lengths: list[int]) -> Tensor:
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()


def drawn(seed: int, *shape: int) -> tuple[Array, Array]:
    generator = np.random.default_rng(seed)
    return generator.normal(0, 3, shape), generator.normal(0, 3, shape)


def masked(scores: Array, mask: Tensor) -> Tensor:
    """Scores as a model gives them: keys that are padding have the lowest number, queries that are have numbers."""
    return torch.tensor(scores).masked_fill(mask[:, None, None] == 0, LOWEST)


@settings(deadline=None)
@given(cases)
def test_hidden_mse_is_the_mean_over_tokens_and_padding_counts_neither_way(case: tuple[int, list[int], int]) -> None:
    seed, lengths, width = case
    student, teacher = drawn(seed, len(lengths), max(lengths), width)
    learnt = torch.tensor(student, requires_grad=True)
    value = losses.hidden_mse(learnt, torch.tensor(teacher), mask_of(lengths))
    apart = [student[row, :length] - teacher[row, :length] for row, length in enumerate(lengths)]
    count = sum(lengths) * width
    assert value.item() == pytest.approx(sum((part**2).sum() for part in apart) / count, rel=1e-10)
    value.backward()
    wanted = np.zeros_like(student)
    for row, length in enumerate(lengths):
        wanted[row, :length] = 2 * apart[row] / count
    assert learnt.grad is not None
    np.testing.assert_allclose(learnt.grad.numpy(), wanted, rtol=1e-9, atol=1e-14)


@settings(deadline=None)
@given(cases)
def test_attention_mse_is_the_mean_over_pairs_of_tokens_of_a_row(case: tuple[int, list[int], int]) -> None:
    seed, lengths, heads = case
    student, teacher = drawn(seed, len(lengths), heads, max(lengths), max(lengths))
    mask = mask_of(lengths)
    learnt = masked(student, mask).requires_grad_(True)
    value = losses.attention_mse(learnt, masked(teacher, mask), mask)
    apart = [student[i, :, :n, :n] - teacher[i, :, :n, :n] for i, n in enumerate(lengths)]
    count = heads * sum(length**2 for length in lengths)
    assert value.item() == pytest.approx(sum((part**2).sum() for part in apart) / count, rel=1e-10)
    value.backward()
    wanted = np.zeros_like(student)
    for i, n in enumerate(lengths):
        wanted[i, :, :n, :n] = 2 * apart[i] / count
    assert learnt.grad is not None
    np.testing.assert_allclose(learnt.grad.numpy(), wanted, rtol=1e-9, atol=1e-14)


@settings(deadline=None)
@given(cases)
def test_the_reference_s_attention_loss_zeroes_masked_keys_and_counts_them(case: tuple[int, list[int], int]) -> None:
    seed, lengths, heads = case
    student, teacher = drawn(seed, len(lengths), heads, max(lengths), max(lengths))
    student[0, 0, 0, 0] = -100.0
    mask = mask_of(lengths)
    value = losses.attention_mse(masked(student, mask), masked(teacher, mask), mask, padding="reference")
    kept = mask[:, None, None].numpy() == 1
    zeroed = np.where(kept & (student > -100), student, 0) - np.where(kept & (teacher > -100), teacher, 0)
    assert value.item() == pytest.approx((zeroed**2).mean(), rel=1e-10)


def test_padding_that_is_nan_or_changes_leaves_value_and_gradient_alone() -> None:
    mask = mask_of([2, 4])
    student, teacher = (torch.tensor(side) for side in drawn(1, 2, 4, 3))
    value = losses.hidden_mse(student, teacher, mask)
    broken = student.masked_fill(mask[..., None] == 0, float("nan")).requires_grad_(True)
    losses.hidden_mse(broken, teacher, mask).backward()
    assert losses.hidden_mse(broken, teacher, mask).item() == pytest.approx(value.item(), rel=1e-14)
    assert broken.grad is not None
    assert broken.grad.isfinite().all()


def test_a_key_that_one_side_does_not_see_adds_nothing() -> None:
    mask = mask_of([3])
    student, teacher = (torch.tensor(side) for side in drawn(2, 1, 1, 3, 3))
    window = teacher.clone()
    window[0, 0, 0, 2] = LOWEST
    every = losses.attention_mse(student, teacher, mask) * 9
    seen = every - (student - teacher)[0, 0, 0, 2] ** 2
    assert losses.attention_mse(student, window, mask).item() == pytest.approx(seen.item() / 9, rel=1e-10)


@pytest.mark.parametrize("kind", ["categorical", "bernoulli"])
@pytest.mark.parametrize("temperature", [0.7, 1.0, 4.0])
def test_soft_ce_sums_over_classes_times_t_squared_and_the_reference_averages_without(
    kind: str, temperature: float
) -> None:
    student, teacher = drawn(3, 5, 4)
    if kind == "bernoulli":
        p, q = (1 / (1 + np.exp(-side / temperature)) for side in (teacher, student))
        crossed = -(p * np.log(q) + (1 - p) * np.log(1 - q))
    else:
        p, q = (np.exp(side / temperature) for side in (teacher, student))
        crossed = -p / p.sum(1, keepdims=True) * np.log(q / q.sum(1, keepdims=True))
    sides = torch.tensor(student), torch.tensor(teacher)
    value = losses.soft_ce(*sides, temperature, kind=kind)  # type: ignore[arg-type]
    reference = losses.soft_ce(*sides, temperature, reduction="reference", kind=kind)  # type: ignore[arg-type]
    assert value.item() == pytest.approx(crossed.sum() / 5 * temperature**2, rel=1e-10)
    assert reference.item() == pytest.approx(crossed.mean(), rel=1e-10)


def test_the_gradient_of_soft_ce_is_t_times_the_gap_of_the_probabilities() -> None:
    student, teacher = (torch.tensor(side) for side in drawn(4, 3, 4))
    student.requires_grad_(True)
    losses.soft_ce(student, teacher, 5.0).backward()
    wanted = 5.0 * ((student / 5).softmax(-1) - (teacher / 5).softmax(-1)) / 3
    torch.testing.assert_close(student.grad, wanted)


@pytest.mark.parametrize("padding", ["excluded", "reference"])
def test_half_precision_is_widened(padding: losses.Padding) -> None:
    mask = mask_of([2, 3])
    hidden = [torch.tensor(side).bfloat16() for side in drawn(5, 2, 3, 4)]
    scores = [masked(side, mask).bfloat16() for side in drawn(6, 2, 2, 3, 3)]
    for loss, (student, teacher) in ((losses.hidden_mse, hidden), (losses.attention_mse, scores)):
        value = loss(student, teacher, mask, padding=padding)
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(loss(student.double(), teacher.double(), mask, padding=padding).item())
    logits = [torch.tensor(side).bfloat16() for side in drawn(7, 3, 2)]
    assert losses.soft_ce(logits[0], logits[1], 2.0).dtype == losses.value_mse(*logits).dtype == torch.float32


def test_scores_of_half_precision_models_are_known_as_masked() -> None:
    mask = mask_of([2, 3])
    for dtype in (torch.float16, torch.bfloat16):
        student, teacher = (torch.tensor(side).to(dtype) for side in drawn(8, 2, 2, 3, 3))
        hidden = mask[:, None, None] == 0
        sides = [side.masked_fill(hidden, torch.finfo(dtype).min) for side in (student, teacher)]
        value = losses.attention_mse(*sides, mask)
        assert value.item() == pytest.approx(losses.attention_mse(student, teacher, mask).item(), rel=1e-6)


def test_what_does_not_fit_is_one_sentence() -> None:
    mask = mask_of([3, 3])
    with pytest.raises(ShapeError, match="teacher has 12 attention heads and the student 4"):
        losses.attention_mse(torch.zeros(2, 4, 3, 3), torch.zeros(2, 12, 3, 3), mask)
    with pytest.raises(ShapeError, match=r"scores are \[2, 4, 5, 5\] and the student's \[2, 4, 3, 3\]"):
        losses.attention_mse(torch.zeros(2, 4, 3, 3), torch.zeros(2, 4, 5, 5), mask)
    with pytest.raises(ShapeError, match="a projection has to lead"):
        losses.hidden_mse(torch.zeros(2, 3, 4), torch.zeros(2, 3, 8), mask)
    with pytest.raises(ShapeError, match=r"predictions are \[2, 3\] and the student's \[2, 4\]"):
        losses.soft_ce(torch.zeros(2, 4), torch.zeros(2, 3), 1.0)
    with pytest.raises(ShapeError):
        losses.value_mse(torch.zeros(2, 1), torch.zeros(2))
