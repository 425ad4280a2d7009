"""One stage of a recipe as Theseus' parts: the predecessor's fine-tuning → replacing → the successor's fine-tuning."""

from __future__ import annotations

from typing import Any

from potstill.errors import RecipeError
from potstill.loader import plugin_class
from potstill.recipe import StagePlan
from potstill_theseus.config import Phase, TheseusConfig


def parts_of(plan: StagePlan, plugin: str, config: TheseusConfig) -> list[StagePlan]:
    """The stages that replace a stage.

    The last one has the stage's own name; the ones before are called NAME-predecessor and NAME-replace. All have the
    stage's keys, with what the tables `predecessor` and `tune` say on top.

    Args:
        plan: the stage.
        plugin: this plugin's name.
        config: its options.

    Raises: RecipeError where the stage trains the teacher.
    """
    if plan.trains != "student":
        raise RecipeError(f"stage '{plan.name}': theseus makes a student of the teacher, and this stage trains that.")
    parts: list[StagePlan] = []
    if config.predecessor is not None:
        parts.append(_predecessor(plan, plugin).with_(**config.predecessor))
        plan = plan.with_(teacher=f"stage:{parts[-1].name}", teachers={})
    replace = _part(plan, plugin, config, "replace")
    if config.tuned is None:
        return [*parts, replace]
    replace = replace.with_(name=f"{plan.name}-replace")
    tune = _part(plan, plugin, config, "tune").with_(student=f"stage:{replace.name}", **config.tuned)
    return [*parts, replace, tune]


def _predecessor(plan: StagePlan, plugin: str) -> StagePlan:
    """The stage's teacher, trained on the labels, with the plugins that can do without a teacher."""
    kept = [name for name in plan.plugins if name != plugin and "teacher" not in plugin_class(name).requires]
    return plan.with_(
        name=f"{plan.name}-predecessor",
        trains="teacher",
        student=plan.teacher,
        teacher=None,
        teachers={},
        plugins=kept,
        supervised=None,
    )


def _part(plan: StagePlan, plugin: str, config: TheseusConfig, phase: Phase) -> StagePlan:
    """The stage as this phase alone; its options may stand in the student's table, so they are written out."""
    options: dict[str, Any] = config.model_dump(exclude_unset=True, exclude={"predecessor", "tune"})
    plugins = plan.plugins if plugin in plan.plugins else (plugin, *plan.plugins)
    return plan.with_(plugins=plugins, options={**plan.options, plugin: {**options, "phase": phase}})
