"""The plugin `hinton`: soft targets from the teacher beside the task's own hard loss."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from potstill.features import LOGITS
from potstill.plugin import LossTerm, Plugin, PluginConfig, hookimpl
from potstill_hinton import losses

if TYPE_CHECKING:
    from torch import Tensor

    from potstill.stage import Stage
    from potstill.step import Step
    from potstill.tasks import Prediction


class Hinton(Plugin):
    """α · T² · KL(teacher ‖ student) at temperature T + (1 − α) · the task's own loss (arXiv 1503.02531)."""

    name = "hinton"
    provides = frozenset({"objective"})
    requires = frozenset({"teacher"})

    class Config(PluginConfig):
        temperature: float = Field(4.0, gt=0)
        """T: divides the logits of both sides before the softmax."""
        alpha: float = Field(0.9, ge=0)
        """Weight of the soft term."""
        hard: float | None = Field(None, ge=0)
        """Weight of the hard term, the task's own loss on the labels. Left out: 1 - alpha."""
        loss: Literal["kl", "soft_ce", "kl_mean", "logit_mse"] = "kl"
        """The soft term: KL summed over classes, soft cross-entropy, KL averaged over classes too, or MSE of logits."""
        t_squared: bool | None = None
        """Whether the soft term is multiplied by T². Left out: yes, but not for logit_mse."""

        @model_validator(mode="after")
        def _weights_make_sense(self) -> Hinton.Config:
            soft, hard = losses.weights(self.alpha, self.hard)
            if hard < 0:
                raise ValueError(
                    f"alpha = {self.alpha:g} leaves the hard term the weight {hard:g}; "
                    "take an alpha between 0 and 1, or give the hard term's weight as `hard`"
                )
            if soft == hard == 0:
                raise ValueError("alpha = 0 and hard = 0 leave no loss at all; one of them must be above 0")
            return self

    config: Config

    @hookimpl
    def setup(self, stage: Stage) -> None:
        stage.observe(teacher=[LOGITS])

    @hookimpl
    def compute_loss(self, step: Step) -> list[LossTerm]:
        soft, hard = losses.weights(self.config.alpha, self.config.hard)
        terms = self._soft_terms(step, soft) if soft > 0 else []
        if hard > 0:
            terms.append(dataclasses.replace(step.supervised(), name="hard", weight=hard))
        return terms

    def _soft_terms(self, step: Step, weight: float) -> list[LossTerm]:
        """One term a prediction of the task (a span has two: start and end); together they weigh `weight`."""
        task = step.stage.task
        student = task.predictions(step.student().logits, step.batch)
        teacher = task.predictions(step.teacher().logits, step.batch)
        return [
            LossTerm(
                "soft" if len(student) == 1 else f"soft_{learnt.name}",
                self._distance(learnt, known.logits),
                weight=weight / len(student),
                per=learnt.per,
            )
            for learnt, known in zip(student, teacher, strict=True)
        ]

    def _distance(self, student: Prediction, teacher: Tensor) -> Tensor:
        if student.kind == "value":
            return losses.value_mse(student.logits, teacher)
        t_squared = self.config.loss != "logit_mse" if self.config.t_squared is None else self.config.t_squared
        variant = losses.VARIANTS[self.config.loss]
        options: dict[str, Any] = {"t_squared": t_squared, "kind": student.kind}
        if self.config.loss in losses.PER_CLASS:
            options["choices"] = student.choices
        return variant(student.logits, teacher, self.config.temperature, **options)
