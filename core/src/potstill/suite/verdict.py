"""Is one encoder better than another? Task by task and on the average, from the runs of two suites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from potstill.errors import FileError, UserError
from potstill.files import read_json
from potstill.models import CARD, task_of
from potstill.outcomes import NAME, Rows, kept_outcomes
from potstill.progress import Progress
from potstill.suite.kept import shared
from potstill.suite.statistics import (
    ENOUGH_SEEDS,
    RESAMPLES,
    Scorer,
    Seeds,
    bootstrap,
    interval,
    paired_t,
    verdict,
)
from potstill.suite.tables import by_seed, of_run
from potstill.tasks import LOWER_IS_BETTER, Task

METHOD = (
    f"Better or worse: the paired bootstrap over validation rows ({RESAMPLES} draws, scores averaged over seeds) has "
    f"0 outside its 95 % interval and, from {ENOUGH_SEEDS} seeds on, the paired t-test over seeds has p < 0.05. "
    "Each task is tested by itself: of twenty tasks on which two models are alike, one may come out. "
    "The average is resampled task by task. Losses are judged by the seeds alone."
)


def compare(
    first: Mapping[str, Any], second: Mapping[str, Any], one: Path, other: Path, told: Progress
) -> dict[str, Any]:
    """The first suite's encoder against the second's, on the tasks that both have, by the seeds that both ran.

    Args:
        first, second: what `run_suite` gave.
        one, other: their folders.

    Returns: "method", and by task and for "average": "difference", "rows" (the bootstrap's interval, None where there
        is none), "seeds" (the t-test; None below three), "verdict"; scores of several metrics count with their mean.
    Raises: UserError where no task is shared, or a task has other rows or no seed in common; FileError for a run of
        which something is missing.
    """
    [first, second], _ = shared((first, second))
    for name in first["tasks"]:
        first["tasks"][name], second["tasks"][name] = _paired(name, first["tasks"][name], second["tasks"][name], told)
    found: dict[str, Any] = {}
    resampled: list[npt.NDArray[np.float64] | None] = []
    for number, name in enumerate(first["tasks"]):
        tasks = first["tasks"][name], second["tasks"][name]
        runs = [
            folder / name / run["folder"]
            for folder, task in zip((one, other), tasks, strict=True)
            for run in task["runs"]
        ]
        _check_there(runs)
        draws = None
        if _by_rows(runs, tasks[0]):
            told.note(f"{name}: scoring {RESAMPLES} draws of its rows")
            scorers, rows = _scorers(name, one, other, *tasks)
            draws = bootstrap(*scorers, rows, seed=number)  # its own draws, as the average's tasks are not alike
        scores = [[of_run(task, number) for number in range(len(task["runs"]))] for task in tasks]
        less = tasks[0]["metrics"][0] in LOWER_IS_BETTER
        found[name] = _told(scores[0], scores[1], draws, less=less)
        resampled.append(draws)
    return {"method": METHOD, "tasks": found, "average": _average(first, second, resampled)}


def _average(
    first: Mapping[str, Any], second: Mapping[str, Any], resampled: list[npt.NDArray[np.float64] | None]
) -> dict[str, Any] | None:
    """None where the tasks have no average."""
    scores = [list(by_seed(suite).values()) for suite in (first, second)]
    drawn = [draws for draws in resampled if draws is not None]
    draws = np.mean(drawn, axis=0) if len(drawn) == len(resampled) else None
    return _told(scores[0], scores[1], draws, less=False) if all(scores) else None


def _told(
    first: Sequence[float], second: Sequence[float], draws: npt.NDArray[np.float64] | None, *, less: bool
) -> dict[str, Any]:
    rows = None if draws is None or np.isnan(draws).all() else interval(draws)
    seeds: Seeds | None = paired_t(first, second) if len(first) >= ENOUGH_SEEDS else None
    return {
        "difference": float(np.mean(first) - np.mean(second)),
        "rows": None if rows is None else list(rows),
        "seeds": asdict(seeds) if seeds else None,
        "verdict": verdict(rows, seeds, less=less),
    }


def _by_rows(runs: Sequence[Path], task: Mapping[str, Any]) -> bool:
    """Whether draws of the rows can be scored: not where a loss counts, nor where the task kept nothing of its rows."""
    return "loss" not in task["metrics"] and any((_last_stage(run) / NAME).is_file() for run in runs)


def _check_there(runs: Sequence[Path]) -> None:
    """Raises: FileError for a run that was removed, or whose model's folder was."""
    for run in runs:
        for path in (run / "result.json", run / "model" / CARD):
            if not path.is_file():
                raise FileError(f"{path} is missing; put it back, or remove {run} and run the suite again.")


