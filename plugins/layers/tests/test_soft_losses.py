"""Losses between logits, temperatures a row, weights over time and probability shift, against NumPy in float64."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from potstill_layers import schedules, soft

from potstill.errors import ShapeError

Array = npt.NDArray[np.float64]

cases = st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(2, 5))  # seed, rows, classes


def drawn(seed: int, rows: int, classes: int) -> tuple[Array, Array, Array]:
    """Logits of both sides, and a temperature for every row."""
    generator = np.random.default_rng(seed)
    shape = (rows, classes)
    return generator.normal(0, 2, shape), generator.normal(0, 2, shape), generator.uniform(0.5, 9, rows)


def softmax(row: Array) -> Array:
    exponentials = np.exp(row - row.max())
    return exponentials / exponentials.sum()


@settings(deadline=None, max_examples=30)
@given(cases)
def test_kd_ce_has_a_temperature_of_its_own_for_every_row(case: tuple[int, int, int]) -> None:
    student, teacher, temperature = drawn(*case)
    rows = [
        -(softmax(t / tau) @ np.log(softmax(s / tau))) for s, t, tau in zip(student, teacher, temperature, strict=True)
    ]
    at = torch.tensor(student, requires_grad=True)
    plain = soft.kd_ce(at, torch.tensor(teacher), torch.tensor(temperature), t_squared=False)
    scaled = soft.kd_ce(at, torch.tensor(teacher), torch.tensor(temperature))
    assert plain.item() == pytest.approx(np.mean(rows), rel=1e-10)
    assert scaled.item() == pytest.approx(np.mean(rows * temperature**2), rel=1e-10)
    pull = [
        tau * (softmax(s / tau) - softmax(t / tau)) for s, t, tau in zip(student, teacher, temperature, strict=True)
    ]
    assert torch.autograd.grad(scaled, at)[0].numpy() == pytest.approx(np.array(pull) / len(student), abs=1e-10)


@settings(deadline=None, max_examples=30)
@given(cases)
def test_kd_mse_is_the_mean_square_of_softened_logits(case: tuple[int, int, int]) -> None:
    student, teacher, temperature = drawn(*case)
    at = torch.tensor(student, requires_grad=True)
    found = soft.kd_mse(at, torch.tensor(teacher), torch.tensor(temperature))
    apart = (student - teacher) / temperature[:, None]
    assert found.item() == pytest.approx(np.mean(apart**2), rel=1e-10)
    assert torch.autograd.grad(found, at)[0].numpy() == pytest.approx(
        2 * apart / temperature[:, None] / apart.size, abs=1e-12
    )
    assert soft.kd_mse(at, torch.tensor(teacher), 3.0, t_squared=True).item() == pytest.approx(
        np.mean((student - teacher) ** 2), rel=1e-10
    )


def test_yes_no_labels_are_compared_one_by_one() -> None:
    student, teacher = np.array([[0.3, -2.0]]), np.array([[1.0, 4.0]])
    p, q = 1 / (1 + np.exp(-teacher / 2)), 1 / (1 + np.exp(-student / 2))
    want = 4 * -(p * np.log(q) + (1 - p) * np.log(1 - q)).sum()
    found = soft.kd_ce(torch.tensor(student), torch.tensor(teacher), 2.0, kind="bernoulli")
    assert found.item() == pytest.approx(want, rel=1e-12)


@settings(deadline=None, max_examples=30)
@given(cases)
def test_a_row_that_is_far_from_the_teacher_gets_a_lower_temperature(case: tuple[int, int, int]) -> None:
    student, teacher, _ = drawn(*case)
    norms = (np.linalg.norm(student, axis=1) + 1e-4) * (np.linalg.norm(teacher, axis=1) + 1e-4)
    apart = np.array([(1 - s @ t / n) for s, t, n in zip(student, teacher, norms, strict=True)])
    weights = schedules.flsw_weights(torch.tensor(student), torch.tensor(teacher), 2.0)
    assert weights.numpy() == pytest.approx(apart**2, rel=1e-9, abs=1e-12)
    found = schedules.row_temperatures(8.0, weights, 1.5, lowest=None).numpy()
    assert found == pytest.approx(8 + 1.5 * ((apart**2).mean() - apart**2), rel=1e-9)
    assert found.argmin() == apart.argmax()


def test_an_unsure_row_gets_a_lower_temperature() -> None:
    student = torch.log(torch.tensor([[0.9, 0.05, 0.05], [0.4, 0.3, 0.3]], dtype=torch.float64))
    weights = schedules.cwsm_weights(student)
    assert weights.tolist() == pytest.approx([1 / 0.901, 1 / 0.401])
    sure, unsure = schedules.row_temperatures(4.0, weights, 1.0, lowest=1.0).tolist()
    assert (sure - 4, unsure - 4) == pytest.approx(((1 / 0.401 - 1 / 0.901) / 2, -(1 / 0.401 - 1 / 0.901) / 2))


def test_temperatures_stay_at_the_lowest_allowed_and_fall_below_zero_where_the_reference_is_asked_for() -> None:
    weights = torch.tensor([0.0, 0.0, 12.0])
    assert schedules.row_temperatures(4.0, weights, 1.0, lowest=1.0).tolist() == [8.0, 8.0, 1.0]
    assert schedules.row_temperatures(4.0, weights, 1.0, lowest=None).tolist() == [8.0, 8.0, -4.0]


def test_equal_logits_have_a_finite_weight_for_any_gamma() -> None:
    logits = torch.full((1, 7), 1e4)
    assert schedules.flsw_weights(logits, logits, 0.5).isfinite().all()


@pytest.mark.parametrize(
    ("schedule", "weights"),
    [("constant", [3.0, 3.0, 3.0]), ("linear_decay", [3.0, 2.25, 0.75]), ("linear_growth", [0.0, 0.75, 2.25])],
)
def test_a_weight_schedule_multiplies_the_weight(schedule: schedules.WeightSchedule, weights: list[float]) -> None:
    assert [schedules.scheduled(3.0, schedule, done / 4) for done in (0, 1, 3)] == weights


@pytest.mark.parametrize(
    ("schedule", "weights"),
    [("constant", [3.0, 3.0, 3.0]), ("linear_decay", [3.0, 0.75, 0.25]), ("linear_growth", [3.0, 0.25, 0.75])],
)
def test_a_weight_schedule_replaces_the_weight_after_the_first_update_where_asked(
    schedule: schedules.WeightSchedule, weights: list[float]
) -> None:
    assert [schedules.scheduled(3.0, schedule, done / 4, replaces=True) for done in (0, 1, 3)] == weights


def test_probability_shift_exchanges_the_largest_logit_with_the_label_s() -> None:
    teacher = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [0.0, 5.0, 1.0]])
    before = teacher.clone()
    shifted = soft.probability_shift(teacher, torch.tensor([2, -100, 1]))
    assert shifted.tolist() == [[2.0, 1.0, 3.0], [3.0, 1.0, 2.0], [0.0, 5.0, 1.0]]
    assert torch.equal(teacher, before)
    sequences = soft.probability_shift(teacher[None], torch.tensor([[2, -100, 1]]))
    assert torch.equal(sequences, shifted[None])


def test_other_classes_are_one_sentence() -> None:
    with pytest.raises(ShapeError, match=r"teacher's logits are \[2, 7\] and the student's \[2, 4\]"):
        soft.kd_ce(torch.ones(2, 4), torch.ones(2, 7), 1.0)


def test_half_precision_is_widened() -> None:
    student, teacher = torch.randn(4, 5).half(), torch.randn(4, 5).half()
    for loss in (soft.kd_ce, soft.kd_mse):
        assert loss(student, teacher, 2.0).dtype == torch.float32
    assert math.isfinite(float(schedules.cwsm_weights(student).sum()))
