"""The loss of the logits as the options say it, on predictions of any kind."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from potstill_layers import soft
from potstill_layers.distil import logit_loss
from potstill_layers.options import Options
from torch import Tensor

from potstill.batch import IGNORED, Batch
from potstill.errors import PluginError
from potstill.tasks import Prediction

ROWS, CLASSES = 6, 4


def drawn() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return (torch.randn(ROWS, CLASSES, generator=generator, dtype=torch.float64) * 2 for _ in range(2))  # type: ignore[return-value]


def loss(
    student: Tensor,
    teacher: Tensor,
    kind: Literal["categorical", "value", "bernoulli"] = "categorical",
    labels: list[int] | None = None,
    **options: Any,
) -> Tensor:
    inputs = {"input_ids": torch.ones(len(student), 3, dtype=torch.long)}
    batch = Batch(inputs, inputs, torch.tensor(labels or [IGNORED] * len(student)), torch.arange(len(student)))
    return logit_loss(Options(**options), Prediction("class", student, kind), teacher, batch)


def soft_ce(student: Tensor, teacher: Tensor, rows: Tensor) -> Tensor:
    """The cross-entropy of every row at its own temperature."""
    return F.cross_entropy(student / rows[:, None], (teacher / rows[:, None]).softmax(-1), reduction="none")


@pytest.mark.parametrize(
    ("options", "factor"),
    [
        ({}, 64),
        ({"reference": "textbrewer"}, 1),
        ({"t_squared": False}, 1),
        ({"reference": "textbrewer", "t_squared": True}, 64),
    ],
)
def test_soft_targets_take_t_squared_unless_textbrewer_s_numbers_are_asked_for(
    options: dict[str, Any], factor: float
) -> None:
    student, teacher = drawn()
    want = factor * soft_ce(student, teacher, torch.full((ROWS,), 8.0)).mean()
    torch.testing.assert_close(loss(student, teacher, temperature=8, **options), want)


def test_mse_of_logits_has_no_t_squared() -> None:
    student, teacher = drawn()
    torch.testing.assert_close(loss(student, teacher, kd="mse"), F.mse_loss(student, teacher) / 16)


@pytest.mark.parametrize("reference", [None, "textbrewer"])
def test_rows_far_from_the_teacher_get_a_lower_temperature_and_none_below_one(reference: str | None) -> None:
    student, teacher = drawn()
    distances = (1 - F.cosine_similarity(student, teacher)) ** 1.5
    rows = 3.0 + 2.5 * (distances.mean() - distances)
    assert rows.min() < 1 < rows.max()
    if reference is None:
        rows = rows.clamp(min=1)
    flsw = {"temperature_schedule": "flsw", "temperature": 3.0, "beta": 2.5, "gamma": 1.5, "t_squared": True}
    want = (soft_ce(student, teacher, rows) * rows**2).mean()
    torch.testing.assert_close(loss(student, teacher, reference=reference, **flsw), want, rtol=3e-3, atol=0)


def test_rows_that_the_student_is_unsure_of_get_a_lower_temperature() -> None:
    student, teacher = drawn()
    weights = 1 / (student.softmax(-1).amax(-1) + 1e-3)
    rows = 4.0 + 0.5 * (weights.mean() - weights)
    found = loss(student, teacher, temperature_schedule="cwsm", beta=0.5, kd="mse")
    torch.testing.assert_close(found, ((student - teacher) / rows[:, None]).square().mean())


def test_the_label_is_shifted_to_the_top_and_rows_without_one_stay() -> None:
    student, teacher = drawn()
    found = loss(student, teacher, labels=[0, 1, 2, 3, IGNORED, IGNORED], probability_shift=True)
    for row in range(4):
        top = int(teacher[row].argmax())
        teacher[row, [row, top]] = teacher[row, [top, row]]
    torch.testing.assert_close(found, soft.kd_ce(student, teacher, 4.0))


def test_a_value_is_learnt_as_it_is_and_yes_no_answers_one_by_one() -> None:
    student, teacher = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [5.0]])
    assert loss(student, teacher, "value", temperature=7).item() == pytest.approx((4 + 9) / 2)
    assert loss(student, student, "value", kd="mse").item() == 0
    none = torch.zeros(2, 3)
    assert loss(none, none, "bernoulli", temperature=2).item() == pytest.approx(4 * 3 * 0.6931472, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"temperature_schedule": "cwsm"}, "'class' is several yes/no answers; take 'flsw' or 'constant'"),
        ({"probability_shift": True}, "probability_shift needs one label for every row of logits"),
    ],
)
def test_what_has_no_meaning_for_yes_no_answers_is_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PluginError, match=sentence):
        loss(*drawn(), "bernoulli", **options)
