"""Exact numbers, rare words first, nothing twice; groups of like length."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from potstill_distilbert.grouping import grouped, groups
from potstill_distilbert.masking import SmoothedMasking, sample, token_weights

from potstill.batch import IGNORED, Batch
from potstill.data.random import RowRandom


class Words:
    """As much of a tokenizer as masking needs."""

    mask_token_id = 4

    def __len__(self) -> int:
        return 20


def batch_of(lengths: list[int]) -> Batch:
    width = max(lengths)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    ids = torch.where(mask, torch.randint(5, 20, (len(lengths), width)), 0)
    inputs = {"input_ids": ids, "attention_mask": mask.long()}
    return Batch(inputs, inputs, torch.zeros(len(lengths)), torch.arange(len(lengths)))


@pytest.mark.parametrize("lengths", [[7], [9, 2, 5], [12, 12, 1, 3]])
def test_the_number_is_exact_over_the_whole_batch(lengths: list[int]) -> None:
    weights = token_weights(torch.arange(20), 0.7, range(5))
    for epoch in range(5):
        batch = batch_of(lengths)
        before = batch.student["input_ids"].clone()
        SmoothedMasking(Words(), weights, 0.15, 0.1, 0.1)(batch, RowRandom(1, epoch, range(len(lengths))))
        chosen = batch.labels != IGNORED
        assert int(chosen.sum()) == math.ceil(0.15 * sum(lengths))
        assert not chosen[batch.student["attention_mask"] == 0].any()
        assert torch.equal(batch.labels[chosen], before[chosen])
        assert torch.equal(batch.student["input_ids"][~chosen], before[~chosen])


def test_rare_words_are_hidden_as_often_as_drawing_one_after_the_other_says() -> None:
    weights = torch.tensor([[1.0, 2.0, 4.0, 0.0]]).double()
    often, draws = torch.zeros(4), 20_000
    for epoch in range(draws):
        often += sample(weights, 2, RowRandom(0, epoch, [3]).uniform(4))[0]
    odds = [1 / 7, 2 / 7, 4 / 7]
    for i, odd in enumerate(odds):
        second = sum(odds[j] * odd / (1 - odds[j]) for j in range(3) if j != i)
        assert float(often[i]) / draws == pytest.approx(odd + second, abs=0.015)
    assert often[3] == 0


def test_more_than_there_is_takes_all_that_may_be_hidden() -> None:
    weights = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert torch.equal(sample(weights, 5, torch.zeros(2, 2)), weights > 0)


def test_without_smoothing_all_words_are_alike_but_special_ones() -> None:
    assert token_weights(torch.tensor([9, 5, 100]), 0.0, [0]).tolist() == [0.0, 1.0, 1.0]


def test_every_row_is_in_one_batch_and_full_batches_hold_one_group() -> None:
    lengths = np.random.default_rng(0).integers(1, 40, 101)
    found = groups(lengths, 40)
    batches = grouped(np.random.default_rng(1).permutation(101).tolist(), found, 8)
    assert sorted(np.concatenate(batches).tolist()) == list(range(101))
    assert all(len(rows) == 8 for rows in batches[:-1])
    assert sum(len(set(found[rows])) == 1 for rows in batches) >= 5
