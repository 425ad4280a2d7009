"""Which rows share a batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.data.batching import bucketed, in_order, padded_share


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(1, 60), max_size=300), batch_size=st.integers(1, 40), epoch=st.integers(0, 3))
def test_every_row_is_in_exactly_one_batch(lengths: list[int], batch_size: int, epoch: int) -> None:
    batches = bucketed(np.array(lengths, dtype=np.int32), batch_size, seed=3, epoch=epoch)
    rows = [row for batch in batches for row in batch.tolist()]
    assert sorted(rows) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // batch_size)
    assert sum(len(batch) != batch_size for batch in batches) <= 1


def test_bucketing_pads_a_tenth_of_what_shuffling_pads() -> None:
    lengths = np.random.default_rng(0).integers(5, 65, 6400).astype(np.int32)
    shuffled = np.split(np.random.default_rng(1).permutation(6400), 200)
    assert padded_share(lengths, bucketed(lengths, 32, seed=0, epoch=0)) < padded_share(lengths, shuffled) / 10


def test_batches_come_in_random_order_that_the_epoch_changes() -> None:
    lengths = np.arange(1, 1001, dtype=np.int32)
    widths = [int(lengths[batch].max()) for batch in bucketed(lengths, 10, seed=0, epoch=0)]
    assert abs(np.corrcoef(widths, np.arange(100))[0, 1]) < 0.35
    assert widths != [int(lengths[batch].max()) for batch in bucketed(lengths, 10, seed=0, epoch=1)]
    assert widths == [int(lengths[batch].max()) for batch in bucketed(lengths, 10, seed=0, epoch=0)]


def test_evaluation_batches_are_sorted_by_length_with_ties_by_row() -> None:
    batches = in_order(np.array([3, 1, 2, 1, 3], dtype=np.int32), 2)
    assert [batch.tolist() for batch in batches] == [[1, 3], [2, 0], [4]]


def test_the_padded_share_is_padding_over_positions() -> None:
    lengths = np.array([2, 4, 1], dtype=np.int32)
    # 2 rows of width 4 and one of width 1 are 9 positions, of which 7 are tokens
    assert padded_share(lengths, [np.array([0, 1]), np.array([2])]) == pytest.approx(2 / 9)
    assert padded_share(lengths, []) == 0
