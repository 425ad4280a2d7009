"""Batches on their way to a step: masking, companions, notes, hooks, and the rows that are another process's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from potstill.batch import IGNORED, TARGET, Batch
from potstill.collate import Collation, Partner
from potstill.data.random import RowRandom
from potstill.errors import PluginError
from potstill.plugin import Plugin, hookimpl
from potstill.stage import Stage
from potstill.testing import stage_of
from potstill.testing.tiny import student_only

ROWS = np.array([3, 8, 2, 40, 41, 7, 20])


def reversed_rows(rows: Any, epoch: int, count: int) -> Any:
    return rows[::-1]


class Pairing(Plugin):
    """Adds companions, and notes what every collate hook sees and draws."""

    name = "pairing"

    def __init__(self, *partners: tuple[str, Partner], masks: bool = False) -> None:
        super().__init__(self.Config())
        self.partners, self.masks = partners, masks
        self.seen: list[tuple[list[int], list[str]]] = []

    @hookimpl
    def setup(self, stage: Stage) -> None:
        for name, partner in self.partners:
            stage.add_companion(name, partner)
        if self.masks:
            stage.claim("masking", exact)

    @hookimpl
    def collate(self, batch: Batch, rng: RowRandom) -> None:
        self.seen.append((batch.index.tolist(), list(batch.companions)))
        batch.notes["draws"] = rng.uniform(3)
        batch.notes["generators"] = torch.tensor([rng.generator(i).random() for i in range(len(rng))])
        batch.notes["whole"] = torch.tensor(rng.batch.random())


def exact(batch: Batch, rng: RowRandom) -> None:
    """Hides as many tokens of a batch as it has rows, wherever the least draws are."""
    ids, mask = batch.student["input_ids"], batch.student["attention_mask"]
    draws = rng.uniform(ids.shape[1]).masked_fill(mask == 0, 2.0)
    chosen = draws <= draws.flatten().sort().values[len(batch) - 1]
    batch.labels = torch.where(chosen, ids, IGNORED)
    ids[chosen] = 4


def stage_with(plugin: Pairing, data: Path, folder: Path) -> Stage:
    return stage_of(student_only(), data, folder, plugins=[plugin])


def batch_of(stage: Stage, rows: Any = ROWS, epoch: int = 0) -> Batch:
    found = stage.examples("train")
    assert found is not None
    return Collation(stage, found).batch(np.asarray(rows), epoch)


def on_rank(stage: Stage, rank: int, world: int) -> None:
    stage.context.ranks.rank, stage.context.ranks.world = rank, world


def test_without_masking_and_companions_a_batch_is_its_rows_and_the_hooks_draw_as_before(
    data: Path, tmp_path: Path
) -> None:
    plugin = Pairing()
    stage = stage_with(plugin, data, tmp_path)
    rows = stage.examples("train")
    assert rows is not None
    batch, plain = batch_of(stage), rows.batch(ROWS)
    assert all(torch.equal(batch.student[name], plain.student[name]) for name in plain.student)
    assert torch.equal(batch.labels, plain.labels)
    rng = RowRandom(stage.seed, 0, ROWS)
    assert torch.equal(batch.notes["draws"], rng.uniform(3))
    # The numbers that earlier runs drew, so that they can be repeated.
    drawn = RowRandom(3, 0, [3, 8]).uniform(2).tolist()
    assert drawn == [[0.11309343576431274, 0.648511528968811], [0.346404492855072, 0.5336384773254395]]
    assert RowRandom(3, 0, [3]).generator(0).random() == 0.8223827260296414
    assert RowRandom(3, 0, [3]).batch.random() == 0.15548749625842395


def test_companions_are_the_partner_rows_and_go_through_the_hooks_first(data: Path, tmp_path: Path) -> None:
    told: list[Any] = []

    def next_rows(rows: Any, epoch: int, count: int) -> Any:
        told.append((rows.tolist(), epoch, count))
        return (rows + 1) % count

    plugin = Pairing(("next", next_rows), ("reversed", reversed_rows))
    stage = stage_with(plugin, data, tmp_path)
    batch = batch_of(stage, epoch=2)
    rows = stage.examples("train")
    assert rows is not None
    assert told == [(ROWS.tolist(), 2, len(rows))]
    assert plugin.seen == [
        ([4, 9, 3, 41, 42, 8, 21], []),
        (ROWS[::-1].tolist(), []),
        (ROWS.tolist(), ["next", "reversed"]),
    ]
    for name, partners in (("next", ROWS + 1), ("reversed", ROWS[::-1].copy())):
        companion, plain = batch.companions[name], rows.batch(partners)
        assert torch.equal(companion.student["input_ids"], plain.student["input_ids"])
        assert torch.equal(companion.labels, plain.labels)
        assert companion.shared


def test_a_row_that_is_its_own_partner_draws_other_numbers_there(data: Path, tmp_path: Path) -> None:
    plugin = Pairing(("self", lambda rows, epoch, count: rows), ("again", lambda rows, epoch, count: rows), masks=True)
    batch = batch_of(stage_with(plugin, data, tmp_path))
    every = [batch, *batch.companions.values()]
    for note in ("draws", "generators"):
        drawn = torch.stack([part.notes[note].flatten() for part in every])
        assert len(drawn.unique()) == drawn.numel()
    assert len({float(part.notes["whole"]) for part in every}) == 3
    assert not torch.equal(batch.labels, batch.companions["self"].labels)
    assert not torch.equal(batch.companions["again"].labels, batch.companions["self"].labels)


def test_masking_and_hooks_do_not_share_draws(data: Path, tmp_path: Path) -> None:
    drawn: list[torch.Tensor] = []
    stage = stage_with(Pairing(), data, tmp_path)
    stage.claim("masking", lambda batch, rng: drawn.append(rng.uniform(3)))
    batch = batch_of(stage)
    assert not torch.isin(batch.notes["draws"], drawn[0]).any()


@pytest.mark.parametrize("world", [2, 3, 9])
def test_processes_share_a_masked_batch_and_its_companions_as_one_has_them(
    world: int, data: Path, tmp_path: Path
) -> None:
    """Exactly as many hidden tokens as rows in the whole, however many processes there are."""
    plugin = Pairing(("reversed", reversed_rows), masks=True)
    stage = stage_with(plugin, data, tmp_path)
    whole = batch_of(stage)
    assert TARGET.count(whole) == TARGET.count(whole.companions["reversed"]) == len(ROWS)
    for rank in range(world):
        on_rank(stage, rank, world)
        mine = torch.arange(len(ROWS))[rank::world]
        part, expected = batch_of(stage), whole.take(mine)
        assert len(part) == len(mine)
        for one, other in ((part, expected), (part.companions["reversed"], expected.companions["reversed"])):
            assert torch.equal(one.index, other.index)
            assert torch.equal(one.labels, other.labels)
            assert all(torch.equal(one.student[name], other.student[name]) for name in one.student)
            assert one.shared
            if len(mine):
                assert torch.equal(one.notes["draws"], other.notes["draws"])


@pytest.mark.parametrize("world", [2, 9])
def test_processes_share_plain_companions_row_by_row(world: int, data: Path, tmp_path: Path) -> None:
    plugin = Pairing(("reversed", reversed_rows))
    stage = stage_with(plugin, data, tmp_path)
    batch_of(stage)  # tokenizes the rows, which several processes would do together
    for rank in range(world):
        on_rank(stage, rank, world)
        part = batch_of(stage)
        assert part.companions["reversed"].index.tolist() == ROWS[::-1][rank::world].tolist()
        assert part.companions["reversed"].student["input_ids"].shape[0] == len(part)


@pytest.mark.parametrize(
    "found", [np.arange(6), np.arange(7) + 95, np.arange(7) - 1, np.arange(7) / 2, np.arange(14).reshape(7, 2)]
)
def test_partners_that_are_no_rows_are_one_sentence(found: Any, data: Path, tmp_path: Path) -> None:
    stage = stage_with(Pairing(("odd", lambda *_: found)), data, tmp_path)
    with pytest.raises(PluginError, match="companion 'odd' must be 7 row numbers below 96, one for each row of the"):
        batch_of(stage)


def test_two_companions_of_one_name_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="Two companions are called 'a' in the stage 'plain'"):
        stage_with(Pairing(("a", reversed_rows), ("a", reversed_rows)), data, tmp_path)


def test_taking_rows_keeps_the_width_and_takes_notes_and_companions_along() -> None:
    ids = torch.arange(12).reshape(3, 4)
    inputs = {"input_ids": ids}
    other = Batch(inputs, {"input_ids": ids + 1}, torch.arange(3), torch.arange(3))
    notes = {"rows": torch.tensor([5, 6, 7]), "whole": torch.tensor(1.0), "long": torch.arange(5)}
    batch = Batch(inputs, inputs, torch.tensor([1, 2, 3]), torch.tensor([9, 8, 7]), {"other": other}, notes)
    taken = batch.take(torch.tensor([2, 0]))
    assert taken.shared
    assert not taken.companions["other"].shared
    assert taken.student["input_ids"].tolist() == [[8, 9, 10, 11], [0, 1, 2, 3]]
    assert taken.companions["other"].teacher["input_ids"].tolist() == [[9, 10, 11, 12], [1, 2, 3, 4]]
    assert (taken.labels.tolist(), taken.index.tolist()) == ([3, 1], [7, 9])
    assert taken.notes["rows"].tolist() == [7, 5]
    assert taken.notes["whole"] is notes["whole"]
    assert taken.notes["long"] is notes["long"]
    assert len(batch.take(torch.tensor([], dtype=torch.int64))) == 0


def test_notes_move_with_the_batch() -> None:
    inputs = {"input_ids": torch.zeros(1, 1)}
    batch = Batch(inputs, inputs, torch.zeros(1), torch.zeros(1), notes={"places": torch.zeros(2)})
    assert batch.to(torch.device("meta")).notes["places"].device.type == "meta"
