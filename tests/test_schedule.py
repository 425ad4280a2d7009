from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.schedule import multiplier, warmup_updates

TOTALS = st.integers(1, 2000)
WARMUPS = st.integers(0, 2500) | st.floats(0, 0.99)


def line(kind: str, total: int, warmup: int | float, start: float | None = None) -> list[float]:
    return [multiplier(kind, update, total, warmup, start) for update in range(total)]


@pytest.mark.parametrize(
    ("warmup", "total", "updates"), [(0, 10, 0), (7, 10, 7), (20, 10, 20), (0.1, 30, 3), (0.1, 9, 0), (0.25, 10, 2)]
)
def test_a_warm_up_is_a_number_of_updates_or_a_fraction_rounded_down(
    warmup: int | float, total: int, updates: int
) -> None:
    assert warmup_updates(warmup, total) == updates


def test_linear_by_hand() -> None:
    assert line("linear", 8, 3) == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1, 4 / 5, 3 / 5, 2 / 5, 1 / 5])
    assert line("linear", 4, 0) == [1, 0.75, 0.5, 0.25]
    assert multiplier("linear", 8, 8, 3) == 0


def test_cosine_by_hand() -> None:
    root = math.sqrt(0.5)
    assert line("cosine", 6, 2) == pytest.approx([1 / 3, 2 / 3, 1, (1 + root) / 2, 0.5, (1 - root) / 2])
    assert multiplier("cosine", 6, 6, 2) == pytest.approx(0)


def test_constant_by_hand() -> None:
    assert line("constant", 5, 0.4) == pytest.approx([1 / 3, 2 / 3, 1, 1, 1])


def test_a_start_of_zero_is_the_schedule_of_transformers() -> None:
    """get_linear_schedule_with_warmup: update / warmup, then (total - update) / (total - warmup)."""
    expected = [update / 4 if update < 4 else (10 - update) / 6 for update in range(10)]
    assert line("linear", 10, 4, 0.0) == pytest.approx(expected)


def test_a_start_of_its_own_is_the_first_multiplier() -> None:
    assert line("linear", 10, 4, 0.2)[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
@given(total=TOTALS, warmup=WARMUPS)
def test_it_rises_then_falls_and_the_first_and_last_updates_learn(kind: str, total: int, warmup: int | float) -> None:
    factors = line(kind, total, warmup)
    rising = min(warmup_updates(warmup, total), total - 1)
    assert all(0 < factor <= 1 for factor in factors)
    assert all(one < two for one, two in pairwise(factors[: rising + 1]))
    assert all(one >= two for one, two in pairwise(factors[rising:]))
    if warmup_updates(warmup, total) < total:
        assert factors[rising] == 1


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
def test_updates_past_the_end_do_not_turn_round(kind: str) -> None:
    assert multiplier(kind, 15, 10, 2) == pytest.approx(1 if kind == "constant" else 0)
