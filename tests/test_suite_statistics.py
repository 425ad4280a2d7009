"""Tests between two models' scores, against scipy and closed forms."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from potstill.suite.statistics import Scorer, Seeds, bootstrap, interval, paired_t, verdict


def accuracy(right: npt.NDArray[np.bool_]) -> Scorer:
    return lambda drawn: float(right[drawn].mean())


@pytest.mark.parametrize("count", [2, 3, 5, 20])
def test_the_paired_t_test_is_scipys(count: int) -> None:
    draw = np.random.default_rng(count)
    first, second = draw.normal(0.8, 0.01, count), draw.normal(0.79, 0.02, count)
    found, wanted = paired_t(first.tolist(), second.tolist()), stats.ttest_rel(first, second)
    bounds = wanted.confidence_interval(0.95)
    assert found.p == pytest.approx(wanted.pvalue, rel=1e-9)
    assert (found.low, found.high) == pytest.approx((bounds.low, bounds.high), rel=1e-9)
    assert found.difference == pytest.approx(np.mean(first - second))


def test_three_seeds_by_hand() -> None:
    # differences 1, 2, 3: mean 2, error 1/sqrt(3); t with 2 degrees: p = 1 - t / sqrt(t² + 2), 2 sqrt(3) = sqrt(12)
    found = paired_t([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert found.difference == 2
    assert found.p == pytest.approx(1 - math.sqrt(12 / 14))
    assert found.high - 2 == pytest.approx(4.3026527 / math.sqrt(3), rel=1e-7)


def test_differences_without_spread_are_certain() -> None:
    assert paired_t([2.0, 3.0, 4.0], [1.0, 2.0, 3.0]) == Seeds(1.0, 1.0, 1.0, 0.0)
    assert paired_t([2.0, 3.0], [2.0, 3.0]) == Seeds(0.0, 0.0, 0.0, 1.0)


def test_the_bootstrap_spreads_as_the_paired_difference_of_means_does() -> None:
    draw = np.random.default_rng(3)
    first = draw.random(400) < 0.8
    second = np.where(draw.random(400) < 0.9, first, ~first)  # nine rows of ten alike
    found = bootstrap([accuracy(first)], [accuracy(second)], 400, resamples=4000)
    differences = first.astype(float) - second.astype(float)
    error = differences.std() / math.sqrt(400)
    assert found.mean() == pytest.approx(differences.mean(), abs=4 * error / math.sqrt(4000))
    assert found.std() == pytest.approx(error, rel=0.05)
    # Without pairing it would be three times as wide.
    assert math.sqrt(first.var() / 400 + second.var() / 400) > 1.5 * error
    low, high = interval(found)
    assert (low, high) == pytest.approx(stats.norm.interval(0.95, differences.mean(), error), abs=0.2 * error)


def test_the_seeds_of_a_model_are_averaged_on_one_draw() -> None:
    right = np.random.default_rng(0).random((3, 50)) < 0.7
    three = bootstrap([accuracy(row) for row in right], [accuracy(right[0])], 50, resamples=30, seed=5)
    apart = [bootstrap([accuracy(row)], [accuracy(right[0])], 50, resamples=30, seed=5) for row in right]
    np.testing.assert_allclose(three, np.mean(apart, axis=0), atol=1e-12)


def test_a_model_is_as_good_as_itself() -> None:
    right = np.arange(40) % 3 > 0
    found = bootstrap([accuracy(right)], [accuracy(right)], 40, resamples=100)
    assert not found.any()
    assert verdict(interval(found), None) == "inconclusive"


def test_models_that_are_alike_are_told_apart_in_one_of_twenty_cases() -> None:
    draw = np.random.default_rng(1)
    wrong = 0
    for _ in range(300):
        first, second = draw.random((2, 150)) < 0.75
        found = bootstrap([accuracy(first)], [accuracy(second)], 150, resamples=300)
        wrong += verdict(interval(found), None) != "inconclusive"
    assert 0.02 < wrong / 300 < 0.09


def test_a_draw_without_a_score_is_left_out() -> None:
    assert interval(np.array([math.nan, 1.0, 1.0])) == (1.0, 1.0)
    assert verdict(interval(np.array([math.nan, math.nan])), None) == "inconclusive"


SURE, UNSURE = Seeds(0.1, 0.05, 0.15, 0.01), Seeds(0.1, -0.1, 0.3, 0.2)
WORSE = Seeds(-0.1, -0.15, -0.05, 0.01)


@pytest.mark.parametrize(
    ("rows", "seeds", "less", "said"),
    [
        ((0.1, 0.2), None, False, "better"),
        ((-0.2, -0.1), None, False, "worse"),
        ((-0.1, 0.2), None, False, "inconclusive"),
        ((0.0, 0.2), None, False, "inconclusive"),
        ((0.1, 0.2), SURE, False, "better"),
        ((0.1, 0.2), UNSURE, False, "inconclusive"),
        ((-0.1, 0.2), SURE, False, "inconclusive"),
        ((0.1, 0.2), WORSE, False, "inconclusive"),
        ((-0.2, -0.1), WORSE, False, "worse"),
        ((-0.2, -0.1), WORSE, True, "better"),
        ((0.1, 0.2), SURE, True, "worse"),
    ],
)
def test_both_tests_must_agree(rows: tuple[float, float], seeds: Seeds | None, less: bool, said: str) -> None:
    assert verdict(rows, seeds, less=less) == said
