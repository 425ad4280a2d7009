"""What a run would do: stages, wrappers, slots, features, sizes, updates. Trains nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from potstill.collate import Collation
from potstill.context import Context
from potstill.data.batching import padded_share
from potstill.data.examples import Examples
from potstill.errors import DataError
from potstill.files import write_json
from potstill.models import CARD
from potstill.progress import Progress
from potstill.quiet import quiet_libraries
from potstill.recipe import ModelConfig, Recipe
from potstill.runner import expanded
from potstill.schedule import warmup_updates
from potstill.settings import Reference
from potstill.shares import shares
from potstill.stage import Stage
from potstill.step import Step


@dataclass(frozen=True)
class Plan:
    """A run's plan, one dict a stage."""

    name: str
    stages: list[dict[str, Any]]
    export: list[str]

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON."""
        return {"name": self.name, "stages": self.stages, "export": self.export}


def plan(recipe: Recipe, data_root: Path) -> Plan:
    """Builds every stage with its models and data, and tells what it would do.

    A stage that goes on from an earlier one is built from that stage's untrained model.
    """
    recipe = expanded(recipe)
    stages = [_told_of(stage) for stage in built(recipe, data_root)]
    return Plan(recipe.name, stages, list(recipe.export.plugins) if recipe.export else [])


def built(recipe: Recipe, data_root: Path, progress: Progress | None = None) -> Iterator[Stage]:
    """The stages of an expanded recipe with their models, one after the other; each is closed before the next.

    A stage that goes on from an earlier one is built from that stage's untrained model.
    """
    with quiet_libraries(), tempfile.TemporaryDirectory(prefix="potstill-plan-") as scratch:
        context = Context(recipe, Path(scratch), data_root, progress=progress or Progress())
        with context.stop.listening():
            for plan in recipe.stages:
                stage = Stage(context, plan)
                with stage.exit:
                    yield stage
                _leave_untrained(stage, Path(scratch))


def _told_of(stage: Stage) -> dict[str, Any]:
    plan = stage.plan
    rows = stage.examples("train")
    if rows is None:
        raise DataError(f"The stage '{plan.name}' trains, and the recipe names no data.train.")
    groups = stage.batches(rows, 0)
    stage.count_updates(rows)
    micro = [batch for group in groups for batch in group]
    for side in stage.observed:
        stage.observer(side)
    return {
        "name": plan.name,
        "trains": plan.trains,
        "from": _reference(plan.student),
        "teacher": _reference(plan.teacher) if stage.looks_at_teacher else None,
        "teachers": {name: _reference(reference) for name, reference in plan.teachers.items()},
        "data": plan.data,
        "plugins": [plugin.name for plugin in stage.plugins],
        "wrappers": _wrappers(stage),
        "slots": stage.owners,
        "supervised_weight": stage.supervised_weight,
        "observed": {side: [_told(feature) for feature in found] for side, found in stage.observed.items()},
        "explained": stage.explained,
        "frozen": stage.frozen,
        "loss_terms": _terms(stage, rows, micro[0]),
        "parameters": {
            "student": _parameters(stage.student.module),
            **{side: _parameters(stage.observer(side).module) for side in stage.observed if side != "student"},
            **{name: _parameters(module) for name, module in stage.modules.items()},
        },
        "rows": len(rows),
        "padded_share": round(padded_share(rows.lengths, micro), 4),
        "micro_batches_per_epoch": len(micro),
        "updates_per_epoch": len(groups),
        "updates": stage.total_updates,
        "learning_rate": {
            "peak": plan.learning_rate,
            "schedule": plan.schedule,
            "warmup_updates": warmup_updates(plan.warmup, stage.total_updates),
            "first": plan.learning_rate * stage.learning_rate_factor(0),
            "last": plan.learning_rate * stage.learning_rate_factor(max(0, stage.total_updates - 1)),
        },
    }


def _terms(stage: Stage, rows: Examples, first: np.ndarray) -> dict[str, str]:
    """The loss terms of the first micro-batch, by running it: weight, and what each is a mean of."""
    batch = Collation(stage, rows).batch(first, epoch=0)
    step = Step(stage, batch.to(stage.context.ranks.device), shares([batch], stage.units), 0, 0)
    with torch.no_grad():
        return {name: f"{term.weight:g} per {term.per.name}" for name, term in step.terms().items()}


def _leave_untrained(stage: Stage, scratch: Path) -> None:
    context, folder = stage.context, scratch / stage.plan.name
    finished = stage.hook.finish_student(student=stage.student.module)
    finished.save_pretrained(folder)
    stage.student.tokenizer.save_pretrained(folder)
    write_json(
        folder / CARD, {"task": {**context.recipe.task.model_dump(exclude_none=True), "labels": context.task.names}}
    )
    context.handed_on[stage.plan.name] = folder


def _wrappers(stage: Stage) -> list[str]:
    """Plugins that wrap `on_step`, outermost first."""
    found = stage.hook.on_step.get_hookimpls()
    return [impl.plugin_name for impl in reversed(found) if impl.wrapper or impl.hookwrapper]


def _told(feature: Any) -> str:
    return feature.name if hasattr(feature, "name") else f"{type(feature).__name__}({feature.layer})"


def _reference(reference: Reference | None) -> Any:
    return reference.model_dump(exclude_defaults=True) if isinstance(reference, ModelConfig) else reference


def _parameters(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
