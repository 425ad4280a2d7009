"""The models of one stage, made or loaded from the references of its plan."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from potstill import checkpoint
from potstill.context import same_tokenizer
from potstill.errors import ModelError, PluginError
from potstill.models import Model, load_model
from potstill.plugin import Plugin
from potstill.references import FRESH, stage_named, tables_used, teacher_side
from potstill.settings import ModelConfig, Reference
from potstill.tokenizers import load_tokenizer

if TYPE_CHECKING:
    from potstill.stage import Stage


MODULES = "modules"
"""Beside the model that a stage hands on, the folder with the modules that plugins added."""


class StageModels:
    """Makes a stage's models, each teacher the first time somebody asks for it.

    Attributes:
        table: of the model that is being made; None where none is, or no table describes it.
    """

    def __init__(self, stage: Stage) -> None:
        # The stage holds this: a circle of references would keep its models until the next collection.
        self._stage = weakref.ref(stage)
        self._context, self._plan = stage.context, stage.plan
        self._teachers: dict[str, Model] = {}
        self.table: ModelConfig | None = None

    @property
    def _owner(self) -> Stage:
        stage = self._stage()
        assert stage is not None, "a stage outlives its models"
        return stage

    @property
    def names(self) -> tuple[str, ...]:
        """The teachers' names; the only one is called ""."""
        return tuple(self._plan.every_teacher)

    @cached_property
    def modules_before(self) -> dict[str, dict[str, Tensor]]:
        """The states of the modules that plugins added to the stage which the student goes on from, by name."""
        before = stage_named(self._plan.student)
        folder = None if before is None else self._context.handed_on[before].with_name(MODULES)
        return checkpoint.read_tree(folder) if folder is not None and folder.is_dir() else {}

    def only(self) -> str:
        """The name of the stage's one teacher.

        Raises: ModelError where it has none, or several.
        """
        if not self.names:
            raise ModelError(f"The stage '{self._plan.name}' has no teacher; add a [teacher] table to the recipe.")
        if len(self.names) > 1:
            raise ModelError(
                f"The stage '{self._plan.name}' has the teachers {', '.join(self.names)}; say which one is meant, or "
                "look at their logits alone, whose mean is taken."
            )
        return self.names[0]

    def student(self) -> Model:
        """The model that is trained, for the first time or further."""
        reference = self._plan.student
        assert reference is not None, "references are resolved before a stage is made"
        side = "teacher" if self._plan.trains == "teacher" else "student"
        return self._made(reference, side, tables_used(self._context.recipe, self._plan).get("student"))

    def teacher(self, name: str) -> Model:
        """A teacher, frozen and in eval mode.

        Raises: ModelError where the stage has no teacher of that name.
        """
        if name not in self.names:
            known = ", ".join(self.names) if any(self.names) else "one without a name" if self.names else "none"
            raise ModelError(f"The stage '{self._plan.name}' has no teacher '{name}'; its teachers: {known}.")
        if name not in self._teachers:
            # A draw of its own: when a teacher is loaded changes no draw of the student's.
            with checkpoint.own_random(self._owner.seed + 1 + self.names.index(name)):
                model = self._made(self._plan.every_teacher[name], "teacher", self._teacher_table(name))
            model.module.to(self._context.ranks.device).eval().requires_grad_(False)
            self._teachers[name] = model
        return self._teachers[name]

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that all teachers share, without loading a teacher where that can be helped.

        Raises: ModelError where the stage has no teacher, or teachers that read differently.
        """
        if len(self.names) <= 1:
            return self._tokenizer(self.only())
        words = [self._tokenizer(name) for name in self.names]
        for name, other in zip(self.names[1:], words[1:], strict=True):
            if not same_tokenizer(words[0], other):
                raise ModelError(
                    f"The teachers '{self.names[0]}' and '{name}' of the stage '{self._plan.name}' have different "
                    "tokenizers, and several teachers must share one."
                )
        return words[0]

    def check_requirements(self, plugins: Iterable[Plugin]) -> None:
        """What plugins require of the models is there.

        Raises: PluginError for a teacher or a shared tokenizer that is missing.
        """
        for plugin in plugins:
            if "teacher" in plugin.requires and not self.names:
                raise PluginError(
                    f"The plugin '{plugin.name}' needs a teacher, and the stage '{self._plan.name}' has none; "
                    "add a [teacher] table or a stage that trains one."
                )
            if "same-tokenizer" in plugin.requires and not same_tokenizer(
                self._owner.student.tokenizer, self.tokenizer()
            ):
                raise PluginError(
                    f"The plugin '{plugin.name}' compares position by position, so teacher and student must share a "
                    f"tokenizer; in the stage '{self._plan.name}' they do not."
                )

    def _tokenizer(self, name: str) -> PreTrainedTokenizerBase:
        reference, table = self._plan.every_teacher[name], self._teacher_table(name)
        if isinstance(reference, str) and reference != FRESH:
            return load_tokenizer(self._context.find(reference), None)
        named = table.tokenizer or table.model if table is not None and table.plugin is None else None
        given = reference == FRESH and "teacher" in self._context.given
        if named is None or table is None or given or name in self._teachers:
            return self.teacher(name).tokenizer
        return load_tokenizer(named, self._context.root, trust=table.trust_remote_code)

    def _teacher_table(self, name: str) -> ModelConfig | None:
        return tables_used(self._context.recipe, self._plan).get(teacher_side(name))

    def _made(self, reference: Reference, side: str, table: ModelConfig | None) -> Model:
        if isinstance(reference, str) and reference != FRESH:
            return load_model(self._context.find(reference), self._context.task)
        given = self._context.given.get(side) if reference == FRESH else None
        if given is not None:
            # A copy: what the caller holds is neither trained nor frozen nor moved, and the same call can go on.
            return Model(copy.deepcopy(given.module), given.tokenizer, given.fresh)
        before, self.table = self.table, table  # a student of the teacher's layers makes the teacher in between
        stage = self._owner
        build = stage.hook.build_teacher if side == "teacher" else stage.hook.build_student
        try:
            model: Model | None = build(stage=stage)
        finally:
            self.table = before
        if model is None:
            raise ModelError(f"No plugin and no [{side}] table of the recipe makes a {side}.")
        return model
