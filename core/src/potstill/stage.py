"""One training stage: its models, its data, and what its plugins asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from potstill import loader
from potstill.batch import UNITS, Batch, Unit
from potstill.checkpoint import seed_everything
from potstill.collate import Masked, Partner
from potstill.data.batching import one_by_one
from potstill.errors import ModelError, PluginError, RecipeError
from potstill.features import LOGITS, Feature
from potstill.freezing import freeze
from potstill.looks import Looks
from potstill.models import Model, check_length
from potstill.observe import Observer, Outputs
from potstill.optimizer import Precision, adamw, clip_norm, parameter_groups
from potstill.plugin import Plugin
from potstill.plugin_checks import implementations
from potstill.recall import teacher_logits
from potstill.recipe import DataConfig, ModelConfig, Recipe, StagePlan
from potstill.schedule import multiplier, warmup_updates
from potstill.slots import Slots
from potstill.stagemodels import StageModels

if TYPE_CHECKING:
    from potstill.context import Context
    from potstill.data.examples import Examples
    from potstill.data.transform import Transform


class Stage:
    """What a plugin sees of the stage it works in.

    Args:
        plugins: these in the place of those that the plan names.

    Attributes:
        plan: the stage as the recipe says it, references resolved.
        recipe: the whole recipe.
        task: the task.
        student: the model that is trained; in a stage that trains the teacher, that is the teacher.
        transforms: what changes the training rows as text.
        exit: closed when the stage ends, however it ends; hooks and patches go on it.
        modules: what plugins added, by name.
        companions: what chooses the partner rows of the batches that travel with every batch, by name.
        frozen: the names of the student's parameters that the recipe's `freeze` leaves as they are.
        explained: what plugins say of themselves for `potstill plan` and the stage's result, by plugin.
        total_updates: of the whole stage; known once the data is there (after `setup`), as `updates_per_epoch`.
    """

    def __init__(self, context: Context, plan: StagePlan, plugins: Sequence[Plugin] | None = None) -> None:
        self.context = context
        self.plan = plan
        self.recipe: Recipe = context.recipe
        self.task = context.task
        self.progress = context.progress
        self.plugins = loader.stage_plugins(self.recipe, plan) if plugins is None else list(plugins)
        self._manager = loader.manager(self.plugins)
        self.hook: Any = self._manager.hook
        self.exit = ExitStack()
        self.modules: dict[str, nn.Module] = {}
        self.explained: dict[str, dict[str, Any]] = {}
        self.units: list[Unit] = [*UNITS, *self.task.units]
        self.transforms: list[Transform] = []
        self.total_updates = self.updates_per_epoch = 0
        self._slots = Slots(plan.name)
        self._rates: dict[Tensor, float] = {}
        self._setting_up = "core"
        self._after_setup: list[tuple[str, Callable[[], None]]] = []
        self.companions: dict[str, Partner] = {}
        self._models = StageModels(self)
        self._looks = Looks(self._models, self.exit)
        self._known_logits: Tensor | None = None
        try:
            seed_everything(self.seed)
            self.student = self._models.student()
            self.hooks_before = count_hooks(self.student.module)  # a caller's own model may bring some
            self.student.module.to(context.ranks.device)
            self.student.module.train().requires_grad_(True)
            self.task.check_model(self.student)
            self.frozen = freeze(self.student.module, plan.freeze, plan.name)
            self._setup()  # what plugins add starts the same on every rank
            if context.ranks.world > 1:  # other dropout on other rows
                seed_everything(self.seed + context.ranks.rank)
        except BaseException:
            self.exit.close()
            raise
        self.precision: Precision = self._slots.get("precision", Precision())

    # what plugins use

    @property
    def seed(self) -> int:
        """The stage's seed, else the run's. Two stages with one seed start the same student from the same weights
        and see the rows in the same order, so that what differs is what they are about."""
        return self.recipe.seed if self.plan.seed is None else self.plan.seed

    @property
    def table(self) -> ModelConfig | None:
        """The table of the model that is asked for, in `build_teacher` and `build_student`."""
        return self._models.table

    @property
    def teacher_names(self) -> tuple[str, ...]:
        """The names of the teachers that the recipe gives this stage (asking loads none); the only one is called ""."""
        return self._models.names

    @property
    def teacher(self) -> Model:
        """The only teacher, frozen and in eval mode; loaded the first time somebody looks.

        Raises:
            ModelError: the stage has none, or several.
        """
        return self._models.teacher(self._models.only())

    @property
    def teachers(self) -> dict[str, Model]:
        """All teachers by name."""
        return {name: self._models.teacher(name) for name in self.teacher_names}

    @property
    def teacher_tokenizer(self) -> PreTrainedTokenizerBase:
        """The teachers' tokenizer, without loading one where that can be helped.

        Raises:
            ModelError: the stage has no teacher.
        """
        return self._models.tokenizer()

    @cached_property
    def data(self) -> DataConfig:
        """Where this stage's rows come from: the recipe's table `[data]` with the stage's own keys."""
        return self.context.data_of(self.plan)

    def path(self, spec: str) -> Path:
        """A path of the recipe: below the data root where it is there, else as it stands."""
        return self.context.named.path(spec)

    def observe(
        self, *, teacher: Iterable[Feature] = (), student: Iterable[Feature] = (), of: str | None = None
    ) -> None:
        """Asks for features; what several plugins ask for is computed once. The student's logits are always there.

        Args:
            of: which teacher; left out, the only one, or all where it is for their logits.

        Raises:
            ModelError: no such teacher, or inner features of several.
        """
        self._looks.ask(teacher, student, of)

    def claim(self, slot: str, value: Any) -> None:
        """Decides something that only one plugin may decide; see `potstill.slots.SLOTS`.

        Raises:
            PluginError: no such slot, or another plugin has it.
        """
        self._slots.claim(slot, value, by=self._setting_up)

    def add_module(self, name: str, module: nn.Module) -> None:
        """Adds a module (a projection) that is optimized, clipped and checkpointed, and dropped at export.

        Where the student goes on from a stage that had a module of this name and these shapes, so does the module.
        """
        if name in self.modules:
            raise PluginError(f"Two modules are called '{name}' in the stage '{self.plan.name}'.")
        before = self._models.modules_before.get(name, {})
        if _shapes(before) == _shapes(module.state_dict()):
            module.load_state_dict(before)
        self.modules[name] = module.to(self.context.ranks.device)

    def scale_rate(self, parameters: Iterable[Tensor], factor: float) -> None:
        """Lets some parameters learn at `factor` times the stage's learning rate.

        0 keeps them as they are, while their gradients are made and count where gradients are clipped. What is not
        to have a gradient at all is frozen by `requires_grad_(False)`.
        """
        self._rates.update(dict.fromkeys(parameters, factor))

    def add_transform(self, transform: Transform) -> None:
        """Adds what changes the training rows as text, before they are tokenized."""
        self.transforms.append(transform)

    def add_unit(self, unit: Unit) -> None:
        """Makes a unit of a plugin's own known, so that loss terms may be means of it."""
        if all(unit != known for known in self.units):
            self.units.append(unit)

    def add_companion(self, name: str, partner: Partner) -> None:
        """Lets a batch of other rows travel with every batch, row by row: `batch.companions[name]`.

        Args:
            partner: called with the rows of the whole micro-batch [n] int64, before processes share them, the epoch
                and the number of rows of the data set; returns each one's partner, [n] int64. It must not depend
                on anything else, so that a run can be resumed.

        Raises:
            PluginError: a companion of that name is there already.
        """
        if name in self.companions:
            raise PluginError(f"Two companions are called '{name}' in the stage '{self.plan.name}'.")
        self.companions[name] = partner

    def after_setup(self, decide: Callable[[], None]) -> None:
        """Calls `decide` when every plugin's setup is over, and with it who has which slot and what is frozen."""
        self._after_setup.append((self._setting_up, decide))

    def explain(self, what: str, told: Any) -> None:
        """Says what a plugin makes of its options here, a map of layers for one, as text, a list or a dict."""
        self.explained.setdefault(self._setting_up, {})[what] = told

    # what the engine uses

    @cached_property
    def parameters(self) -> list[Tensor]:
        """What has gradients: the student's parameters and those of added modules, each once; fixed after `setup`."""
        modules = [self.student.module, *self.modules.values()]
        every = dict.fromkeys(parameter for module in modules for parameter in module.parameters())
        return [parameter for parameter in every if parameter.requires_grad]

    @property
    def looks_at_teacher(self) -> bool:
        """Whether any plugin observes a teacher, so that it has to run."""
        return self._looks.at_teacher

    @property
    def observed(self) -> dict[str, list[Feature]]:
        """What is observed, by side: "student", "teacher" or, with a name, "teacher NAME"."""
        return self._looks.observed

    @property
    def owners(self) -> dict[str, str]:
        """The slots that plugins claimed, and by which plugin."""
        return self._slots.owners

    @property
    def supervised_weight(self) -> float:
        """The weight of the task's own loss: the plan's, else 0 where a plugin brings an objective, else 1."""
        if self.plan.supervised is not None:
            return self.plan.supervised
        return 0.0 if any("objective" in plugin.provides for plugin in self.plugins) else 1.0

    @cached_property
    def masking(self) -> Masked | None:
        """What corrupts a batch's tokens and sets its labels: a plugin's, else the task's; None where neither does."""
        masking: Masked | None = self._slots.get("masking", self.task.masking(self.student.tokenizer))
        return masking

    def observer(self, side: str) -> Observer:
        """The observer of a side, made when first used."""
        return self._looks.observer(side, self.student)

    def ask_teacher(self, rows: Examples) -> None:
        """Computes the teacher's logits of all rows beforehand, where that saves passes and changes nothing."""
        many_epochs = self.total_updates > self.updates_per_epoch
        changing = self.masking or any("collate" in implementations(type(plugin)) for plugin in self.plugins)
        if self.plan.teacher_once and many_epochs and not changing and self._looks.at_teachers_logits_alone:
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
        """The rows of a split, tokenized for the student and, where one is looked at, the teachers.

        None where the recipe names none, or the stage scores none.
        """
        if split != "train" and not self.plan.evaluate:
            return None
        models = {"student": self.student}
        if self.looks_at_teacher:
            models |= {side: self._models.teacher(name) for side, name in self._looks.teachers.items()}
        for side, model in models.items():
            check_length(model.module, self.data.max_length, side)
        words = self.teacher_tokenizer if self.looks_at_teacher else None
        transforms = self.transforms if split == "train" else ()
        return self.context.examples(split, self.student.tokenizer, words, self.data, transforms, self.seed)

    def batches(self, rows: Examples, epoch: int) -> list[Sequence[np.ndarray]]:
        """An epoch's updates: groups of micro-batches, each an array of row numbers."""
        sampler, size = self._slots.get("sampler", None), self.plan.batch_size
        own = rows.batches(size, seed=self.seed, epoch=epoch) if sampler is None else sampler(rows.lengths, size, epoch)
        return list(self._slots.get("batching", one_by_one)(own))

    def count_updates(self, rows: Examples) -> None:
        """Sets `total_updates` and `updates_per_epoch`, now that the rows are there.

        Raises:
            RecipeError: the warm-up is longer.
        """
        plan = self.plan
        self.updates_per_epoch = len(self.batches(rows, 0))
        self.total_updates = plan.updates or math.ceil((plan.epochs or 0) * self.updates_per_epoch)
        if warmup_updates(plan.warmup, self.total_updates) > self.total_updates:
            raise RecipeError(
                f"The stage '{plan.name}' has {self.total_updates} updates and a warm-up of {plan.warmup}."
            )

    def make_optimizer(self) -> Any:
        """The optimizer over everything trained."""
        groups = parameter_groups([self.student.module, *self.modules.values()], self.plan, self._rates)
        return self._slots.get("optimizer", adamw)(groups, self.plan)

    @property
    def clip(self) -> Callable[[list[Tensor]], Tensor]:
        """How gradients are clipped."""
        clip: Callable[[list[Tensor]], Tensor] = self._slots.get("clip", clip_norm(self.plan.clip))
        return clip

    def learning_rate_factor(self, applied: int) -> float:
        """The multiplier of the learning rate for the next update, after `applied` ones."""

        def schedule(applied: int, total: int) -> float:
            plan = self.plan
            return multiplier(plan.schedule, applied, total, plan.warmup, plan.warmup_start)

        return float(self._slots.get("scheduler", schedule)(applied, self.total_updates))

    def weights(self) -> dict[str, Any]:
        """All that is trained: the student and the added modules."""
        modules = {name: module.state_dict() for name, module in self.modules.items()}
        return {"student": self.student.module.state_dict(), "modules": modules}

    def load_weights(self, state: dict[str, Any]) -> None:
        """Takes back what `weights` gave."""
        self.student.module.load_state_dict(state["student"])
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of this stage's weights and plugins."""
        return {
            **self.weights(),
            "plugins": {plugin.name: plugin.state_dict() for plugin in self.plugins},
            "precision": self.precision.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self.load_weights(state)
        for plugin in self.plugins:
            plugin.load_state_dict(state["plugins"][plugin.name])
        self.precision.load_state_dict(state["precision"])

    def _setup(self) -> None:
        self._models.check_requirements(self.plugins)
        # One plugin at a time, so that a claim knows who makes it.
        everyone = self._manager.get_plugins()
        for plugin in [*self.plugins]:
            self._setting_up = plugin.name
            self._manager.subset_hook_caller("setup", everyone - {plugin})(stage=self)
        while self._after_setup:  # emptied: what they hold of the stage goes with them
            self._setting_up, decide = self._after_setup.pop(0)
            decide()
        for side, name in self._looks.teachers.items():
            if LOGITS in self.observed[side]:
                self._check_logits(side, self._models.teacher(name))

    def _check_logits(self, side: str, teacher: Model) -> None:
        if teacher.fresh:
            raise ModelError(
                f"The {side}'s logits are looked at in the stage '{self.plan.name}', but no checkpoint gave its "
                f"{teacher.fresh[-1]} a value; add a stage with trains = 'teacher' before, or name a "
                "fine-tuned model."
            )
        self.task.check_model(teacher)
        self.task.check_logits(self.student, teacher)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}


def count_hooks(module: nn.Module) -> int:
    """Forward hooks on a module and all below it."""
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())
