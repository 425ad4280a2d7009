"""The hooks. A plugin implements those it needs; no implementation may give an argument a default value.

The order of the plugins in the recipe is the order of their hooks; for wrappers, first is outermost.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from torch import nn

    from potstill.batch import Batch
    from potstill.data.random import RowRandom
    from potstill.export import Artifact, ExportJob
    from potstill.models import Model
    from potstill.plugin import LossTerm
    from potstill.recipe import StagePlan
    from potstill.stage import Stage
    from potstill.step import Pass, Step, Update

hookspec = pluggy.HookspecMarker("potstill")


class Hooks:
    """Five pillars (`build_teacher`, `build_student`, `compute_loss`, `on_step`, `export`) and five supports."""

    @hookspec(firstresult=True)
    def build_teacher(self, stage: Stage) -> Model | None:
        """Makes the stage's teacher: a module and its tokenizer.

        Called once a stage, the first time anybody looks at the teacher; not where the teacher comes from an
        earlier stage, from a reference of the stage, or from the caller. The first plugin that returns a
        model decides; None leaves it to the next, at last to the core, which reads the `[teacher]` table.
        The core freezes the teacher and puts it in eval mode.

            @hookimpl
            def build_teacher(self, stage):
                return Model(MyEncoder.from_pretrained(stage.path(self.config.folder)), my_tokenizer)
        """

    @hookspec(firstresult=True)
    def build_student(self, stage: Stage) -> Model | None:
        """Makes a fresh student, for architectures that the recipe's `[student]` table cannot say.

        Called once a stage that starts from a fresh student; not where the student comes from an earlier
        stage or from the caller. None leaves it to the next plugin, at last to the core.

            @hookimpl
            def build_student(self, stage):
                return Model(BiLSTM(self.config.hidden_size, **stage.task.head()), characters)
        """

    @hookspec
    def compute_loss(self, step: Step) -> Iterable[LossTerm] | None:
        """This plugin's terms of the loss for the step's batch.

        Called once for every pass over a micro-batch. The engine sums all plugins' terms by weight and
        share; a plugin never calls `backward`. None or an empty list means no term this time.

            @hookimpl
            def compute_loss(self, step):
                distance = mse(step.student()[Hidden(-1)], step.teacher()[Hidden(-1)])
                return [LossTerm("hidden", distance, weight=self.config.weight)]
        """

    @hookspec(firstresult=True)
    def on_step(self, step: Step) -> Pass:  # type: ignore[empty-body]
        """Computes the gradients of one micro-batch; made to be wrapped.

        The core's implementation calls `step.gradients()`. A wrapper may do more passes:

            @hookimpl(wrapper=True)
            def on_step(self, step):
                clean = yield
                with self.perturbed(step):
                    step.gradients("adversarial")
                return clean
        """

    @hookspec
    def export(self, job: ExportJob) -> Artifact | None:
        """Writes the finished student in another form, below `job.folder`, and proves that it is as good.

        @hookimpl
        def export(self, job):
            path = job.folder / "model.onnx"
            write(job.student.module, path)
            return Artifact("onnx", files=(path,))
        """

    @hookspec(firstresult=True)
    def expand_stage(self, plan: StagePlan) -> list[StagePlan] | None:
        """Replaces a stage by several. Called before anything is loaded, and again on what it returned.

        None leaves the stage as it is. A plan that keeps this plugin and would expand the same way again
        must be recognised (by an option, say): an endless expansion is an error.

            @hookimpl
            def expand_stage(self, plan):
                return [plan.with_(name="general"), plan.with_(name="task", student="previous")]
        """

    @hookspec
    def setup(self, stage: Stage) -> None:
        """Prepares a stage: observe features, claim a slot, add modules and units.

        Called once a stage, before the data is tokenized and before the first batch. `stage.student` and
        `stage.teacher` may be looked at; looking at the teacher loads it. What depends on other plugins' setup
        goes into a function for `stage.after_setup`.

            @hookimpl
            def setup(self, stage):
                stage.observe(teacher=[LOGITS], student=[LOGITS])
        """

    @hookspec
    def on_update(self, update: Update) -> None:
        """After each optimizer update; `update.applied` says whether the weights were changed.

        @hookimpl
        def on_update(self, update):
            if update.applied:
                self.rate = min(1.0, self.rate + self.config.step)
        """

    @hookspec
    def collate(self, batch: Batch, rng: RowRandom) -> None:
        """Changes a batch in place: masking, companions, positions. Every random draw on data goes here.

        Called on the CPU, before the units are counted. `rng` is keyed by (seed, epoch, row), so one
        process and two draw the same.

            @hookimpl
            def collate(self, batch, rng):
                draws = rng.uniform(batch.student["input_ids"].shape[1])   # [batch, seq]
                batch.student["input_ids"][draws < 0.15] = self.mask_id
        """

    @hookspec(firstresult=True)
    def finish_student(self, student: nn.Module) -> nn.Module:  # type: ignore[empty-body]
        """Turns the trained module into the student that is saved; the core's returns it as it is.

        @hookimpl(wrapper=True)
        def finish_student(self, student):
            return successor_only((yield))
        """
