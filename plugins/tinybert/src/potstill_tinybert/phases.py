"""One stage of a recipe as TinyBERT's parts: general → task intermediate → task prediction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from potstill.loader import plugin_class
from potstill.recipe import StagePlan
from potstill_tinybert.config import Phase, TinyBERTConfig

INNER: dict[str, Any] = {
    "keep": "last",
    "evaluate": False,
    "early_stopping": None,
    "supervised": 0.0,
    "learning_rate": 5e-5,
}
"""Keys of the parts without predictions: the student's head learns nothing there, so that nothing can be scored."""
CONSTANT: dict[str, Any] = {"schedule": "constant", "warmup": 0}
"""Keys of the intermediate part, as the authors'."""
LINEAR: dict[str, Any] = {"schedule": "linear", "warmup": 0.1}
"""Keys of the general part, as the authors'."""


def parts_of(plan: StagePlan, plugin: str, config: TinyBERTConfig) -> list[StagePlan]:
    """The stages that replace a stage; each goes on from the student of the one before.

    The last one has the stage's own name, keys and plugins; the ones before are called NAME-general and
    NAME-intermediate, have the keys above and those of their own tables, and leave out plugins that bring an
    objective of their own, which belongs to the end.

    Args:
        plan: the stage.
        plugin: this plugin's name.
        config: its options.
    """
    wanted = list(_wanted(config))
    names = {phase: f"{plan.name}-{phase}" for phase in wanted[:-1]} | {wanted[-1]: plan.name}
    parts: list[StagePlan] = []
    for phase in wanted:
        changes: dict[str, Any] = {"name": names[phase]}
        if parts:
            changes["student"] = f"stage:{parts[-1].name}"
        if phase != wanted[-1]:
            changes["plugins"] = [name for name in plan.plugins if name == plugin or not _has_objective(name)]
        part = plan.with_(**changes)
        options = {
            key: value for key, value in plan.options_of(plugin).items() if key not in ("general", "intermediate")
        }
        part = part.with_(options={**part.options, plugin: {**options, "phase": phase}})
        parts.append(part.with_(**_keys(phase, config)))
    return parts


def _wanted(config: TinyBERTConfig) -> Iterator[Phase]:
    if config.general is not None:
        yield "general"
    if config.inner and config.intermediate is not False:
        yield "intermediate"
    if config.prediction > 0:
        yield "prediction"


def _keys(phase: Phase, config: TinyBERTConfig) -> dict[str, Any]:
    if phase == "general":
        return {**INNER, **LINEAR, **(config.general or {})}
    if phase == "intermediate":
        return {**INNER, **CONSTANT, **(config.intermediate or {})}
    return {}


def _has_objective(name: str) -> bool:
    return "objective" in plugin_class(name).provides
