"""One training stage: its models, its data, and what its plugins asked for."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from potstill import loader
from potstill.batch import UNITS, Batch, Unit
from potstill.checkpoint import own_random, seed_everything
from potstill.context import same_tokenizer
from potstill.data.batching import bucketed
from potstill.errors import ModelError, PluginError, RecipeError
from potstill.features import LOGITS, Feature
from potstill.models import Model, check_length, load_model
from potstill.observe import Observer, Outputs
from potstill.optimizer import Precision, adamw, clip_norm, parameter_groups
from potstill.plugin_checks import implementations
from potstill.recall import teacher_logits
from potstill.recipe import Recipe, StagePlan
from potstill.schedule import multiplier, warmup_updates
from potstill.tokenizers import load_tokenizer

if TYPE_CHECKING:
    from potstill.context import Context
    from potstill.data.examples import Examples

SLOTS = ("sampler", "batching", "precision", "optimizer", "scheduler", "clip")
"""What one plugin at most may decide in a stage, by `stage.claim`."""


class Stage:
    """What a plugin sees of the stage it works in.

    Attributes:
        plan: the stage as the recipe says it, references resolved.
        recipe: the whole recipe.
        task: the task.
        student: the model that is trained; in a stage that trains the teacher, that is the teacher.
        exit: closed when the stage ends, however it ends; hooks and patches go on it.
        modules: what plugins added, by name.
        total_updates: of the whole stage; known once the data is there (after `setup`), as `updates_per_epoch`.
    """

    def __init__(self, context: Context, plan: StagePlan) -> None:
        self.context = context
        self.plan = plan
        self.recipe: Recipe = context.recipe
        self.task = context.task
        self.progress = context.progress
        self.plugins = loader.stage_plugins(self.recipe, plan)
        self._manager = loader.manager(self.plugins)
        self.hook: Any = self._manager.hook
        self.exit = ExitStack()
        self.modules: dict[str, nn.Module] = {}
        self.units: list[Unit] = list(UNITS)
        self.total_updates = self.updates_per_epoch = 0
        self._observed: dict[str, set[Feature]] = {"teacher": set(), "student": {LOGITS}}
        self._observers: dict[str, Observer] = {}
        self._claims: dict[str, tuple[Any, str]] = {}
        self._setting_up = "core"
        self._teacher: Model | None = None
        self._known_logits: Tensor | None = None
        try:
            seed_everything(self.seed)
            self.student = self._build_student()
            self.hooks_before = count_hooks(self.student.module)  # a caller's own model may bring some
            self.student.module.to(context.ranks.device)
            self.student.module.train().requires_grad_(True)
            if context.ranks.world > 1:  # other dropout on other rows
                seed_everything(self.seed + context.ranks.rank)
            self._setup()
        except BaseException:
            self.exit.close()
            raise
        self.precision: Precision = self._slot("precision", Precision())

    # what plugins use

    @property
    def seed(self) -> int:
        """The stage's seed, else the run's. Two stages with one seed start the same student from the same weights
        and see the rows in the same order, so that what differs is what they are about."""
        return self.recipe.seed if self.plan.seed is None else self.plan.seed

    @property
    def has_teacher(self) -> bool:
        """Whether the recipe gives this stage a teacher (looking does not load it)."""
        return self.plan.teacher is not None

    @property
    def teacher(self) -> Model:
        """The teacher, frozen and in eval mode; loaded the first time somebody looks.

        When that is changes no random draw of the student's: a resumed stage may load it at another moment.

        Raises:
            ModelError: the stage has none.
        """
        if self._teacher is None:
            with own_random(self.seed + 1):
                self._teacher = self._build_teacher()
            self._teacher.module.to(self.context.ranks.device)
            self._teacher.module.eval().requires_grad_(False)
        return self._teacher

    @property
    def teacher_tokenizer(self) -> PreTrainedTokenizerBase:
        """The teacher's tokenizer, without loading the teacher where that can be helped.

        Raises:
            ModelError: the stage has no teacher.
        """
        reference, table = self.plan.teacher, self.recipe.teacher
        if reference is not None and reference != "fresh":
            return load_tokenizer(self.context.find(reference), None)
        named = table.tokenizer or table.model if table is not None and table.plugin is None else None
        if reference is None or named is None or table is None or "teacher" in self.context.given:
            return self.teacher.tokenizer
        return load_tokenizer(named, self.context.root, trust=table.trust_remote_code)

    def path(self, spec: str) -> Path:
        """A path of the recipe: below the data root where it is there, else as it stands."""
        return self.context.path(spec)

    def observe(self, *, teacher: Iterable[Feature] = (), student: Iterable[Feature] = ()) -> None:
        """Asks for features; what several plugins ask for is computed once. The student's logits are always there."""
        self._observed["teacher"] |= set(teacher)
        self._observed["student"] |= set(student)

    def claim(self, slot: str, value: Any) -> None:
        """Decides something that only one plugin may decide; see `SLOTS`.

        Raises:
            PluginError: no such slot, or another plugin has it.
        """
        if slot not in SLOTS:
            raise PluginError(f"There is no slot '{slot}'; the slots are {', '.join(SLOTS)}.")
        if slot in self._claims:
            raise PluginError(
                f"The plugins '{self._claims[slot][1]}' and '{self._setting_up}' both want the slot '{slot}' in the "
                f"stage '{self.plan.name}'; only one may have it."
            )
        self._claims[slot] = (value, self._setting_up)

    def add_module(self, name: str, module: nn.Module) -> None:
        """Adds a module (a projection) that is optimized, clipped and checkpointed, and dropped at export."""
        if name in self.modules:
            raise PluginError(f"Two modules are called '{name}' in the stage '{self.plan.name}'.")
        self.modules[name] = module.to(self.context.ranks.device)

    def add_unit(self, unit: Unit) -> None:
        """Makes a unit of a plugin's own known, so that loss terms may be means of it."""
        if all(unit != known for known in self.units):
            self.units.append(unit)

    # what the engine uses

    @property
    def parameters(self) -> list[Tensor]:
        """What is trained: the student's parameters and those of added modules, each once."""
        modules = [self.student.module, *self.modules.values()]
        every = dict.fromkeys(parameter for module in modules for parameter in module.parameters())
        return [parameter for parameter in every if parameter.requires_grad]

    @property
    def looks_at_teacher(self) -> bool:
        """Whether any plugin observes the teacher, so that it has to run."""
        return bool(self._observed["teacher"])

    @property
    def observed(self) -> dict[str, list[Feature]]:
        """What is observed of teacher and student."""
        return {side: sorted(features, key=str) for side, features in self._observed.items()}

    @property
    def owners(self) -> dict[str, str]:
        """The slots that plugins claimed, and by which plugin."""
        return {slot: name for slot, (_, name) in self._claims.items()}

    @property
    def supervised_weight(self) -> float:
        """The weight of the task's own loss: the plan's, else 0 where a plugin brings an objective, else 1."""
        if self.plan.supervised is not None:
            return self.plan.supervised
        return 0.0 if any("objective" in plugin.provides for plugin in self.plugins) else 1.0

    def observer(self, side: str) -> Observer:
        """The observer of "teacher" or "student", made when first used."""
        if side not in self._observers:
            if not self._observed[side]:
                raise PluginError("A plugin uses the teacher's outputs but observed none; call stage.observe in setup.")
            module = (self.teacher if side == "teacher" else self.student).module
            self._observers[side] = Observer(module, self._observed[side], side)
            self.exit.callback(self._observers[side].close)
        return self._observers[side]

    def ask_teacher(self, rows: Examples) -> None:
        """Computes the teacher's logits of all rows beforehand, where that saves passes and changes nothing."""
        many_epochs = self.total_updates > self.updates_per_epoch
        changing = any("collate" in implementations(type(plugin)) for plugin in self.plugins)
        if self.plan.teacher_once and many_epochs and not changing and self._observed["teacher"] == {LOGITS}:
            known = teacher_logits(self, rows)
            self._known_logits = None if known is None else known.to(self.context.ranks.device)

    def known_outputs(self, batch: Batch) -> Outputs | None:
        """The teacher's outputs for a batch of the training rows, unchanged, where they are known beforehand."""
        if self._known_logits is None:
            return None
        return self.observer("teacher").outputs({LOGITS: self._known_logits[batch.index]}, batch.teacher)

    def with_logits(self, raw: Any, outputs: Outputs) -> Outputs:
        """Outputs with the task's logits taken from the model's own output, where the model ran to its end."""
        return outputs if raw is None else outputs.with_logits(self.task.logits(raw))

    def examples(self, split: str) -> Examples | None:
        """The rows of a split, tokenized for the student and, where it is looked at, the teacher."""
        check_length(self.student.module, self.recipe.data.max_length, "student")
        if self.looks_at_teacher:
            check_length(self.teacher.module, self.recipe.data.max_length, "teacher")
        teacher = self.teacher.tokenizer if self.looks_at_teacher else None
        return self.context.examples(split, self.student.tokenizer, teacher)

    def batches(self, lengths: np.ndarray, epoch: int) -> list[Sequence[np.ndarray]]:
        """An epoch's updates: groups of micro-batches, each an array of row numbers."""

        def sampler(lengths: np.ndarray, batch_size: int, epoch: int) -> list[np.ndarray]:
            return bucketed(lengths, batch_size, seed=self.seed, epoch=epoch)

        rows = self._slot("sampler", sampler)(lengths, self.plan.batch_size, epoch)
        return list(self._slot("batching", _one_by_one)(rows))

    def count_updates(self, lengths: np.ndarray) -> None:
        """Sets `total_updates` and `updates_per_epoch`, now that the rows are there.

        Raises:
            RecipeError: the warm-up is longer.
        """
        plan = self.plan
        self.updates_per_epoch = len(self.batches(lengths, 0))
        self.total_updates = plan.updates or math.ceil((plan.epochs or 0) * self.updates_per_epoch)
        if warmup_updates(plan.warmup, self.total_updates) > self.total_updates:
            raise RecipeError(
                f"The stage '{plan.name}' has {self.total_updates} updates and a warm-up of {plan.warmup}."
            )

    def make_optimizer(self) -> Any:
        """The optimizer over everything trained."""
        groups = parameter_groups([self.student.module, *self.modules.values()], self.plan.weight_decay)
        return self._slot("optimizer", adamw)(groups, self.plan)

    @property
    def clip(self) -> Callable[[list[Tensor]], Tensor]:
        """How gradients are clipped."""
        clip: Callable[[list[Tensor]], Tensor] = self._slot("clip", clip_norm(self.plan.clip))
        return clip

    def learning_rate_factor(self, applied: int) -> float:
        """The multiplier of the learning rate for the next update, after `applied` ones."""

        def schedule(applied: int, total: int) -> float:
            plan = self.plan
            return multiplier(plan.schedule, applied, total, plan.warmup, plan.warmup_start)

        return float(self._slot("scheduler", schedule)(applied, self.total_updates))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of this stage's modules and plugins."""
        return {
            "student": self.student.module.state_dict(),
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "plugins": {plugin.name: plugin.state_dict() for plugin in self.plugins},
            "precision": self.precision.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self.student.module.load_state_dict(state["student"])
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        for plugin in self.plugins:
            plugin.load_state_dict(state["plugins"][plugin.name])
        self.precision.load_state_dict(state["precision"])

    def _slot(self, slot: str, default: Any) -> Any:
        return self._claims[slot][0] if slot in self._claims else default

    def _setup(self) -> None:
        self._check_requirements()
        # One plugin at a time, so that a claim knows who makes it.
        everyone = self._manager.get_plugins()
        for plugin in [*self.plugins]:
            self._setting_up = plugin.name
            self._manager.subset_hook_caller("setup", everyone - {plugin})(stage=self)
        if LOGITS in self._observed["teacher"] and self.teacher.fresh:
            raise ModelError(
                f"The teacher's logits are looked at in the stage '{self.plan.name}', but no checkpoint gave its "
                f"{self.teacher.fresh[-1]} a value; add a stage with trains = 'teacher' before, or name a "
                "fine-tuned model."
            )

    def _check_requirements(self) -> None:
        for plugin in self.plugins:
            if "teacher" in plugin.requires and not self.has_teacher:
                raise PluginError(
                    f"The plugin '{plugin.name}' needs a teacher, and the stage '{self.plan.name}' has none; "
                    "add a [teacher] table or a stage that trains one."
                )
            if "same-tokenizer" in plugin.requires and not same_tokenizer(
                self.student.tokenizer, self.teacher.tokenizer
            ):
                raise PluginError(
                    f"The plugin '{plugin.name}' compares position by position, so teacher and student must share a "
                    f"tokenizer; in the stage '{self.plan.name}' they do not."
                )

    def _build_student(self) -> Model:
        assert self.plan.student is not None, "references are resolved before a stage is made"
        if self.plan.student != "fresh":
            return load_model(self.context.find(self.plan.student), self.task)
        if self.plan.trains == "teacher":
            return self._fresh("teacher")
        return self._fresh("student")

    def _build_teacher(self) -> Model:
        if self.plan.teacher is None:
            raise ModelError(f"The stage '{self.plan.name}' has no teacher; add a [teacher] table to the recipe.")
        if self.plan.teacher != "fresh":
            return load_model(self.context.find(self.plan.teacher), self.task)
        return self._fresh("teacher")

    def _fresh(self, side: str) -> Model:
        given = self.context.given.get(side)
        if given is not None:
            # A copy: what the caller holds is neither trained nor frozen nor moved, and the same call can go on.
            return Model(copy.deepcopy(given.module), given.tokenizer, given.fresh)
        model: Model | None = (self.hook.build_teacher if side == "teacher" else self.hook.build_student)(stage=self)
        if model is None:
            raise ModelError(f"No plugin and no [{side}] table of the recipe makes a {side}.")
        return model


def count_hooks(module: nn.Module) -> int:
    """Forward hooks on a module and all below it."""
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


def _one_by_one(rows: Sequence[np.ndarray]) -> Iterable[Sequence[np.ndarray]]:
    return ([batch] for batch in rows)
