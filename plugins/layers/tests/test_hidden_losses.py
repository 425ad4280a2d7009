"""The losses between hidden states against plain NumPy loops over rows and tokens in float64, values and gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from potstill_layers import gram, hidden

from potstill.errors import ShapeError

Array = npt.NDArray[np.float64]
Formula = Callable[[Array, list[int]], float]

cases = st.tuples(
    st.integers(0, 2**32 - 1),  # seed
    st.integers(1, 4),  # width
    st.lists(st.integers(1, 5), min_size=1, max_size=3),  # lengths of the rows
    st.booleans(),  # whether there is a mask
)


def drawn(seed: int, lengths: list[int], *widths: int) -> list[Array]:
    generator = np.random.default_rng(seed)
    return [generator.normal(0, 1, (len(lengths), max(lengths) + 1, width)) for width in widths]


def mask_of(lengths: list[int]) -> torch.Tensor:
    """One position more than the longest row has, so that there is padding everywhere."""
    return (torch.arange(max(lengths) + 1) < torch.tensor(lengths)[:, None]).long()


def slope(formula: Callable[[Array], float], at: Array, along: Array) -> float:
    step = 1e-5
    return (formula(at + step * along) - formula(at - step * along)) / (2 * step)


def check(loss: Callable[[torch.Tensor], torch.Tensor], formula: Callable[[Array], float], student: Array) -> None:
    """Value, and derivative in a random direction."""
    at = torch.tensor(student, requires_grad=True)
    value = loss(at)
    value.backward()
    along = np.random.default_rng(0).normal(size=student.shape)
    assert at.grad is not None
    assert value.item() == pytest.approx(formula(student), rel=1e-10, abs=1e-12)
    assert float((at.grad.numpy() * along).sum()) == pytest.approx(slope(formula, student, along), rel=1e-4, abs=1e-7)


def tokens(student: Array, teacher: Array, lengths: list[int]) -> list[tuple[Array, Array]]:
    """The vectors of all tokens, of both sides."""
    return [(student[row, place], teacher[row, place]) for row, length in enumerate(lengths) for place in range(length)]


def counted(lengths: list[int], masked: bool) -> tuple[torch.Tensor | None, list[int]]:
    """The mask, and the positions of each row that count."""
    return (mask_of(lengths), lengths) if masked else (None, [max(lengths) + 1] * len(lengths))


def cosine(one: Array, other: Array) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


@settings(deadline=None, max_examples=25)
@given(cases)
def test_hidden_mse_is_the_mean_square_over_tokens_and_width(case: tuple[int, int, list[int], bool]) -> None:
    seed, width, lengths, masked = case
    student, teacher = drawn(seed, lengths, width, width)
    mask, kept = counted(lengths, masked)
    check(
        lambda s: hidden.hidden_mse(s, torch.tensor(teacher), mask),
        lambda s: float(np.mean([(a - b) ** 2 for a, b in tokens(s, teacher, kept)])),
        student,
    )


@settings(deadline=None, max_examples=25)
@given(cases)
def test_cos_is_the_mean_of_one_minus_the_cosine_over_tokens(case: tuple[int, int, list[int], bool]) -> None:
    seed, width, lengths, masked = case
    student, teacher = drawn(seed, lengths, width, width)
    mask, kept = counted(lengths, masked)
    check(
        lambda s: hidden.cos(s, torch.tensor(teacher), mask),
        lambda s: float(np.mean([1 - cosine(a, b) for a, b in tokens(s, teacher, kept)])),
        student,
    )


@settings(deadline=None, max_examples=25)
@given(cases)
def test_pkd_is_the_squared_distance_of_the_first_token_s_directions(case: tuple[int, int, list[int], bool]) -> None:
    seed, width, lengths, masked = case
    student, teacher = drawn(seed, lengths, width, width)
    check(
        lambda s: hidden.pkd(s, torch.tensor(teacher), counted(lengths, masked)[0]),
        lambda s: float(np.mean([2 - 2 * cosine(a[0], b[0]) for a, b in zip(s, teacher, strict=True)])),
        student,
    )


@settings(deadline=None, max_examples=25)
@given(cases)
def test_fsp_compares_the_mean_outer_product_of_two_layers_over_a_row_s_tokens(
    case: tuple[int, int, list[int], bool],
) -> None:
    seed, width, lengths, masked = case
    student, second, teacher, other = drawn(seed, lengths, width, width + 1, width, width + 1)
    mask, kept = counted(lengths, masked)

    def flow(a: Array, b: Array, row: int) -> Array:
        return np.mean([np.outer(a[row, place], b[row, place]) for place in range(kept[row])], axis=0)

    check(
        lambda s: gram.fsp((s, torch.tensor(second)), (torch.tensor(teacher), torch.tensor(other)), mask),
        lambda s: float(
            np.mean([(flow(s, second, row) - flow(teacher, other, row)) ** 2 for row in range(len(lengths))])
        ),
        student,
    )


@settings(deadline=None, max_examples=25)
@given(cases)
def test_nst_compares_the_dot_products_of_all_pairs_of_a_row_s_tokens(case: tuple[int, int, list[int], bool]) -> None:
    seed, width, lengths, masked = case
    student, second, teacher, other = drawn(seed, lengths, width, width, width + 2, width + 2)
    mask, kept = counted(lengths, masked)

    def apart(s: Array, row: int, i: int, j: int) -> float:
        return float(s[row, i] @ second[row, j] / width - teacher[row, i] @ other[row, j] / (width + 2))

    check(
        lambda s: gram.nst((s, torch.tensor(second)), (torch.tensor(teacher), torch.tensor(other)), mask),
        lambda s: float(
            np.mean([apart(s, r, i, j) ** 2 for r, n in enumerate(kept) for i in range(n) for j in range(n)])
        ),
        student,
    )


def test_textbrewer_s_released_nst_divides_by_the_padded_length_where_there_is_a_mask() -> None:
    lengths, width = [3, 2], 5
    states = [torch.tensor(state) for state in drawn(4, lengths, width, width)]
    student, teacher = (states[0],) * 2, (states[1],) * 2
    ours, released = (gram.nst(student, teacher, mask_of(lengths), reference=name) for name in (None, "textbrewer"))
    padded = max(lengths) + 1
    assert released.item() == pytest.approx(ours.item() * (width / padded) ** 2, rel=1e-12)
    assert gram.nst(student, teacher, reference="textbrewer").item() == gram.nst(student, teacher).item()


SINGLE = [hidden.hidden_mse, hidden.cos, hidden.pkd]
DOUBLE = [gram.fsp, gram.nst]
EVERY = [*SINGLE, *(lambda s, t, mask, loss=loss: loss((s, s), (t, t), mask) for loss in DOUBLE)]


@pytest.mark.parametrize("loss", EVERY)
def test_an_empty_mask_and_a_zero_vector_give_finite_losses_and_gradients(loss: Callable[..., torch.Tensor]) -> None:
    student, teacher = torch.zeros(2, 3, 4, requires_grad=True), torch.ones(2, 3, 4)
    for mask in (torch.zeros(2, 3, dtype=torch.long), torch.tensor([[1, 1, 0], [0, 0, 0]])):
        value = loss(student, teacher, mask)
        (gradient,) = torch.autograd.grad(value, student)
        assert value.isfinite()
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 10


@pytest.mark.parametrize("loss", [EVERY[0], EVERY[1], EVERY[3], EVERY[4]])
def test_whatever_stands_in_padding_changes_neither_loss_nor_gradient(loss: Callable[..., torch.Tensor]) -> None:
    student, teacher = (torch.tensor(state) for state in drawn(9, [3, 1], 4, 4))
    mask = mask_of([3, 1])
    found = []
    for filler in (0.0, -7.0, 1e30):
        at = student.masked_fill(mask[..., None] == 0, filler).requires_grad_(True)
        value = loss(at, teacher, mask)
        found.append((value.item(), torch.autograd.grad(value, at)[0]))
    for value, gradient in found[1:]:
        assert value == found[0][0]
        assert torch.equal(gradient, found[0][1])


@pytest.mark.parametrize("loss", EVERY)
def test_half_precision_is_widened(loss: Callable[..., torch.Tensor]) -> None:
    student, teacher = (torch.tensor(state).to(torch.bfloat16) * 30 for state in drawn(2, [4, 3], 6, 6))
    value = loss(student, teacher, mask_of([4, 3]))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(loss(student.double(), teacher.double(), mask_of([4, 3])).item(), rel=1e-5)


@pytest.mark.parametrize("loss", EVERY[:4])
def test_unequal_widths_are_one_sentence(loss: Callable[..., torch.Tensor]) -> None:
    with pytest.raises(ShapeError, match="student's have 4 numbers and the teacher's 6; project the student's"):
        loss(torch.ones(2, 3, 4), torch.ones(2, 3, 6), None)
