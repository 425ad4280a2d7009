"""Random draws keyed by (seed, epoch, row)."""

from __future__ import annotations

import numpy as np
import torch

from potstill.data.random import RowRandom, permutation


def test_a_row_draws_the_same_in_any_batch() -> None:
    whole = RowRandom(7, 2, [4, 9, 5, 1])
    part = RowRandom(7, 2, [5, 4])
    assert torch.equal(whole.uniform(6)[[2, 0]], part.uniform(6))
    assert whole.generator(2).random() == part.generator(0).random()


def test_a_wider_batch_does_not_change_the_first_columns() -> None:
    assert torch.equal(RowRandom(7, 2, [4, 9]).uniform(40)[:, :11], RowRandom(7, 2, [4, 9]).uniform(11))


def test_seed_epoch_row_and_call_each_change_the_draws() -> None:
    base = RowRandom(1, 1, [1])
    draws = [base.uniform(4), base.uniform(4), *(RowRandom(*key).uniform(4) for key in ((2, 1, [1]), (1, 2, [1])))]
    draws.append(RowRandom(1, 1, [2]).uniform(4))
    assert len({tuple(draw[0].tolist()) for draw in draws}) == 5
    keys = ((1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2), (-1, 1, 1))
    assert len({RowRandom(seed, epoch, [row]).generator(0).random() for seed, epoch, row in keys}) == 5


def test_a_second_width_does_not_depend_on_the_first() -> None:
    narrow, wide = RowRandom(3, 0, [8]), RowRandom(3, 0, [8])
    narrow.uniform(2)
    wide.uniform(50)
    assert torch.equal(narrow.uniform(5), wide.uniform(5))


def test_uniform_draws_are_uniform_and_neighbouring_rows_uncorrelated() -> None:
    draws = RowRandom(0, 0, np.arange(2000)).uniform(100).double().numpy()
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = np.histogram(draws, bins=20, range=(0, 1))[0]
    # 19 degrees of freedom: above 43.8 once in a thousand samples
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 43.8
    assert abs(np.corrcoef(draws[:-1].ravel(), draws[1:].ravel())[0, 1]) < 0.01
    assert abs(np.corrcoef(draws[:, :-1].ravel(), draws[:, 1:].ravel())[0, 1]) < 0.01


def test_no_rows_draw_a_matrix_of_no_rows() -> None:
    nothing = RowRandom(0, 0, [])
    assert nothing.uniform(3).shape == (0, 3)
    assert 0 <= nothing.batch.random() < 1


def test_a_permutation_holds_every_row_once_and_differs_by_epoch() -> None:
    first, second = permutation(5, 0, 100), permutation(5, 1, 100)
    assert sorted(first.tolist()) == list(range(100))
    assert first.tolist() != second.tolist()
    assert first.tolist() == permutation(5, 0, 100).tolist()
