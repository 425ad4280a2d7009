"""The core's own plugin: models from the recipe's tables, plain gradients, the task's own loss.

It is registered in every stage, behind all others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from potstill.plugin import LossTerm, Plugin, hookimpl

if TYPE_CHECKING:
    from torch import nn

    from potstill.models import Model
    from potstill.stage import Stage
    from potstill.step import Pass, Step


class Core(Plugin):
    """What happens where no other plugin says otherwise."""

    name = "core"

    @hookimpl(trylast=True)
    def build_teacher(self, stage: Stage) -> Model | None:
        """The `[teacher]` table, or the stage's own: a hub id, a folder or a config."""
        from potstill.models import from_recipe

        table = stage.table
        return None if table is None else from_recipe(table, stage.task, stage.context.root)

    @hookimpl(trylast=True)
    def build_student(self, stage: Stage) -> Model | None:
        """The `[student]` table, or the stage's own: a hub id, a folder, a config, or layers of the teacher."""
        from potstill.models import from_recipe

        table = stage.table
        if table is None:
            return None
        if not stage.teacher_names:
            return from_recipe(table, stage.task, stage.context.root)
        if table.layers is not None:
            return from_recipe(table, stage.task, stage.context.root, teacher=stage.teacher)
        # A student that names no tokenizer of its own reads with the teacher's.
        words = stage.teacher_tokenizer if table.config is not None and table.tokenizer is None else None
        return from_recipe(table, stage.task, stage.context.root, tokenizer=words)

    @hookimpl(trylast=True)
    def compute_loss(self, step: Step) -> list[LossTerm]:
        """The task's own loss, where its weight is not 0."""
        from dataclasses import replace

        weight = step.stage.supervised_weight
        return [replace(step.supervised(), weight=weight)] if weight else []

    @hookimpl(trylast=True)
    def on_step(self, step: Step) -> Pass:
        """One clean pass."""
        return step.gradients()

    @hookimpl(trylast=True)
    def finish_student(self, student: nn.Module) -> nn.Module:
        """The module as it is."""
        return student
