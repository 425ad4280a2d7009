"""Which tokens are swapped, and who is whose source."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from potstill_diito.config import DiitoConfig
from potstill_diito.interchange import swaps_of
from potstill_diito.pairing import Pairing, partners
from potstill_diito.positions import Swaps, consecutive, count_of, paired, pasted, scattered
from torch import Tensor

from potstill.batch import IGNORED, Batch
from potstill.data.random import RowRandom

BASE, SOURCE = torch.tensor([14, 9, 11, 3]), torch.tensor([12, 14, 4, 3])


def batch(lengths: Tensor, width: int, rows: Tensor | None = None) -> Batch:
    mask = (torch.arange(width) < lengths[:, None]).long()
    inputs = {"input_ids": mask * 7, "attention_mask": mask}
    return Batch(inputs, inputs, torch.full(mask.shape, IGNORED), torch.arange(len(lengths)) if rows is None else rows)


def test_the_count_is_a_share_of_the_shorter_row_rounded_down() -> None:
    assert count_of(BASE, SOURCE, 0.3).tolist() == [3, 2, 1, 0]
    assert count_of(BASE, SOURCE, 1.0, most=3).tolist() == [3, 3, 3, 3]


@pytest.mark.parametrize("kind", ["consecutive", "random"])
def test_positions_are_tokens_as_many_in_the_base_as_in_the_source(kind: str) -> None:
    config = DiitoConfig(positions=kind, interchange_prop=0.6)
    for epoch in range(20):
        swaps = swaps_of(batch(BASE, 14), batch(SOURCE, 14), config, RowRandom(3, epoch, np.arange(4)))
        assert (swaps.base < BASE[swaps.rows]).all()
        assert (swaps.source < SOURCE[swaps.rows]).all()
        assert torch.bincount(swaps.rows, minlength=4).tolist() == [7, 5, 2, 1]
        for row in range(4):
            for side in (swaps.base, swaps.source):
                steps = side[swaps.rows == row].diff()
                assert (steps == 1).all() if kind == "consecutive" else (steps > 0).all()


def test_every_start_of_a_run_and_every_choice_is_equally_likely() -> None:
    rows, many = np.arange(20_000), torch.full((20_000,), 4)
    starts = consecutive(many, many - 2, 6, RowRandom(1, 0, rows)).int().argmax(1)
    assert torch.bincount(starts).div(len(rows)).tolist() == pytest.approx([1 / 3] * 3, abs=0.02)
    chosen = scattered(torch.tensor([[True, False, True, True]]).expand(len(rows), 4), many - 3, RowRandom(1, 0, rows))
    assert chosen.float().mean(0).tolist() == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3], abs=0.02)


@pytest.mark.parametrize("kind", ["consecutive", "random"])
def test_a_row_swaps_the_same_in_any_batch(kind: str) -> None:
    config = DiitoConfig(positions=kind)
    whole = swaps_of(batch(BASE, 14), batch(SOURCE, 14), config, RowRandom(3, 1, np.arange(4)))
    own = torch.tensor([2])
    alone = swaps_of(batch(BASE[own], 11), batch(SOURCE[own], 4), config, RowRandom(3, 1, own.numpy()))
    at = whole.rows == 2
    assert len(alone.rows) == 1
    assert (whole.base[at].tolist(), whole.source[at].tolist()) == (alone.base.tolist(), alone.source.tolist())


def test_masked_positions_are_the_predicted_ones_against_any_of_the_source() -> None:
    base, source = batch(BASE, 14), batch(SOURCE, 14)
    for row, places in enumerate(([1, 5, 6], [2], [1, 2, 3, 4, 7, 9], [])):
        base.labels[row, places] = 5
    swaps = swaps_of(base, source, DiitoConfig(positions="masked"), RowRandom(3, 1, np.arange(4)))
    assert swaps.rows.tolist() == [0, 0, 0, 1, 2, 2, 2, 2]  # the third row's source has 4 tokens
    assert swaps.base[:4].tolist() == [1, 5, 6, 2]
    assert set(swaps.base[4:].tolist()) < {1, 2, 3, 4, 7, 9}
    assert (swaps.source < SOURCE[swaps.rows]).all()


def test_the_reference_s_padding_takes_the_base_s_width_and_any_position() -> None:
    config = DiitoConfig(positions="random", padding="reference", interchange_prop=1.0)
    base, source = batch(torch.tensor([3, 9]), 9), batch(torch.tensor([12, 3]), 12)
    seen = {
        int(place)
        for epoch in range(40)
        for place in swaps_of(base, source, config, RowRandom(3, epoch, np.arange(2))).source
    }
    assert source.student["input_ids"].shape == source.teacher["attention_mask"].shape == (2, 9)
    assert source.student["attention_mask"].sum(1).tolist() == [9, 3]
    assert seen == set(range(9))


def test_the_kth_position_takes_the_kth_and_pasting_keeps_the_rest() -> None:
    base, source = torch.zeros(2, 4, dtype=torch.bool), torch.zeros(2, 6, dtype=torch.bool)
    base[0, [1, 3]], source[0, [0, 5]], base[1, 2], source[1, 4] = True, True, True, True
    swaps = paired(base, source)
    assert [part.tolist() for part in swaps] == [[0, 0, 1], [1, 3, 2], [0, 5, 4]]
    ids, others = torch.arange(8).view(2, 4), torch.arange(100, 112).view(2, 6)
    assert pasted(ids, others, Swaps(*swaps)).tolist() == [[0, 100, 2, 105], [4, 5, 110, 7]]
    assert ids.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 1000, 65537])
@pytest.mark.parametrize("pairing", ["epoch", "once"])
def test_a_permutation_of_the_corpus_has_every_row_once(count: int, pairing: Pairing) -> None:
    found = partners(np.arange(count), 2, count, seed=5, pairing=pairing)
    assert sorted(found.tolist()) == list(range(count))


def test_a_row_s_partner_is_the_same_in_any_batch_and_another_in_another_epoch() -> None:
    rows = np.array([5, 99, 0, 41])
    first = partners(np.arange(100), 0, 100, seed=5)
    assert partners(rows, 0, 100, seed=5).tolist() == first[rows].tolist()
    assert (partners(np.arange(100), 1, 100, seed=5) == first).mean() < 0.1
    assert (partners(np.arange(100), 0, 100, seed=6) == first).mean() < 0.1
    once = [partners(rows, epoch, 100, seed=5, pairing="once").tolist() for epoch in (0, 7)]
    assert once[0] == once[1]


def test_partners_are_spread_evenly_and_a_corpus_of_billions_needs_no_table() -> None:
    found = partners(np.arange(10_000), 0, 3_000_000_000, seed=5)
    assert len(np.unique(found)) == 10_000
    assert np.histogram(found, bins=10, range=(0, 3e9))[0] / 10_000 == pytest.approx([0.1] * 10, abs=0.02)
    assert abs(np.corrcoef(np.arange(10_000), found)[0, 1]) < 0.04


def test_within_a_batch_its_rows_are_shuffled() -> None:
    rows = np.array([8, 3, 11, 2, 40, 6])
    found = [partners(rows, epoch, 100, seed=5, pairing="batch").tolist() for epoch in range(8)]
    assert all(sorted(each) == sorted(rows.tolist()) for each in found)
    assert len({tuple(each) for each in found}) > 4
