"""The maths, against NumPy in float64 and against numbers that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from potstill_adversarial.perturbation import EXAMPLE, TABLE, ascended, direction, within
from torch import Tensor


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def unit(values: np.ndarray) -> np.ndarray:
    return values / np.sqrt((values**2).sum())


def test_a_table_has_one_norm_and_every_row_of_a_batch_its_own() -> None:
    table, output = normal(7, 5), normal(3, 4, 5)
    np.testing.assert_allclose(direction(table, TABLE).numpy(), unit(table.numpy()), rtol=1e-14)
    rows = np.stack([unit(row) for row in output.numpy()])
    np.testing.assert_allclose(direction(output, EXAMPLE).numpy(), rows, rtol=1e-14)


def test_three_and_four_make_five() -> None:
    assert direction(torch.tensor([[3.0, 0.0], [0.0, 4.0]]), TABLE).tolist() == [
        [pytest.approx(0.6), 0.0],
        [0.0, pytest.approx(0.8)],
    ]
    assert within(torch.tensor([[3.0, 0.0], [0.0, 4.0]]), 2.5, TABLE).tolist() == [[1.5, 0.0], [0.0, 2.0]]


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf"), -float("inf")])
def test_a_row_whose_gradient_is_zero_or_not_finite_is_not_moved_and_the_others_are(bad: float) -> None:
    gradient = normal(3, 4, 5)
    gradient[1] = 0.0 if bad == 0.0 else gradient[1]
    gradient[1, 2, 3] = bad
    moved = direction(gradient, EXAMPLE)
    assert not moved[1].any()
    torch.testing.assert_close(moved[[0, 2]], direction(gradient[[0, 2]], EXAMPLE), rtol=0, atol=0)
    assert direction(gradient[1], TABLE).isfinite().all()
    assert bool(direction(gradient[0], TABLE).any())


@pytest.mark.parametrize("scale", [1e-6, 1024.0, 65536.0])
def test_a_factor_of_the_loss_does_not_change_the_direction(scale: float) -> None:
    gradient = normal(3, 4, 5)
    torch.testing.assert_close(direction(scale * gradient, EXAMPLE), direction(gradient, EXAMPLE))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_gradient_s_own_numbers_are_kept_and_half_precision_does_not_overflow(dtype: torch.dtype) -> None:
    gradient = (300 * normal(50, 40)).to(dtype)  # its squares are beyond float16
    moved = direction(gradient, TABLE)
    assert moved.dtype == within(moved, 0.5, TABLE).dtype == dtype
    torch.testing.assert_close(moved.double(), direction(gradient.double(), TABLE), rtol=1e-2, atol=1e-5)


def test_a_shift_inside_the_ball_stays_and_one_outside_comes_back_to_its_surface_along_its_own_line() -> None:
    shifts = torch.stack([0.3 * direction(normal(4, 5, seed=seed), TABLE) for seed in range(3)])
    shifts[1] *= 5
    shifts[2] = 0
    back = within(shifts, 0.7, EXAMPLE)
    torch.testing.assert_close(back[[0, 2]], shifts[[0, 2]], rtol=0, atol=0)
    torch.testing.assert_close(back[1], 0.7 / 1.5 * shifts[1])


@given(st.floats(0.05, 3), st.floats(0.05, 3), st.integers(1, 6))
def test_ascending_never_leaves_the_ball(size: float, epsilon: float, steps: int) -> None:
    shift: Tensor | None = None
    for number in range(steps):
        shift = ascended(shift, normal(3, 4, 5, seed=number), size, epsilon, EXAMPLE)
        assert shift.flatten(1).norm(dim=1).max() <= epsilon * (1 + 1e-12)


def test_ascending_adds_a_step_and_projects_as_written_out_in_numpy() -> None:
    first, second = normal(6, 3, seed=1), normal(6, 3, seed=2)
    one = ascended(None, first, 0.4, 0.5, TABLE)
    two = ascended(one, second, 0.4, 0.5, TABLE)
    summed = 0.4 * unit(first.numpy()) + 0.4 * unit(second.numpy())
    length = np.sqrt((summed**2).sum())
    np.testing.assert_allclose(one.numpy(), 0.4 * unit(first.numpy()), rtol=1e-13)
    np.testing.assert_allclose(two.numpy(), summed * min(1.0, 0.5 / length), rtol=1e-13)
    assert length > 0.5
