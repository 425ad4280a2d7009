"""The plugin `theseus`: layers of the teacher are replaced by the student's, at random, until the student is left."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

from potstill.errors import ModelError, PluginError
from potstill.features import Hidden, Output
from potstill.plugin import Plugin, hookimpl
from potstill_theseus.config import TheseusConfig
from potstill_theseus.phases import parts_of

if TYPE_CHECKING:
    from torch import nn

    from potstill.models import Model
    from potstill.recipe import StagePlan
    from potstill.stage import Stage
    from potstill.step import Pass, Step, Update
    from potstill_theseus.modules import Replaceable


class Theseus(Plugin):
    """Progressive module replacing (Xu et al. 2020, *BERT-of-Theseus*, arXiv 2002.02925)."""

    name = "theseus"
    requires = frozenset({"teacher", "same-tokenizer"})

    Config = TheseusConfig

    config: TheseusConfig

    def __init__(self, config: TheseusConfig) -> None:
        super().__init__(config)
        self.modules: tuple[Replaceable, ...] = ()
        self._applied = 0
        self._sampled: set[int] = set()
        self._built = self._inner = False

    @hookimpl
    def expand_stage(self, plan: StagePlan) -> list[StagePlan] | None:
        return None if self.config.phase else parts_of(plan, self.name, self.config)

    @hookimpl
    def build_student(self, stage: Stage) -> Model | None:
        """The predecessor with fewer layers; a [student] table that names another model is the core's to read."""
        from potstill_theseus.hybrid import successor

        if stage.table is not None and stage.table.plugin != self.name:
            return None
        self._built = True
        return successor(stage.teacher, self.config.layers, self.config.start, stage.task)

    @hookimpl
    def setup(self, stage: Stage) -> None:
        from potstill_theseus.hybrid import outside, replaceable

        student = stage.student.module
        others = [] if self.config.trains == "all" else outside(student)
        if self.config.phase != "tune":
            self._check(stage)
            self.modules = replaceable(student, stage.teacher.module)
            others += [value for module in self.modules for value in module.predecessor.parameters()]
            self._explain(stage)
            stage.after_setup(lambda: self._look(stage))
        for value in others:
            value.requires_grad_(self.config.clip == "all")
        if self.config.clip == "all":
            stage.scale_rate(others, 0.0)
        stage.explain("trains", self.config.trains)

    @hookimpl(wrapper=True, tryfirst=True)  # the draw stands before anybody's pass, and holds for all of them
    def on_step(self, step: Step) -> Generator[None, Pass, Pass]:
        from potstill_theseus.modules import move_unsampled

        if self.modules:
            self._draw(step)
        done = yield
        if self.config.unsampled == "move":
            move_unsampled(self.modules, self._sampled)
        return done

    @hookimpl
    def on_update(self, update: Update) -> None:
        self._applied = update.applied_updates

    @hookimpl(wrapper=True)
    def finish_student(self, student: nn.Module) -> Generator[None, nn.Module, nn.Module]:
        from potstill_theseus.hybrid import plain

        finished = yield
        return plain(finished)

    def state_dict(self) -> dict[str, Any]:
        return {"applied": self._applied, "sampled": sorted(self._sampled)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._applied, self._sampled = state["applied"], set(state["sampled"])

    # what setup looks at

    def _check(self, stage: Stage) -> None:
        """The predecessor knows the task, and the options are about the student that is there."""
        if stage.teacher.fresh:
            raise ModelError(
                f"theseus keeps the teacher's head, and no checkpoint gave its {stage.teacher.fresh[-1]} a value; set "
                "theseus.predecessor = {}, add a stage with trains = 'teacher' before, or name a fine-tuned model."
            )
        said = sorted({"layers", "start"} & self.config.model_fields_set)
        if said and not self._built:
            raise ModelError(
                f"theseus.{said[0]} = {getattr(self.config, said[0])!r} is for a student that theseus makes, and the "
                f"recipe says what the student of the stage '{stage.plan.name}' is; leave out the one or the other."
            )

    def _explain(self, stage: Stage) -> None:
        run = len(self.modules[0].predecessor)
        runs = [(number, (number - 1) * run + 1, number * run) for number in range(1, len(self.modules) + 1)]
        stage.explain("modules", [f"student {own} ↔ teacher {first} to {last}" for own, first, last in runs])
        stage.explain("start", self.config.start if self._built else "as the recipe's student")
        stage.explain("rate", self.config.told())

    def _look(self, stage: Stage) -> None:
        """What all plugins together observe of the student can be had."""
        inner = [feature for feature in stage.observed["student"] if not isinstance(feature, Output)]
        attention = [feature for feature in inner if not isinstance(feature, Hidden)]
        if attention and self.config.draw == "example":
            raise PluginError(
                f"theseus.draw = 'example' mixes rows of two layers, so {attention[0]} of the student cannot be "
                "observed; take theseus.draw = 'batch'."
            )
        self._inner = bool(inner)

    # what a step does

    def _draw(self, step: Step) -> None:
        """Draws this micro-batch's modules, from what all ranks and a resumed run know too."""
        from potstill_theseus.replacing import draw

        by_row = self.config.draw == "example"
        rate = self.config.rate_after(self._applied, step.stage.total_updates)
        keys = step.batch.index.cpu().numpy() if by_row else [step.micro]  # waits for the device
        drawn = draw(rate, len(self.modules), seed=step.stage.seed, update=step.update, keys=keys)
        for module, rows in zip(self.modules, drawn.T, strict=True):
            together = bool((rows == rows[0]).all())
            module.replaced = bool(rows[0]) if together else rows.to(step.batch.index.device)
        # A loss inside, or behind kept modules alone, may depend on nothing that learns.
        self.modules[0].anchored = self._inner or all(module.replaced is False for module in self.modules)
