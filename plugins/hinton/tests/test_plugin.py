"""The plugin's terms, on a step that holds fixed logits."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from potstill_hinton import losses
from potstill_hinton.plugin import Hinton
from pydantic import ValidationError
from torch import Tensor

from potstill.batch import EXAMPLE, IGNORED, TARGET, TOKEN, Batch, Unit
from potstill.features import LOGITS
from potstill.plugin import LossTerm
from potstill.recipe import TaskConfig
from potstill.tasks import Prediction, load_task


@dataclass
class Step:
    """As much of a step as the plugin looks at."""

    task: object
    student_logits: Tensor
    teacher_logits: Tensor
    labels: Tensor
    asked: list[str] = field(default_factory=list)

    @property
    def stage(self) -> SimpleNamespace:
        return SimpleNamespace(task=self.task)

    @property
    def batch(self) -> Batch:
        inputs = {"input_ids": torch.ones(len(self.labels), 3, dtype=torch.long)}
        return Batch(inputs, inputs, self.labels, torch.arange(len(self.labels)))

    def student(self) -> SimpleNamespace:
        return SimpleNamespace(logits=self.student_logits)

    def teacher(self) -> SimpleNamespace:
        self.asked.append("teacher")
        return SimpleNamespace(logits=self.teacher_logits)

    def supervised(self) -> LossTerm:
        self.asked.append("supervised")
        return LossTerm("supervised", self.task.loss(self.student_logits, self.batch), per=TARGET)  # type: ignore[attr-defined]


def classification_step(labels: list[int], classes: int = 4, teacher_classes: int = 4) -> Step:
    generator = torch.Generator().manual_seed(5)
    task = load_task(TaskConfig(labels=[f"class {number}" for number in range(classes)]), None)
    rows = len(labels)
    return Step(
        task,
        torch.randn(rows, classes, generator=generator),
        torch.randn(rows, teacher_classes, generator=generator),
        torch.tensor(labels),
    )


def hinton(**options: object) -> Hinton:
    return Hinton(Hinton.Config(**options))  # type: ignore[arg-type]


def test_soft_and_hard_terms_carry_alpha_one_minus_alpha_and_their_units() -> None:
    step = classification_step([0, 1, 2, 3, 1])
    soft, hard = hinton(alpha=0.75, temperature=2.0).compute_loss(step)
    assert (soft.name, soft.weight, soft.per) == ("soft", 0.75, EXAMPLE)
    assert (hard.name, hard.weight, hard.per) == ("hard", 0.25, TARGET)
    assert soft.value.item() == pytest.approx(losses.kl(step.student_logits, step.teacher_logits, 2.0).item())
    assert hard.value.item() == pytest.approx(
        torch.nn.functional.cross_entropy(step.student_logits, step.labels).item(), rel=1e-6
    )


def test_rows_without_a_label_count_for_the_soft_term_and_not_for_the_hard_one() -> None:
    labelled = classification_step([0, 1, 2, 3, 1])
    partly = classification_step([0, IGNORED, 2, IGNORED, IGNORED])
    soft, hard = hinton().compute_loss(partly)
    assert soft.value.item() == hinton().compute_loss(labelled)[0].value.item()
    assert (soft.per.count(partly.batch), hard.per.count(partly.batch)) == (5, 2)
    kept = [0, 2]
    wanted = torch.nn.functional.cross_entropy(partly.student_logits[kept], partly.labels[kept])
    assert hard.value.item() == pytest.approx(wanted.item(), rel=1e-6)


def test_hard_weight_stands_by_itself_where_it_is_given() -> None:
    soft, hard = hinton(alpha=5.0, hard=2.0).compute_loss(classification_step([0, 1]))
    assert (soft.weight, hard.weight) == (5.0, 2.0)


def test_a_term_without_weight_is_neither_returned_nor_computed() -> None:
    only_soft, only_hard = classification_step([0, 1]), classification_step([0, 1])
    assert [term.name for term in hinton(alpha=1.0).compute_loss(only_soft)] == ["soft"]
    assert [term.name for term in hinton(alpha=0.0).compute_loss(only_hard)] == ["hard"]
    assert (only_soft.asked, only_hard.asked) == (["teacher"], ["supervised"])


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"loss": "soft_ce"}, lambda s, t: losses.soft_ce(s, t, 3.0)),
        ({"loss": "soft_ce", "t_squared": False}, lambda s, t: losses.soft_ce(s, t, 3.0, t_squared=False)),
        ({"loss": "kl_mean"}, lambda s, t: losses.kl_mean(s, t, 3.0)),
        ({"loss": "logit_mse"}, lambda s, t: ((s - t) / 3.0).square().mean()),
        ({"loss": "logit_mse", "t_squared": True}, lambda s, t: (s - t).square().mean()),
    ],
)
def test_the_option_loss_chooses_the_soft_term(options: dict[str, object], wanted: object) -> None:
    step = classification_step([0, 1, 2])
    soft = hinton(temperature=3.0, **options).compute_loss(step)[0]
    assert soft.value.item() == pytest.approx(wanted(step.student_logits, step.teacher_logits).item(), rel=1e-6)  # type: ignore[operator]


def test_a_value_head_learns_the_teachers_value_by_mse_whatever_the_temperature() -> None:
    task = load_task(TaskConfig(kind="regression"), None)
    student, teacher = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [5.0]])
    step = Step(task, student, teacher, torch.tensor([float("nan"), 2.0]))
    soft, hard = hinton(temperature=7.0, alpha=0.5).compute_loss(step)
    assert soft.value.item() == pytest.approx((4 + 9) / 2)
    assert hard.value.item() == pytest.approx(0.0)


class Several:
    """A task with a two-way prediction a token and a multi-label one a row."""

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return logits.mean()

    def predictions(self, logits: Tensor, batch: Batch) -> list[Prediction]:
        return [
            Prediction("start", logits[:, :2], "categorical", TOKEN),
            Prediction("topics", logits[:, 2:], "bernoulli", EXAMPLE),
        ]


def test_several_predictions_share_the_soft_weight_and_keep_their_own_units() -> None:
    step = Step(Several(), torch.randn(3, 5), torch.randn(3, 5), torch.zeros(3, dtype=torch.long))
    start, topics = hinton(alpha=0.8, hard=0.0, temperature=2.0).compute_loss(step)
    units: list[Unit] = [start.per, topics.per]
    assert ([start.name, topics.name], units) == (["soft_start", "soft_topics"], [TOKEN, EXAMPLE])
    assert (start.weight, topics.weight) == (0.4, 0.4)
    wanted = losses.kl(step.student_logits[:, 2:], step.teacher_logits[:, 2:], 2.0, kind="bernoulli")
    assert topics.value.item() == pytest.approx(wanted.item(), rel=1e-6)


def test_a_teacher_of_other_classes_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="teacher's logits have 7 classes and the student's 4"):
        hinton().compute_loss(classification_step([0, 1], teacher_classes=7))


def test_the_soft_term_pulls_the_student_and_not_the_teacher() -> None:
    step = classification_step([0, 1, 2])
    step.student_logits.requires_grad_(True)
    sum(term.weight * term.value for term in hinton().compute_loss(step)).backward()  # type: ignore[union-attr]
    assert step.student_logits.grad is not None
    assert step.student_logits.grad.abs().sum() > 0


def test_setup_observes_the_teachers_logits() -> None:
    observed: dict[str, object] = {}
    hinton().setup(SimpleNamespace(observe=observed.update))
    assert observed == {"teacher": [LOGITS]}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"temperature": 0.0}, "greater than 0"),
        ({"alpha": 1.5}, "leaves the hard term the weight -0.5"),
        ({"alpha": 0.0, "hard": 0.0}, "no loss at all"),
        ({"loss": "kullback"}, "kl"),
        ({"temprature": 2.0}, "temprature"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        hinton(**options)
