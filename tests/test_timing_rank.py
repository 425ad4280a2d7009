"""Ranking: which speed-ups are told, and when the rounds are too few or too noisy to tell any."""

from __future__ import annotations

import numpy as np
import pytest

from potstill.timing.rank import EQUAL, TOO_FEW, TOO_NOISY, interval_rank, speedup


def test_the_ratio_is_the_median_over_the_rounds_and_the_interval_two_of_them():
    """Ten rounds with the ratios 1.1, 1.2, …, 2.0: the median of logarithms is that of 1.5 and 1.6."""
    ratios = [1.5, 1.1, 1.9, 1.2, 2.0, 1.3, 1.8, 1.4, 1.7, 1.6]
    found = speedup("teacher", ratios, [1.0] * 10)
    assert found.over == "teacher"
    assert found.ratio == pytest.approx((1.5 * 1.6) ** 0.5)
    assert (found.low, found.high) == (pytest.approx(1.2), pytest.approx(1.9))
    assert found.confidence == 1 - 2 * (1 + 10) / 1024
    assert (found.verdict, found.shown) == ("faster", found.ratio)


def test_rounds_are_paired_so_that_a_machine_that_slows_down_hides_nothing():
    drift = [2.0**turn for turn in range(8)]
    ours = [value / 1.25 for value in drift]
    found = speedup("a", drift, ours)
    assert (found.ratio, found.low, found.high) == (pytest.approx(1.25),) * 3
    assert found.verdict == "faster"
    shuffled = speedup("a", drift, ours[::-1])
    assert shuffled.shown == TOO_NOISY


def test_swapping_the_models_turns_the_answer_round():
    theirs, ours = [3.0, 3.3, 3.1, 2.9, 3.0, 3.2, 3.4], [2.0, 2.1, 2.0, 1.9, 2.2, 2.0, 2.1]
    there, back = speedup("a", theirs, ours), speedup("b", ours, theirs)
    assert (there.verdict, back.verdict) == ("faster", "slower")
    assert back.ratio == pytest.approx(1 / there.ratio)
    assert (back.low, back.high) == (pytest.approx(1 / there.high), pytest.approx(1 / there.low))


@pytest.mark.parametrize(("rounds", "rank", "outside"), [(5, 0, 1), (6, 1, 2 / 64), (8, 1, 2 / 256), (9, 2, 20 / 512)])
def test_the_interval_is_the_widest_that_the_sign_test_asks_for(rounds: int, rank: int, outside: float):
    assert interval_rank(rounds) == (rank, pytest.approx(1 - outside))


def test_the_intervals_of_many_rounds_are_those_of_the_binomial_distribution():
    from scipy.stats import binom

    for rounds in range(6, 60):
        rank, confidence = interval_rank(rounds)
        assert confidence == pytest.approx(1 - 2 * binom.cdf(rank - 1, rounds, 0.5))
        assert confidence >= 0.95 > 1 - 2 * binom.cdf(rank, rounds, 0.5)


@pytest.mark.parametrize("rounds", [1, 5])
def test_five_rounds_rank_nobody_however_clear_they_look(rounds: int):
    found = speedup("a", [10.0] * rounds, [1.0] * rounds)
    assert (found.shown, found.ratio, found.low, found.high) == (TOO_FEW, pytest.approx(10), None, None)
    assert found.confidence == 0
    assert speedup("a", [10.0] * 6, [1.0] * 6).verdict == "faster"


def test_a_difference_that_two_processes_of_one_file_may_have_ranks_nobody():
    assert speedup("a", [1.01] * 6, [1.0] * 6).shown == EQUAL
    assert speedup("a", [1.0, 1.0, 1.0, 1.0, 1.0, 1.1], [1.0] * 6).shown == TOO_NOISY
    assert speedup("a", [1.03] * 6, [1.0] * 6).verdict == "faster"


def test_one_rounds_outlier_in_ten_does_not_decide():
    theirs = [1.5] * 9 + [0.1]
    assert speedup("a", theirs, [1.0] * 10).verdict == "faster"
    assert speedup("a", [1.5] * 8 + [0.1, 0.1], [1.0] * 10).shown == TOO_NOISY


def test_a_model_beside_itself_is_ranked_at_most_as_often_as_the_confidence_allows():
    """4,000 comparisons of ten rounds, noise of 20 % with long tails: 2.1 % would be ranked without a margin."""
    draw = np.random.default_rng(0)
    noise = np.exp(0.2 * draw.standard_t(3, size=(2, 4000, 10)))
    verdicts = [speedup("a", first, second).verdict for first, second in zip(*noise, strict=True)]
    assert sum(verdict in ("faster", "slower") for verdict in verdicts) / 4000 < 0.025
    assert verdicts.count(TOO_NOISY) / 4000 > 0.97


def test_the_interval_holds_the_true_speed_up_as_often_as_it_says_and_finds_it():
    draw = np.random.default_rng(1)
    noise = np.exp(0.1 * draw.standard_t(3, size=(2, 4000, 10)))
    found = [speedup("a", 1.5 * first, second) for first, second in zip(*noise, strict=True)]
    inside = np.mean([result.low <= 1.5 <= result.high for result in found])
    assert inside == pytest.approx(1 - 22 / 1024, abs=0.007)
    assert np.mean([result.verdict == "faster" for result in found]) > 0.9
