"""The two losses against their formulas."""

from __future__ import annotations

import pytest
import torch
from potstill_diito.losses import causal_ce, causal_cos

from potstill.errors import ShapeError


def test_causal_ce_is_the_kl_over_classes_averaged_over_rows_times_t_squared() -> None:
    student, teacher = torch.randn(2, 5, 7, dtype=torch.float64).unbind()
    p, q = (teacher / 3).softmax(-1), (student / 3).softmax(-1)
    by_hand = 9 * (p * (p / q).log()).sum(-1).mean()
    torch.testing.assert_close(causal_ce(student, teacher, 3.0), by_hand)
    torch.testing.assert_close(causal_ce(student, teacher, 3.0, reduction="mean"), by_hand / 7)


def test_causal_cos_is_a_mean_over_tokens_that_padding_does_not_reach() -> None:
    student, teacher = torch.randn(2, 2, 4, 6, dtype=torch.float64).unbind()
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    pairs = [(0, 0), (0, 1), (0, 2), (1, 0)]
    apart = [1 - student[at] @ teacher[at] / student[at].norm() / teacher[at].norm() for at in pairs]
    torch.testing.assert_close(causal_cos(student, teacher, mask), torch.stack(apart).mean())
    assert causal_cos(student, teacher, torch.zeros_like(mask)) == 0
    with pytest.raises(ShapeError, match=r"\[2, 4, 6\] and the student's \[2, 4, 3\]"):
        causal_cos(student[..., :3], teacher, mask)
