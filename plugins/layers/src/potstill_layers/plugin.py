"""The plugin `layers`: any layer of the teacher against any layer of the student, and soft targets."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from potstill.context import same_tokenizer
from potstill.errors import PluginError
from potstill.features import LOGITS
from potstill.plugin import LossTerm, Plugin, hookimpl
from potstill_layers.distil import logit_loss
from potstill_layers.matching import Matched, matched
from potstill_layers.options import Options
from potstill_layers.schedules import WeightSchedule, scheduled

if TYPE_CHECKING:
    from potstill.stage import Stage
    from potstill.step import Step


class LayerMatching(Plugin):
    """Σ weight · distance(teacher's layer, student's layer) + soft targets + the task's own loss, each where asked."""

    name = "layers"
    provides = frozenset({"objective"})
    requires = frozenset({"teacher"})

    Config = Options
    config: Options

    def __init__(self, config: Options) -> None:
        super().__init__(config)
        self._matched: list[Matched] = []

    @hookimpl
    def setup(self, stage: Stage) -> None:
        self._matched = matched(self.config, stage)
        self._check_tokenizers(stage)
        for one in self._matched:
            stage.observe(teacher=one.teacher, student=one.student, of=one.of)
            stage.add_unit(one.per)
            if one.projection is not None:
                stage.add_module(f"{self.name}.{one.name}", one.projection)
        if self.config.kd != "none":
            stage.observe(teacher=[LOGITS])
        stage.explain("matches", [one.told for one in self._matched])
        stage.explain("logits", self._told())

    @hookimpl
    def compute_loss(self, step: Step) -> list[LossTerm]:
        terms = [self._match_term(step, one) for one in self._matched]
        if self.config.kd != "none":
            terms += self._logit_terms(step)
        if self.config.hard_weight:
            weight = self._weight(step, self.config.hard_weight, self.config.hard_weight_schedule)
            terms.append(dataclasses.replace(step.supervised(), name="hard", weight=weight))
        return terms

    def _match_term(self, step: Step, one: Matched) -> LossTerm:
        value = one.value(step.student(), step.teacher(of=one.of))
        return LossTerm(one.name, value, weight=one.match.weight, per=one.per)

    def _logit_terms(self, step: Step) -> list[LossTerm]:
        """One term a prediction of the task (a span has two: start and end); together they weigh `kd_weight`."""
        task, batch = step.stage.task, step.batch
        student = task.predictions(step.student().logits, batch)
        teacher = task.predictions(step.teacher().logits, batch)
        weight = self._weight(step, self.config.kd_weight, self.config.kd_weight_schedule)
        return [
            LossTerm(
                "kd" if len(student) == 1 else f"kd_{learnt.name}",
                logit_loss(self.config, learnt, known.logits, batch),
                weight=weight / len(student),
                per=learnt.per,
            )
            for learnt, known in zip(student, teacher, strict=True)
        ]

    def _weight(self, step: Step, weight: float, schedule: WeightSchedule) -> float:
        """The weight in the update under way: at its middle, so that none is ever 0; TextBrewer's, at its start."""
        replaces = self.config.reference is not None
        total = max(1, step.stage.total_updates)  # 0 as long as the rows are not counted
        progress = (step.update + (0 if replaces else 0.5)) / total
        return scheduled(weight, schedule, progress, replaces=replaces)

    def _check_tokenizers(self, stage: Stage) -> None:
        aligned = [one for one in self._matched if one.aligned]
        if aligned and not same_tokenizer(stage.student.tokenizer, stage.teacher_tokenizer):
            raise PluginError(
                f"stage '{stage.plan.name}': '{aligned[0].name}' compares position by position, so teacher and student "
                "must share a tokenizer, and they do not; pkd, pooled vectors and logits can be matched."
            )

    def _told(self) -> str:
        """The loss of the logits, and of the labels, in words."""
        options, parts = self.config, []
        if options.kd != "none":
            squared = ", times T²" if options.scales else ""
            parts.append(
                f"{options.kd} at temperature {options.temperature:g} ({options.temperature_schedule}){squared}, "
                f"weight {options.kd_weight:g} ({options.kd_weight_schedule})"
            )
        if options.hard_weight:
            parts.append(f"labels, weight {options.hard_weight:g} ({options.hard_weight_schedule})")
        return "; ".join(parts) or "not compared"
