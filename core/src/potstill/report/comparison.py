"""Several runs beside each other: what differs in their recipes, and everything that was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from potstill.errors import RecipeError, UserError
from potstill.recipe import Recipe, difference, load
from potstill.report.folder import RecordedRun
from potstill.report.seeds import Spread, by_seed, spreads
from potstill.report.table import rows_of


@dataclass
class Comparison:
    """Run folders under names of their own.

    Raises: UserError where there are fewer than two, a folder holds no run, lacks its recipe or is named twice, or
        their tasks differ.
    """

    folders: Sequence[Path]

    def __post_init__(self) -> None:
        check_places(self.folders)
        opened = [RecordedRun(folder) for folder in self.folders]
        short = [folder.resolve().name for folder in self.folders]
        names = short if len(set(short)) == len(short) else [str(folder) for folder in self.folders]
        self.runs = dict(zip(names, opened, strict=True))
        self.recipes = {name: _recipe(run) for name, run in self.runs.items()}
        self._check_tasks()

    def _check_tasks(self) -> None:
        kinds = {name: recipe.task.kind for name, recipe in self.recipes.items()}
        (first, kind), *others = kinds.items()
        for name, other in others:
            if other != kind:
                raise RecipeError(
                    f"The run '{first}' is of the task '{kind}' and '{name}' of '{other}', whose metrics cannot be "
                    "compared; name runs of one task."
                )

    @property
    def differences(self) -> dict[str, list[str]]:
        """Of every run but the first, lines such as "student.hidden_size: 256 → 128"."""
        (_, first), *others = self.recipes.items()
        return {name: difference(first, recipe) for name, recipe in others}

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of every run's table of models, each with the name of its run."""
        return [{"run": name, **row} for name, run in self.runs.items() for row in rows_of(run)]

    @cached_property
    def seeds(self) -> dict[str, dict[str, dict[str, Spread]]]:
        """The spreads of every group of two or more runs that differ by their seeds alone, by the group's name."""
        data = {name: run.environment.get("data") for name, run in self.runs.items()}
        groups = [group for group in by_seed(self.recipes, data) if len(group) > 1]
        return {_together(group): spreads({name: self.runs[name] for name in group}) for group in groups}

    @property
    def metric(self) -> str | None:
        """The metric that the first run's recipe names."""
        return next(iter(self.runs.values())).metric

    @property
    def notes(self) -> list[str]:
        """What a reader of the numbers should know, a sentence each."""
        found = [
            f"The run '{name}' has not ended; what is finished is shown."
            for name, run in self.runs.items()
            if not (run.path / "result.json").is_file()
        ]
        if len({str(run.environment["data"]) for run in self.runs.values() if run.environment.get("data")}) > 1:
            found.append("The runs read different data, so their metrics may be of different rows.")
        return found


def check_places(folders: Sequence[Path]) -> None:
    """Raises: UserError where there are fewer than two, or one is named twice."""
    if len(folders) < 2:
        raise UserError(f"There is only '{folders[0]}': name two folders or more.")
    places: dict[Path, Path] = {}
    for folder in folders:
        place = folder.resolve()
        if place in places:
            before = "" if places[place] == folder else f", before as '{places[place]}'"
            raise UserError(f"'{folder}' is named twice{before}; name each folder once.")
        places[place] = folder


def _recipe(run: RecordedRun) -> Recipe:
    if not (run.path / "recipe.toml").is_file():
        raise UserError(f"The recipe.toml of the run '{run.path}' is missing; put it back or leave that run out.")
    return load(run.path / "recipe.toml")


def _together(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]}, … {names[-1]} ({len(names)} runs)"
