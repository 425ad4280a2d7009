"""Cutting an epoch into updates, and that the engine's shares make an update equal to the full batch."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from potstill_accumulate.plugin import Accumulate, runs
from pydantic import ValidationError
from torch import Tensor

from potstill.batch import IGNORED, TARGET, TOKEN, Batch
from potstill.shares import shares


@given(st.integers(0, 30), st.integers(1, 9))
def test_runs_hold_every_item_once_in_order_and_only_the_last_is_shorter(count: int, length: int) -> None:
    groups = list(runs(range(count), length))
    assert [item for group in groups for item in group] == list(range(count))
    assert all(len(group) == length for group in groups[:-1])
    assert len(groups) == -(-count // length)
    assert all(groups)


def test_setup_claims_the_slot_batching_with_the_option_s_number() -> None:
    claims: dict[str, object] = {}
    plugin = Accumulate(Accumulate.Config(batches=3))
    plugin.setup(SimpleNamespace(claim=claims.__setitem__))
    epoch = [np.arange(start, start + 2) for start in range(0, 14, 2)]
    assert list(claims) == ["batching"]
    groups = claims["batching"](epoch)  # type: ignore[operator]
    assert [[rows.tolist() for rows in group] for group in groups] == [
        [[0, 1], [2, 3], [4, 5]],
        [[6, 7], [8, 9], [10, 11]],
        [[12, 13]],
    ]


@pytest.mark.parametrize("batches", [0, -2, 1.5])
def test_fewer_than_one_micro_batch_is_refused(batches: float) -> None:
    with pytest.raises(ValidationError):
        Accumulate.Config(batches=batches)  # type: ignore[arg-type]


def token_batch(rows: int, width: int, generator: torch.Generator) -> tuple[Batch, Tensor]:
    """Rows of random length with random labels, a third of them ignored, and features [rows, width, 5]."""
    lengths = torch.randint(1, width + 1, (rows,), generator=generator)
    mask = (torch.arange(width) < lengths[:, None]).long()
    labels = torch.randint(0, 4, (rows, width), generator=generator)
    labels[(mask == 0) | (torch.rand(rows, width, generator=generator) < 1 / 3)] = IGNORED
    inputs = {"input_ids": mask.clone(), "attention_mask": mask}
    return Batch(inputs, inputs, labels, torch.arange(rows)), torch.randn(rows, width, 5, generator=generator)


def loss_terms(weight: Tensor, batch: Batch, features: Tensor) -> tuple[Tensor, Tensor]:
    """A mean per label and a mean per token."""
    logits = features @ weight.T
    labelled = batch.labels != IGNORED
    real = batch.student["attention_mask"].bool()
    return F.cross_entropy(logits[labelled], batch.labels[labelled]), logits[real].square().sum(-1).mean()


@pytest.mark.parametrize("seed", range(8))
def test_accumulating_uneven_batches_with_ignored_labels_equals_the_full_batch(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    parts = [token_batch(rows, 7, generator) for rows in (5, 1, 3, 2)]
    parts[1][0].labels.fill_(IGNORED)  # a micro-batch without a single label
    weight = torch.randn(4, 5, generator=generator, requires_grad=True)

    whole = Batch(
        {name: torch.cat([batch.student[name] for batch, _ in parts]) for name in ("input_ids", "attention_mask")},
        {},
        torch.cat([batch.labels for batch, _ in parts]),
        torch.arange(11),
    )
    hard, squares = loss_terms(weight, whole, torch.cat([features for _, features in parts]))
    (wanted,) = torch.autograd.grad(0.3 * hard + 0.7 * squares, weight)

    update = shares([batch for batch, _ in parts])
    summed = torch.zeros_like(weight)
    for micro, (batch, features) in enumerate(parts):
        terms = zip(loss_terms(weight, batch, features), (0.3, 0.7), (TARGET, TOKEN), strict=True)
        for value, factor, unit in terms:
            if update.count(unit, micro):
                summed += torch.autograd.grad(value * factor * update.share(unit, micro), weight, retain_graph=True)[0]
    torch.testing.assert_close(summed, wanted, rtol=1e-6, atol=1e-6)
