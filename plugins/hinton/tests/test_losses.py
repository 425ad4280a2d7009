"""The soft-target losses against a plain NumPy formula in float64, values and gradients."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from potstill_hinton import losses

from potstill.errors import ShapeError

Array = npt.NDArray[np.float64]

cases = st.tuples(
    st.integers(0, 2**32 - 1),  # seed
    st.integers(1, 9),  # rows
    st.integers(2, 12),  # classes
    st.floats(0.3, 30.0),  # temperature
)


def drawn(seed: int, rows: int, classes: int) -> tuple[Array, Array]:
    generator = np.random.default_rng(seed)
    return generator.normal(0, 3, (rows, classes)), generator.normal(0, 3, (rows, classes))


def softmax(logits: Array) -> Array:
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def sigmoid(logits: Array) -> Array:
    return 1 / (1 + np.exp(-logits))


def value_and_gradient(
    loss: str, student: Array, teacher: Array, temperature: float, **options: object
) -> tuple[float, Array]:
    logits = torch.tensor(student, requires_grad=True)
    value = losses.VARIANTS[loss](logits, torch.tensor(teacher), temperature, **options)
    value.backward()
    assert logits.grad is not None
    return value.item(), logits.grad.numpy()


@settings(deadline=None)
@given(cases)
def test_kl_is_t_squared_times_the_row_mean_of_the_sum_over_classes(case: tuple[int, int, int, float]) -> None:
    seed, rows, classes, t = case
    student, teacher = drawn(seed, rows, classes)
    p, q = softmax(teacher / t), softmax(student / t)
    value, gradient = value_and_gradient("kl", student, teacher, t)
    assert value == pytest.approx(t**2 * (p * np.log(p / q)).sum() / rows, rel=1e-9, abs=1e-12)
    np.testing.assert_allclose(gradient, t * (q - p) / rows, rtol=1e-9, atol=1e-12)


@settings(deadline=None)
@given(cases)
def test_soft_ce_has_the_gradient_of_kl_and_exceeds_it_by_t_squared_times_the_entropy(
    case: tuple[int, int, int, float],
) -> None:
    seed, rows, classes, t = case
    student, teacher = drawn(seed, rows, classes)
    p = softmax(teacher / t)
    kl, kl_gradient = value_and_gradient("kl", student, teacher, t)
    value, gradient = value_and_gradient("soft_ce", student, teacher, t)
    assert value - kl == pytest.approx(-(t**2) * (p * np.log(p)).sum() / rows, rel=1e-8, abs=1e-9)
    np.testing.assert_allclose(gradient, kl_gradient, rtol=1e-9, atol=1e-12)


@settings(deadline=None)
@given(cases)
def test_kl_mean_is_kl_over_the_number_of_classes(case: tuple[int, int, int, float]) -> None:
    seed, rows, classes, t = case
    student, teacher = drawn(seed, rows, classes)
    for t_squared in (True, False):
        kl, kl_gradient = value_and_gradient("kl", student, teacher, t, t_squared=t_squared)
        value, gradient = value_and_gradient("kl_mean", student, teacher, t, t_squared=t_squared)
        assert value == pytest.approx(kl / classes, rel=1e-12)
        np.testing.assert_allclose(gradient, kl_gradient / classes, rtol=1e-12, atol=1e-15)


@settings(deadline=None)
@given(cases)
def test_logit_mse_divides_the_logits_by_t_and_averages_elements(case: tuple[int, int, int, float]) -> None:
    seed, rows, classes, t = case
    student, teacher = drawn(seed, rows, classes)
    value, gradient = value_and_gradient("logit_mse", student, teacher, t)
    assert value == pytest.approx(((student - teacher) ** 2).sum() / t**2 / (rows * classes), rel=1e-10)
    np.testing.assert_allclose(gradient, 2 * (student - teacher) / t**2 / (rows * classes), rtol=1e-10)


@settings(deadline=None)
@given(cases)
def test_bernoulli_kl_sums_the_two_way_divergence_of_every_label(case: tuple[int, int, int, float]) -> None:
    seed, rows, labels, t = case
    student, teacher = drawn(seed, rows, labels)
    p, q = sigmoid(teacher / t), sigmoid(student / t)
    # 1 - p loses all its digits where p is near 1; sigmoid(-x) is the same number with them
    p_no, q_no = sigmoid(-teacher / t), sigmoid(-student / t)
    wanted = t**2 * (p * np.log(p / q) + p_no * np.log(p_no / q_no)).sum() / rows
    value, gradient = value_and_gradient("kl", student, teacher, t, kind="bernoulli")
    assert value == pytest.approx(wanted, rel=1e-10, abs=1e-12)
    np.testing.assert_allclose(gradient, t * (q - p) / rows, rtol=1e-9, atol=1e-12)


@settings(deadline=None)
@given(cases)
def test_span_kl_is_the_mean_of_start_and_end(case: tuple[int, int, int, float]) -> None:
    seed, rows, positions, t = case
    (start, end), (known_start, known_end) = drawn(seed, rows, positions), drawn(seed + 1, rows, positions)
    spans = [torch.tensor(logits) for logits in (start, end, known_start, known_end)]
    value = losses.span_kl((spans[0], spans[1]), (spans[2], spans[3]), t)
    both = [value_and_gradient("kl", *pair, t)[0] for pair in ((start, known_start), (end, known_end))]
    assert value.item() == pytest.approx(sum(both) / 2, rel=1e-12)


def test_kl_at_two_classes_is_what_pencil_and_paper_give() -> None:
    # Teacher (3/4, 1/4), student (1/2, 1/2) at T = 2: KL = 3/4 ln(3/2) + 1/4 ln(1/2), times 4.
    teacher = torch.tensor([[2 * math.log(3), 0.0]], dtype=torch.float64)
    wanted = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert losses.kl(torch.zeros_like(teacher), teacher, 2.0).item() == pytest.approx(wanted, rel=1e-14)


@pytest.mark.parametrize("loss", sorted(losses.VARIANTS))
@pytest.mark.parametrize("kind", ["categorical", "bernoulli"])
def test_huge_logits_stay_finite_in_value_and_gradient(loss: str, kind: str) -> None:
    student, teacher = np.array([[1e4, -1e4, 0.0]]), np.array([[-1e4, 1e4, 0.0]])
    value, gradient = value_and_gradient(loss, student, teacher, 1.0, kind=kind)
    assert math.isfinite(value)
    assert value > 0
    assert np.isfinite(gradient).all()


def test_half_precision_logits_are_widened_before_the_softmax() -> None:
    student, teacher = (torch.tensor(logits, dtype=torch.bfloat16) for logits in drawn(3, 4, 5))
    value = losses.kl(student, teacher, 4.0)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(losses.kl(student.double(), teacher.double(), 4.0).item(), rel=1e-5)


@pytest.mark.parametrize("loss", sorted(losses.VARIANTS))
def test_another_number_of_classes_is_one_clear_sentence(loss: str) -> None:
    with pytest.raises(ShapeError, match="teacher's logits have 3 classes and the student's 10"):
        losses.VARIANTS[loss](torch.zeros(6, 10), torch.zeros(6, 3), 2.0)


def test_another_number_of_rows_names_both_shapes() -> None:
    with pytest.raises(ShapeError, match=r"\[6, 3\] and the student's \[5, 3\]"):
        losses.kl(torch.zeros(5, 3), torch.zeros(6, 3), 2.0)
    with pytest.raises(ShapeError):
        losses.value_mse(torch.zeros(5, 1), torch.zeros(5))
