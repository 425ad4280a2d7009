"""DistilBERT's losses against loops over the chosen positions, and what is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from potstill_distilbert.losses import cosine, logit_mse, soft_ce

from potstill.batch import Batch, places
from potstill.errors import ShapeError

MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
LABELS = torch.tensor([[-100, 3, -100, 0], [-100, -100, -100, -100]])


def pair(last: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, 4, last, dtype=torch.float64).requires_grad_(), torch.randn(2, 4, last, dtype=torch.float64)


INPUTS = {"input_ids": torch.zeros_like(MASK), "attention_mask": MASK}
BATCH = Batch(INPUTS, INPUTS, LABELS, torch.arange(2))


@pytest.mark.parametrize(
    ("chosen", "kept"),
    [(BATCH.attended, MASK.bool()), (BATCH.labelled, LABELS >= 0)],
    ids=["all tokens", "the masked ones"],
)
def test_logits_are_compared_at_the_chosen_tokens(chosen: torch.Tensor, kept: torch.Tensor) -> None:
    student, teacher = pair(5)
    known, learnt = (F.softmax(x[kept] / 3, -1) for x in (teacher, student))
    want = 9 * (known * (known / learnt).log()).sum() / kept.sum()
    torch.testing.assert_close(soft_ce(student, teacher, chosen, 3.0), want, rtol=1e-12, atol=0)
    apart = [((student - teacher)[row, place] ** 2).sum() for row, place in kept.nonzero().tolist()]
    want = torch.stack(apart).sum() / kept.sum()
    torch.testing.assert_close(logit_mse(student, teacher, chosen), want, rtol=1e-12, atol=0)


def test_the_cosine_is_a_mean_over_tokens() -> None:
    student, teacher = pair(3)
    angles = [student[i, j] @ teacher[i, j] / student[i, j].norm() / teacher[i, j].norm() for i, j in MASK.nonzero()]
    torch.testing.assert_close(
        cosine(student, teacher, BATCH.attended), 1 - torch.stack(angles).mean(), rtol=1e-12, atol=0
    )


def test_nothing_chosen_is_0_with_a_gradient_of_0() -> None:
    student, teacher = pair(5)
    nothing = places(torch.zeros(2, 4))
    losses = [soft_ce(student, teacher, nothing, 2.0), logit_mse(student, teacher, nothing)]
    loss = torch.stack([*losses, cosine(student, teacher, nothing)]).sum()
    loss.backward()
    assert loss == 0
    assert student.grad is not None
    assert not student.grad.any()


def test_another_vocabulary_or_width_is_refused() -> None:
    chosen = BATCH.attended
    with pytest.raises(ShapeError, match=r"The teacher's logits are \[2, 4, 6\] and the student's \[2, 4, 5\]"):
        soft_ce(pair(5)[0], pair(6)[1], chosen, 2.0)
    with pytest.raises(ShapeError, match=r"The teacher's hidden states are \[2, 4, 6\] and the student's"):
        cosine(pair(5)[0], pair(6)[1], chosen)
