"""One stage of a recipe as TinyBERT's parts: general → task intermediate → task prediction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from potstill.loader import plugin_class
from potstill.recipe import StagePlan
from potstill_tinybert.config import Phase, TinyBERTConfig

UNSCORED: dict[str, Any] = {"keep": "last", "evaluate": False, "early_stopping": None}
"""Keys of a part whose head learns nothing, so that nothing can be scored."""
EARLIER: dict[str, Any] = {**UNSCORED, "supervised": 0.0, "learning_rate": 5e-5}
"""Keys of the parts before the last."""
SCHEDULE: dict[Phase, dict[str, Any]] = {
    "general": {"schedule": "linear", "warmup": 0.1},
    "intermediate": {"schedule": "constant", "warmup": 0},
}
"""Their schedules, as the authors'."""


def parts_of(plan: StagePlan, plugin: str, config: TinyBERTConfig) -> list[StagePlan]:
    """The stages that replace a stage; each goes on from the student of the one before.

    The last one has the stage's own name, keys and plugins; the ones before are called NAME-general and
    NAME-intermediate, have the keys above, and leave out plugins that bring an objective of their own, which belongs
    to the end. What the parts' own tables say comes on top.

    Args:
        plan: the stage.
        plugin: this plugin's name.
        config: its options.
    """
    others = [name for name in plan.plugins if name != plugin and "objective" in plugin_class(name).provides]
    options = {key: value for key, value in plan.options_of(plugin).items() if key not in ("general", "intermediate")}
    *earlier, last = _wanted(config)
    parts: list[StagePlan] = []
    for phase in earlier:
        kept = [name for name in plan.plugins if name not in others]
        part = plan.with_(name=f"{plan.name}-{phase}", plugins=kept, **EARLIER, **SCHEDULE[phase])
        parts.append(_part(part, plugin, options, phase, parts).with_(**_own_keys(phase, config)))
    part = plan if last == "prediction" or others else plan.with_(**UNSCORED)
    return [*parts, _part(part, plugin, options, last, parts).with_(**_own_keys(last, config))]


def _wanted(config: TinyBERTConfig) -> Iterator[Phase]:
    if config.general is not None:
        yield "general"
    if config.inner and config.intermediate is not False:
        yield "intermediate"
    if config.prediction > 0:
        yield "prediction"


def _part(plan: StagePlan, plugin: str, options: dict[str, Any], phase: Phase, before: list[StagePlan]) -> StagePlan:
    """The plan as this phase alone, going on from the stage before."""
    student = {"student": f"stage:{before[-1].name}"} if before else {}
    return plan.with_(options={**plan.options, plugin: {**options, "phase": phase}}, **student)


def _own_keys(phase: Phase, config: TinyBERTConfig) -> dict[str, Any]:
    table = {"general": config.general, "intermediate": config.intermediate, "prediction": None}[phase]
    return dict(table or {})
