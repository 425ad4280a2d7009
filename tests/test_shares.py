from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from potstill.batch import BATCH, EXAMPLE, IGNORED, PAIR, POSITION, POSITION_PAIR, TARGET, TOKEN, UNITS, Batch, Unit
from potstill.shares import Shares, shares

ROWS = st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=1, max_size=24)
"""Rows: how many tokens, and whether there is a label."""


def batch(rows: list[tuple[int, bool]]) -> Batch:
    lengths = torch.tensor([length for length, _ in rows], dtype=torch.long)
    width = max((length for length, _ in rows), default=0)
    mask = (torch.arange(width) < lengths[:, None]).long()
    inputs = {"input_ids": mask * 3, "attention_mask": mask}
    labels = torch.tensor([1 if labelled else IGNORED for _, labelled in rows], dtype=torch.long)
    return Batch(inputs, inputs, labels, torch.arange(len(rows)))


def cuts(rows: list[tuple[int, bool]], at: list[int]) -> list[list[tuple[int, bool]]]:
    """The rows in order, cut at these places; equal places give micro-batches without a row."""
    places = [0, *sorted(place % (len(rows) + 1) for place in at), len(rows)]
    return [rows[start:end] for start, end in pairwise(places)]


def elements(rows: list[tuple[int, bool]], unit: Unit) -> list[float]:
    """A number for everything that the unit counts in these rows."""
    if unit is EXAMPLE:
        return [math.sin(length) for length, _ in rows]
    if unit is TARGET:
        return [math.cos(length) for length, labelled in rows if labelled]
    return [math.sin(length * 10 + position) for length, _ in rows for position in range(length)]


@pytest.mark.parametrize("unit", [EXAMPLE, TOKEN, TARGET], ids=lambda unit: unit.name)
@given(rows=ROWS, at=st.lists(st.integers(0, 30), max_size=6))
def test_weighted_means_of_any_split_are_the_mean_over_all(
    unit: Unit, rows: list[tuple[int, bool]], at: list[int]
) -> None:
    parts = cuts(rows, at)
    portions = shares([batch(part) for part in parts])
    total = 0.0
    for micro, part in enumerate(parts):
        values = elements(part, unit)
        assert portions.count(unit, micro) == len(values)
        if values:
            total += float(np.mean(values)) * portions.share(unit, micro)
        else:
            assert portions.share(unit, micro) == 0.0
    everything = elements(rows, unit)
    assert total == pytest.approx(float(np.mean(everything)) if everything else 0.0, abs=1e-12)


@given(rows=ROWS, at=st.lists(st.integers(0, 30), max_size=6))
def test_the_shares_of_a_unit_that_counts_anything_add_up_to_one(rows: list[tuple[int, bool]], at: list[int]) -> None:
    parts = cuts(rows, at)
    portions = shares([batch(part) for part in parts])
    for unit in UNITS:
        total = math.fsum(portions.share(unit, micro) for micro in range(len(parts)))
        assert total == pytest.approx(1.0 if portions.totals[unit.name] else 0.0)


def test_a_micro_batch_without_a_label_has_no_share_of_the_targets() -> None:
    portions = shares([batch([(2, True), (3, True)]), batch([(5, False)]), batch([(1, True), (1, False)])])
    assert [portions.share(TARGET, micro) for micro in range(3)] == [2 / 3, 0.0, 1 / 3]
    assert [portions.share(EXAMPLE, micro) for micro in range(3)] == [2 / 5, 1 / 5, 2 / 5]
    assert [portions.share(TOKEN, micro) for micro in range(3)] == [5 / 12, 5 / 12, 2 / 12]
    assert [portions.share(BATCH, micro) for micro in range(3)] == [1 / 3] * 3


def test_an_update_without_any_label_divides_by_nothing() -> None:
    portions = shares([batch([(2, False)]), batch([(1, False)])])
    assert [portions.share(TARGET, micro) for micro in range(2)] == [0.0, 0.0]


def test_labels_that_are_numbers_are_missing_where_they_are_nan() -> None:
    part = batch([(1, True), (1, True)])
    part.labels = torch.tensor([math.nan, 0.5])
    assert shares([part]).count(TARGET, 0) == 1


def test_shares_of_two_ranks_add_up_to_one_over_both() -> None:
    mine, theirs = [batch([(2, True), (4, False)])], [batch([(1, True)]), batch([(5, True), (1, True)])]
    counts = [[sum(unit.count(part) for part in parts) for unit in UNITS] for parts in (mine, theirs)]
    asked: list[list[int]] = []

    def summed(numbers: list[int]) -> list[int]:
        asked.append(numbers)
        return [one + two for one, two in zip(*counts, strict=True)]

    ours, others = shares(mine, sum_over_ranks=summed), shares(theirs, sum_over_ranks=summed)
    assert asked == counts
    assert ours.totals == others.totals == {"example": 5, "token": 13, "target": 4, "batch": 3}
    assert ours.share(TOKEN, 0) + others.share(TOKEN, 0) + others.share(TOKEN, 1) == pytest.approx(1)


def test_a_rank_without_rows_still_takes_part_in_the_sum() -> None:
    portions = shares([], sum_over_ranks=lambda numbers: [number + 7 for number in numbers])
    assert portions == Shares((), {"example": 7, "token": 7, "target": 7, "batch": 7})


def test_a_unit_of_a_plugins_own_is_counted_too() -> None:
    pairs = Unit("pairs", lambda part: len(part) * (len(part) - 1))
    portions = shares([batch([(1, True)] * 3), batch([(1, True)])], [*UNITS, pairs])
    assert [portions.share(pairs, micro) for micro in range(2)] == [1.0, 0.0]


def test_pairs_are_counted_with_and_without_padding() -> None:
    rows = batch([(3, True), (1, True), (2, False)])
    assert PAIR.count(rows) == 9 + 1 + 4
    assert POSITION.count(rows) == 3 * 3
    assert POSITION_PAIR.count(rows) == 3 * 9
