"""Reading a run folder for people: whatever is there, and a sentence for whatever is missing."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from potstill.errors import UserError

BySplit = dict[str, dict[str, list[dict[str, Any]]]]
"""Tables of where a model errs (`potstill.details`) by split and name."""


@dataclass
class StageFolder:
    """One folder below `stages/`.

    Attributes:
        name: without the number: "distil" for `stages/02-distil`.
        result: `result.json`, {} where the stage has not ended.
        losses, evaluations: the lines of `metrics.jsonl` with a "loss" and with an "evaluation", in order.
        details: of "model" and of a "teacher" that came trained, by split: where they err.
    """

    name: str
    path: Path
    result: dict[str, Any]
    losses: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    details: dict[str, BySplit] = field(default_factory=dict)


@dataclass
class RecordedRun:
    """A run folder's files, read when asked for; `missing` gathers one sentence for each that cannot be read."""

    path: Path
    missing: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.path.is_dir():
            raise UserError(f"There is no run folder '{self.path}'.")
        if not any((self.path / name).exists() for name in ("recipe.toml", "result.json", "stages")):
            raise UserError(f"The folder '{self.path}' holds no run.")

    @cached_property
    def result(self) -> dict[str, Any]:
        result = self._json("result.json", "the run has not ended")
        if isinstance(result.get("teacher"), dict):
            result["teacher"] = self._checked("result.json, teacher,", result["teacher"])
        return result

    @cached_property
    def environment(self) -> dict[str, Any]:
        return self._json("environment.json", "versions and device are unknown")

    @cached_property
    def recipe_text(self) -> str:
        path = self.path / "recipe.toml"
        if path.is_file():
            return path.read_text(encoding="utf-8", errors="replace")
        self.missing.append("recipe.toml is missing: the settings are unknown.")
        return ""

    @cached_property
    def recipe(self) -> dict[str, Any]:
        try:
            return tomllib.loads(self.recipe_text)
        except tomllib.TOMLDecodeError as error:
            self.missing.append(f"recipe.toml cannot be read: {error}.")
            return {}

    @property
    def name(self) -> str:
        return str(self.result.get("name") or self.recipe.get("name") or self.path.resolve().name)

    @cached_property
    def stages(self) -> list[StageFolder]:
        folders = sorted(path for path in (self.path / "stages").glob("*") if path.is_dir())
        if not folders:
            self.missing.append("stages/ is missing: nothing was trained.")
        return [self._stage(folder) for folder in folders]

    @property
    def metric(self) -> str | None:
        """The metric that the recipe names, else the one that the last finished stage was judged by."""
        task = self.recipe.get("task")
        named = task.get("metric") if isinstance(task, dict) else None
        judged = [stage.result.get("metric") for stage in self.stages]
        return next((metric for metric in (named, *reversed(judged)) if isinstance(metric, str)), None)

    @property
    def details(self) -> dict[str, BySplit]:
        """Where each model errs, by its name and split; a teacher that came trained stands first."""
        teachers = [stage.details["teacher"] for stage in self.stages if stage.details.get("teacher")]
        found = {"teacher": teachers[-1]} if teachers else {}
        return found | {stage.name: stage.details["model"] for stage in self.stages if stage.details.get("model")}

    @property
    def finished_stages(self) -> dict[str, StageFolder]:
        """The stages that have ended, by name."""
        return {str(stage.result.get("stage", stage.name)): stage for stage in self.stages if stage.result}

    def origin(self, model: str) -> str:
        """The stage that made a model of the table or the one it was exported from; "teacher" where none did."""
        stages = self.finished_stages
        if model in stages:
            return model
        if model.startswith("teacher"):
            trained = [name for name, stage in stages.items() if stage.result.get("trains") == "teacher"]
            return trained[-1] if trained else "teacher"
        return str(self.result.get("student") or next(reversed(stages), "student"))

    @cached_property
    def exports(self) -> dict[str, dict[str, Any]]:
        """The contents of `export/<name>.json` by name; other JSON files there belong to the exported models."""
        paths = sorted((self.path / "export").glob("*.json"))
        read = {path.stem: self._json(f"export/{path.name}", "its facts are unknown") for path in paths}
        return {name: content for name, content in read.items() if isinstance(content.get("facts"), dict)}

    @property
    def export_rows(self) -> list[dict[str, Any]]:
        """One row a measured model, from `result.json`, or from the exports where the run has not ended."""
        rows = self.result.get("export")
        if not isinstance(rows, list):
            rows = [row for content in self.exports.values() for row in content.get("rows") or ()]
        return [row for row in rows if isinstance(row, dict)]

    def _stage(self, folder: Path) -> StageFolder:
        where = f"stages/{folder.name}"
        lines = list(self._lines(f"{where}/metrics.jsonl"))
        result = self._checked(f"{where}/result.json", self._json(f"{where}/result.json", "the stage has not ended"))
        details = self._json(f"{where}/details.json", "an older potstill made no tables of errors") if result else {}
        return StageFolder(
            name=folder.name.split("-", 1)[-1],
            path=folder,
            result=result,
            details={whose: _by_split(found) for whose, found in details.items()},
            losses=[line for line in lines if "loss" in line and isinstance(line.get("terms") or {}, dict)],
            evaluations=[line for line in lines if isinstance(line.get("evaluation"), dict)],
        )

    def _json(self, name: str, consequence: str) -> dict[str, Any]:
        path = self.path / name
        if not path.is_file():
            self.missing.append(f"{name} is missing: {consequence}.")
            return {}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            self.missing.append(f"{name} cannot be read ({error}): {consequence}.")
            return {}
        if isinstance(content, dict):
            return content
        self.missing.append(f"{name} holds no table: {consequence}.")
        return {}

    def _checked(self, name: str, result: dict[str, Any]) -> dict[str, Any]:
        """A model's result, without what is no table where one belongs."""
        damaged = [key for key in ("metrics", "test", "best") if not isinstance(result.get(key) or {}, dict)]
        self.missing += [f"{name} holds no table '{key}': its numbers are unknown." for key in damaged]
        return {key: value for key, value in result.items() if key not in damaged}

    def _lines(self, name: str) -> Iterator[dict[str, Any]]:
        """The lines of a JSON lines file; the last one may be cut off where a run was killed."""
        path = self.path / name
        if not path.is_file():
            self.missing.append(f"{name} is missing: there are no learning curves of this stage.")
            return
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            try:
                content = json.loads(line)
            except ValueError:
                self.missing.append(f"{name}, line {number}, cannot be read and is left out.")
                continue
            if isinstance(content, dict):
                yield content


def _by_split(content: Any) -> BySplit:
    """The tables of a model by split, without whatever is no table."""
    splits = content.items() if isinstance(content, dict) else ()
    return {split: _tables(found) for split, found in splits if isinstance(found, dict)}


def _tables(content: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [row for row in rows if isinstance(row, dict)] for name, rows in content.items() if isinstance(rows, list)
    }
