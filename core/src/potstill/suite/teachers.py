"""Fine-tuned models of one suite as the teachers of another."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from potstill import recipe as recipes
from potstill.errors import UserError
from potstill.loader import plugin_class
from potstill.runner import expanded
from potstill.suite.kept import read_suite
from potstill.suite.tasks import SuiteTask, as_table
from potstill.tasks import better


def fine_tuned(folder: Path, wanted: Collection[str]) -> dict[str, Path]:
    """By task, the model of a suite's run that has the best score by the task's first metric.

    Args:
        wanted: the tasks whose models must still be there.

    Raises: UserError where the folder is no suite's, or the models of a task were thrown away.
    """
    found: dict[str, Path] = {}
    for name, task in read_suite(folder, "--teacher")["tasks"].items():
        if "runs" not in task:
            continue
        first, best = task["metrics"][0], task["runs"][0]
        for run in task["runs"][1:]:
            best = run if better(first, run[first], best[first]) else best
        found[name] = folder / name / best["folder"] / "model"
        if name in wanted and not any(found[name].glob("*.safetensors")):
            raise UserError(
                f"--teacher: {found[name].parent} has no weights, for they are thrown away once they are measured; "
                f"remove {folder / name} and run it again with --keep-models."
            )
    return found


def with_teachers(tasks: Sequence[SuiteTask], teachers: Mapping[str, Path]) -> list[SuiteTask]:
    """The tasks with a fine-tuned model each, by the task's name, that teaches the student.

    Raises: UserError for a task that has none, or in which nothing learns from a teacher.
    """
    for task in tasks:
        if task.name not in teachers:
            raise UserError(
                f"--teacher has no model of the task '{task.name}'; it has {', '.join(teachers)}. Run that task there "
                "first, or name others by --task."
            )
    taught = [replace(task, recipe={**task.recipe, "teacher": as_table(teachers[task.name])}) for task in tasks]
    for task in taught:
        plans = expanded(recipes.parse(task.recipe, task.name)).stages
        if not any("teacher" in plugin_class(name).requires for plan in plans for name in plan.plugins):
            raise UserError(
                f"--teacher: nothing in the task '{task.name}' learns from a teacher; add a plugin that does, such as "
                "-p NAME (`potstill plugins list` shows them)."
            )
    return taught
