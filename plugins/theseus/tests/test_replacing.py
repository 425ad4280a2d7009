"""Schedules and draws against formulas and frequencies."""

from __future__ import annotations

import pytest
import torch
from potstill_theseus.config import TheseusConfig
from potstill_theseus.replacing import constant_rate, draw, linear_rate, rising_rate
from pydantic import ValidationError


def test_a_constant_rate_holds_until_the_successor_is_alone() -> None:
    assert [constant_rate(t, 0.5, 3) for t in range(5)] == [0.5, 0.5, 0.5, 1.0, 1.0]
    assert [constant_rate(t, 0.7, None) for t in (0, 10**6)] == [0.7, 0.7]


def test_a_linear_rate_rises_by_its_slope_and_stays_at_1() -> None:
    assert linear_rate(0, 0.3, 0.0006) == 0.3
    assert linear_rate(500, 0.3, 0.0006) == pytest.approx(0.6)
    assert linear_rate(1166, 0.3, 0.0006) < 1
    assert linear_rate(1167, 0.3, 0.0006) == linear_rate(5000, 0.3, 0.0006) == 1


@pytest.mark.parametrize(("start", "after"), [(0.1, 3), (0.3, 7), (0.7, 1), (1 / 3, 1000)])
def test_a_rising_rate_is_the_line_through_its_ends_and_exactly_1_from_there(start: float, after: int) -> None:
    assert rising_rate(0, start, after) == start
    for t in range(1, after):
        assert rising_rate(t, start, after) == pytest.approx(linear_rate(t, start, (1 - start) / after))
        assert rising_rate(t, start, after) < 1
    assert rising_rate(after, start, after) == rising_rate(after + 5, start, after) == 1.0


def test_draws_are_as_frequent_as_the_rate_and_independent_of_each_other() -> None:
    drawn = draw(0.3, 4, seed=3, update=5, keys=range(20_000)).double()
    assert drawn.mean(0).tolist() == pytest.approx([0.3] * 4, abs=0.015)
    together = torch.corrcoef(torch.cat([drawn, drawn.roll(1, 0)], 1).T)
    assert together.fill_diagonal_(0).abs().max() < 0.03


def test_over_updates_and_seeds_draws_are_as_frequent_as_the_rate_too() -> None:
    updates = torch.cat([draw(0.6, 3, seed=1, update=t, keys=[0]) for t in range(1000)]).double()
    seeds = torch.cat([draw(0.6, 3, seed=seed, update=0, keys=[0]) for seed in range(1000)]).double()
    for drawn in (updates, seeds):
        assert drawn.mean(0).tolist() == pytest.approx([0.6] * 3, abs=0.06)


def test_a_key_draws_the_same_whatever_draws_beside_it() -> None:
    alone = draw(0.5, 6, seed=2, update=9, keys=[17])
    among = draw(0.5, 6, seed=2, update=9, keys=[4, 17, 5])
    assert torch.equal(alone[0], among[1])


def test_rate_1_always_replaces() -> None:
    assert draw(1.0, 5, seed=0, update=0, keys=range(5000)).all()


def rates(total: int, **options: object) -> list[float]:
    config = TheseusConfig(**options)  # type: ignore[arg-type]
    return [config.rate_after(applied, total) for applied in range(total)]


def test_left_alone_the_rate_rises_from_three_tenths_to_1_after_seven_tenths_of_the_updates() -> None:
    found = rates(10)
    assert found[:7] == pytest.approx([0.3 + 0.1 * t for t in range(7)])
    assert found[7:] == [1.0] * 3


def test_the_end_of_replacing_is_a_number_or_a_share_of_updates() -> None:
    assert rates(4, schedule="constant") == [0.5] * 4
    assert rates(4, schedule="constant", rate=0.7, full_after=3) == [0.7, 0.7, 0.7, 1.0]
    assert rates(4, schedule="constant", full_after=0.5) == [0.5, 0.5, 1.0, 1.0]
    assert rates(4, full_after=1.0, rate=0.2) == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates(4, slope=0.4, rate=0.1) == pytest.approx([0.1, 0.5, 0.9, 1.0])
    assert rates(3, full_after=0.01) == [0.3, 1.0, 1.0]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "rising from 0.3, 1 after 70% of the updates"),
        ({"full_after": 1000}, "rising from 0.3, 1 after 1000 updates"),
        ({"slope": 0.0006}, "from 0.3, rising by 0.0006 an update up to 1"),
        ({"schedule": "constant"}, "0.5"),
        ({"schedule": "constant", "full_after": 0.5, "rate": 0.7}, "0.7, 1 after 50% of the updates"),
    ],
)
def test_the_schedule_is_told_in_words(options: dict[str, object], told: str) -> None:
    assert TheseusConfig(**options).told() == told  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"slope": 0.1, "schedule": "constant"}, "slope = 0.1 is for schedule = 'linear'"),
        ({"slope": 0.1, "full_after": 5}, "slope = 0.1 and full_after = 5 are both given"),
        ({"rate": 0.0}, "greater than 0"),
        ({"full_after": 0}, "greater than 0"),
        ({"full_after": 1.5}, "full_after = 1.5 is neither a whole number of updates nor a share of them up to 1"),
    ],
)
def test_options_that_cannot_be_are_told(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        TheseusConfig(**options)  # type: ignore[arg-type]
