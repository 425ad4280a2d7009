"""BertAdam and clipping parameter by parameter, against their formulas written out."""

from __future__ import annotations

import math

import pytest
import torch
from potstill_tinybert.optimizer import BertAdam, clip_each
from torch import nn


def parameter(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


def test_two_updates_are_adam_without_bias_correction_and_with_decay_inside_the_learning_rate() -> None:
    learnt = parameter(2.0)
    optimizer = BertAdam([learnt], lr=0.1, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.5)
    value, mean, square = 2.0, 0.0, 0.0
    for gradient in (3.0, -1.0):
        learnt.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        mean, square = 0.9 * mean + 0.1 * gradient, 0.99 * square + 0.01 * gradient**2
        value -= 0.1 * (mean / (math.sqrt(square) + 1e-6) + 0.5 * value)
        assert learnt.item() == pytest.approx(value, rel=1e-12)


def test_a_parameter_without_a_gradient_neither_moves_nor_decays() -> None:
    used, unused = parameter(1.0), parameter(1.0)
    optimizer = BertAdam([used, unused], lr=0.1)
    used.grad = torch.ones(1, dtype=torch.float64)
    optimizer.step()
    assert (used.item() < 1.0, unused.item()) == (True, 1.0)


def test_a_restored_state_goes_on_exactly() -> None:
    one, other = parameter(1.0, -2.0), parameter(1.0, -2.0)
    whole, first = BertAdam([one], lr=0.1), BertAdam([other], lr=0.1)
    one.grad, other.grad = torch.full_like(one, 0.3), torch.full_like(one, 0.3)
    whole.step()
    first.step()
    second = BertAdam([other], lr=0.1)
    second.load_state_dict(first.state_dict())
    whole.step()
    second.step()
    assert torch.equal(one, other)


def test_each_gradient_is_clipped_by_its_own_norm_and_the_norm_of_all_is_told() -> None:
    large, small, without = parameter(0.0, 0.0), parameter(0.0), parameter(0.0)
    large.grad = torch.tensor([3.0, 4.0], dtype=torch.float64)
    small.grad = torch.tensor([0.5], dtype=torch.float64)
    norm = clip_each(1.0)([large, small, without])
    assert norm.item() == pytest.approx(math.sqrt(25.25))
    assert large.grad.norm().item() == pytest.approx(1.0, rel=1e-5)
    assert small.grad.item() == 0.5
    assert clip_each(None)([large, small]).item() == pytest.approx(math.sqrt(1.25), rel=1e-5)
    assert large.grad.norm().item() == pytest.approx(1.0, rel=1e-5)