def _paired(
    name: str, one: Mapping[str, Any], other: Mapping[str, Any], told: Progress
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A task of two suites with the runs alone whose seeds both have, in one order."""
    if one["metrics"] != other["metrics"]:
        raise UserError(
            f"The task '{name}' was measured by {', '.join(one['metrics'])} in one suite and by "
            f"{', '.join(other['metrics'])} in the other; run both with the same suite file."
        )
    first, second = ({run["seed"]: run for run in task["runs"]} for task in (one, other))
    both = [seed for seed in first if seed in second]
    if not both:
        raise UserError(
            f"The task '{name}' ran with the seeds {[*first]} in one suite and {[*second]} in the other; a paired test "
            "needs seeds that both have."
        )
    if len(both) < max(len(first), len(second)):
        told.note(f"{name}: of the seeds {[*first]} and {[*second]} those that both have are compared.")
    return {**one, "runs": [first[seed] for seed in both]}, {**other, "runs": [second[seed] for seed in both]}


def _scorers(
    name: str, one: Path, other: Path, first: Mapping[str, Any], second: Mapping[str, Any]
) -> tuple[tuple[list[Scorer], list[Scorer]], int]:
    """A scorer a run of each suite, over the same rows; and how many rows these are."""
    metrics = first["metrics"]
    made: list[list[Scorer]] = []
    labels: list[Rows] = []
    for folder, task in ((one, first), (other, second)):
        own: list[Scorer] = []
        for run in task["runs"]:
            outcomes, truth = kept_outcomes(_last_stage(folder / name / run["folder"]))
            own.append(scorer(task_of(folder / name / run["folder"] / "model"), outcomes, truth, metrics))
            labels.append(truth)
        made.append(own)
    if not all(_same(labels[0], truth) for truth in labels):
        raise UserError(
            f"The task '{name}' was measured on other validation rows in {one} than in {other}; a paired test needs "
            "the same rows."
        )
    return (made[0], made[1]), len(labels[0])


def scorer(task: Task, outcomes: Rows, labels: Rows, metrics: Sequence[str]) -> Scorer:
    """The mean of some metrics on drawn rows, from what the task kept of each row; NaN where they have none."""

    def score(drawn: npt.NDArray[np.int64]) -> float:
        found = task.rescore(_taken(outcomes, drawn), _taken(labels, drawn))
        return float(np.mean([found.get(metric, np.nan) for metric in metrics]))

    return score


def _last_stage(run: Path) -> Path:
    """The run's last stage that trained the student."""
    student = read_json(run / "result.json")["student"]
    stages = [path for path in sorted((run / "stages").iterdir()) if path.name.partition("-")[2] == student]
    if not stages:
        raise FileError(f"The run in {run} has no stage '{student}'.")
    return stages[0]


def _taken(rows: Rows, drawn: npt.NDArray[np.int64]) -> Rows:
    return [rows[number] for number in drawn] if isinstance(rows, list) else rows[drawn]


def _same(one: Rows, other: Rows) -> bool:
    return len(one) == len(other) and all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, other, strict=True))
