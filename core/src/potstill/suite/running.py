"""Running a suite: every task's settings and seeds through `sweep`, and what came of it in one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from potstill.errors import UserError
from potstill.files import write_json, write_text
from potstill.progress import Progress
from potstill.ranks import Ranks
from potstill.report.folder import RecordedRun
from potstill.suite.encoder import save_encoder
from potstill.suite.kept import FILE, known_tasks
from potstill.suite.tables import score_table
from potstill.suite.tasks import ENCODER, SuiteTask, absence, check_keys, with_student
from potstill.sweep import planned, sweep
from potstill.tasks import better

Row = Mapping[str, Any]


def run_suite(
    tasks: Sequence[SuiteTask],
    model: str,
    *,
    grid: Mapping[str, Sequence[Any]],
    seeds: Sequence[int],
    folder: Path,
    name: str,
    absent: Mapping[str, str] | None = None,
    keep_models: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fine-tunes and measures one encoder on every task, and goes on where an earlier call stopped.

    Args:
        model: a model folder or a hub id; its head is left out.
        grid: key -> values, keys as `--set` takes them. The setting that is best on average over the seeds, by the
            task's first metric on the validation rows, is the one that counts.
        seeds: of each setting; the recipes' own where there is none.
        folder: of this suite and this model.
        name: the model's, in tables.
        absent: what `absent_tasks` gave; asked for where it is left out.
        keep_models: whether the fine-tuned models stay, which are as large as the encoder each.

    Returns: what `suite.json` holds of these tasks: "model", "name" and "tasks", by name: "metrics", "settings",
        "runs", "tried" and "constant" (what one answer for all rows scores); or "absent", the reason.
    Raises: UserError where no task's data is there, and what `prepare_suite` raises.
    """
    told, ranks = progress or Progress(), Ranks()
    absent = absent_tasks(tasks, told) if absent is None else absent
    prepare_suite(tasks, model, grid=grid, seeds=seeds, folder=folder)
    found: dict[str, Any] = {
        "model": model,
        "name": name,
        "tasks": {task: {"absent": why} for task, why in absent.items()},
    }
    for task in (task for task in tasks if task.name not in absent):
        told.note(f"{name} on {task.name}")
        rows = sweep(
            with_student(task, folder / ENCODER),
            grid=grid,
            seeds=seeds,
            folder=folder / task.name,
            data_root=task.root,
            progress=told,
        )
        found["tasks"][task.name] = _outcome(task, rows, folder / task.name)
        if ranks.main:
            if not keep_models:
                _drop_weights(folder / task.name)
            elif lost := _without_weights(folder / task.name, rows):
                told.note(
                    f"{lost} was finished before without --keep-models, so it has no weights; remove it to train it."
                )
            _write(folder, found)
    return found


def prepare_suite(
    tasks: Sequence[SuiteTask], model: str, *, grid: Mapping[str, Sequence[Any]], seeds: Sequence[int], folder: Path
) -> None:
    """Checks every run of a suite, and then writes what all of them start from; nothing is trained.

    Raises: RecipeError for settings that cannot be; ModelError where the model cannot be read, or `folder` holds the
        runs of another one; UserError for a grid over the student; FileError where the table of its runs is damaged.
    """
    check_keys(grid, "--grid")
    known_tasks(folder)
    for task in tasks:
        planned(with_student(task, folder / ENCODER), grid, seeds)
    ranks = Ranks()
    if ranks.main:
        save_encoder(model, folder / ENCODER)
    ranks.wait()


def absent_tasks(tasks: Sequence[SuiteTask], told: Progress, *, require_all: bool = False) -> dict[str, str]:
    """By name, why a task's data is not there.

    Args:
        require_all: whether one such task is an error.

    Raises: UserError where all must be there, or none is.
    """
    absent = {task.name: why for task in tasks if (why := absence(task)) is not None}
    if require_all and absent:
        name, why = next(iter(absent.items()))
        raise UserError(f"The task '{name}' cannot be run: {why}")
    if len(absent) == len(tasks):
        first = tasks[0].name
        raise UserError(f"None of the suite's tasks has its data here; of '{first}': {absent[first]}")
    for name, why in absent.items():
        told.note(f"{name}: left out. {why}")
    return absent


def _outcome(task: SuiteTask, rows: Sequence[Row], folder: Path) -> dict[str, Any]:
    """A task's runs with the setting that is best on average; and every setting's average, where there were several."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(repr(row["settings"]), []).append(row)
    first = task.metrics[0]
    best: list[Row] = []
    for group in groups.values():
        if not best or better(first, _mean(group, first), _mean(best, first)):
            best = group
    tried = [{**group[0]["settings"], first: _mean(group, first)} for group in groups.values()]
    return {
        "metrics": list(task.metrics),
        "settings": best[0]["settings"],
        "runs": [{"seed": row["seed"], "folder": row["folder"], **_scores(task, row)} for row in best],
        "tried": tried if len(tried) > 1 else [],
        "constant": _constant(task, folder / best[0]["folder"]),
    }


def _constant(task: SuiteTask, run: Path) -> dict[str, float]:
    """What one answer for all validation rows scores, where the task tells."""
    recorded = RecordedRun(run)
    rows = recorded.details.get(recorded.origin("student"), {}).get("validation", {}).get("constant", ())
    return {row["metric"]: row["value"] for row in rows if row["metric"] in task.metrics}


def _mean(rows: Sequence[Row], metric: str) -> float:
    return float(mean(row["metrics"][metric] for row in rows))


def _scores(task: SuiteTask, row: Row) -> dict[str, float]:
    lacking = [metric for metric in task.metrics if metric not in row["metrics"]]
    if lacking:
        raise UserError(
            f"The task '{task.name}' is to show '{lacking[0]}', which its validation rows do not give; they give "
            f"{', '.join(row['metrics'])}."
        )
    return {metric: row["metrics"][metric] for metric in task.metrics}


def _drop_weights(folder: Path) -> None:
    """Removes the weights below a task's runs; cards, scores and outcomes stay."""
    for pattern in ("*/model/*.safetensors", "*/stages/*/best/*.safetensors"):
        for path in folder.glob(pattern):
            path.unlink()


def _without_weights(folder: Path, rows: Sequence[Row]) -> Path | None:
    """The first run that has none."""
    runs = [folder / row["folder"] for row in rows]
    return next((run for run in runs if not any((run / "model").glob("*.safetensors"))), None)


def _write(folder: Path, found: Mapping[str, Any]) -> None:
    """Every task that the folder has runs of, those of earlier calls too, also where the data is gone since."""
    path = folder / FILE
    known = known_tasks(folder)
    new = {name: task for name, task in found["tasks"].items() if "runs" in task or "runs" not in known.get(name, {})}
    every = {**found, "tasks": {**known, **new}}
    write_json(path, every)
    write_text(folder / "suite.md", score_table([every]))
