"""A recipe from options instead of a file: the same dictionary that a TOML file gives."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from potstill.errors import UserError

_DATA_FILES = {".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt", ".conll"}


_HEADS = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
}
"""The task that the head of a teacher from elsewhere tells, told without loading one."""


@dataclass(frozen=True)
class Parts:
    """What the options of `potstill run` without a recipe file say; None is not said.

    Attributes:
        student: a model folder, the name of a plugin that builds students, or a hub id.
        student_layers: the teacher's layers, counted from 1, that a student starts from.
        task: the task's kind; by default the teacher's, as its folder says, else text classification.
        export: names of export plugins.
    """

    name: str | None = None
    task: str | None = None
    teacher: str | None = None
    student: str | None = None
    student_layers: tuple[int, ...] = ()
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    text: str | None = None
    text_pair: str | None = None
    label: str | list[str] | None = None
    max_length: int | None = None
    epochs: float | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    export: tuple[str, ...] = ()

    def said(self) -> list[str]:
        """The fields that were said, `name` left out."""
        return [field for field, value in vars(self).items() if field != "name" and value not in (None, ())]


def compose(parts: Parts) -> dict[str, Any]:
    """The recipe of one stage that distils (or, without a teacher, trains) a student.

    Paths are relative to the current folder and come out absolute, so that the recipe can be saved anywhere.
    Raises: UserError where training data or a student is not said, or a file is not there.
    """
    if parts.train is None:
        raise UserError("There is nothing to train on: give a recipe file, or --train FILE.")
    recipe: dict[str, Any] = {
        "name": parts.name or Path(parts.train.partition("::")[0]).stem,
        "task": _task(parts),
        "data": _data(parts),
    }
    if parts.teacher is not None:
        recipe["teacher"] = {"model": model(parts.teacher, "--teacher")}
    recipe["student"] = _student(parts)
    recipe["stage"] = [_stage(parts)]
    if parts.export:
        recipe["export"] = {"plugins": list(parts.export)}
    return recipe


def data_path(spec: str, option: str) -> str:
    """A data file or folder as an absolute path, with its "::split" where it has one; a hub id stays as it is."""
    name, colons, split = spec.partition("::")
    return _absolute(name, option, looks_local=Path(name).suffix in _DATA_FILES) + colons + split


def model(spec: str, option: str) -> str:
    """A model folder, or that of a run folder's model, as an absolute path; a hub id stays as it is."""
    inner = Path(spec).expanduser() / "model"
    if (inner / "config.json").is_file():
        return os.path.abspath(inner)
    return _absolute(spec, option, looks_local=spec.count("/") > 1)


def finished_model(path: str) -> Path:
    """The folder of a finished model as `model_folder` finds it, or an .onnx file of an export."""
    file = Path(path).expanduser()
    return file if file.suffix == ".onnx" and file.is_file() else model_folder(path)


def model_folder(path: str) -> Path:
    """The folder of a finished model: `path` itself, or the model of the run folder `path`."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"There is no model folder '{path}'.")
    inner = folder / "model"
    if (folder / "config.json").is_file():
        return folder
    if (inner / "config.json").is_file():
        return inner
    if (folder / "recipe.toml").is_file():
        raise UserError(f"The run in '{path}' has no finished model; the same `potstill run` goes on with it.")
    raise UserError(f"'{path}' is no model: neither it nor its folder 'model' holds a config.json.")


def _absolute(spec: str, option: str, looks_local: bool) -> str:
    if not spec:
        raise UserError(f"{option} is empty: name a file, a folder or a hub id.")
    path = Path(spec).expanduser()
    if path.exists():
        return os.path.abspath(path)
    if looks_local or spec.startswith((".", "/", "~")):
        raise UserError(f"There is no '{spec}' in {os.getcwd()} ({option}).")
    return spec


def _task(parts: Parts) -> dict[str, Any]:
    """The task as said, or as the teacher's folder says; with the teacher's labels in the teacher's order."""
    theirs = _learnt(parts.teacher)
    kind = parts.task or theirs.get("kind") or "text-classification"
    task: dict[str, Any] = {"kind": kind}
    if theirs.get("kind") == kind:
        task |= theirs.get("options", {}) | ({"labels": theirs["labels"]} if theirs.get("labels") else {})
    return task


def _learnt(teacher: str | None) -> dict[str, Any]:
    """The task that a teacher's folder tells, as potstill or transformers wrote it; {} where it tells none."""
    from potstill.places import read_config, read_table

    if not teacher:
        return {}
    folder = Path(model(teacher, "--teacher"))
    task = read_table(folder / "potstill.json").get("task")
    if isinstance(task, dict):
        return task
    config = read_config(folder)
    names = config.get("id2label")
    architecture = str((config.get("architectures") or [""])[0])
    kind = next((kind for head, kind in _HEADS.items() if architecture.endswith(head)), None)
    if kind == "question-answering":
        return {"kind": kind}
    if kind is None or not isinstance(names, dict):
        return {}
    if len(names) == 1:
        return {"kind": "regression"}
    labels = [names[number] for number in sorted(names, key=int)]
    unnamed = all(label.startswith("LABEL_") for label in labels)
    if kind == "text-classification" and config.get("problem_type") == "multi_label_classification":
        kind = "multi-label"
    return {} if unnamed else {"kind": kind, "labels": labels}


def _data(parts: Parts) -> dict[str, Any]:
    data: dict[str, Any] = {
        split: data_path(spec, f"--{split}")
        for split in ("train", "validation", "test")
        if (spec := getattr(parts, split)) is not None
    }
    for field in ("text", "text_pair", "label", "max_length"):
        if getattr(parts, field) is not None:
            data[field] = getattr(parts, field)
    return data


def _student(parts: Parts) -> dict[str, Any]:
    if parts.student_layers:
        if parts.student is not None:
            raise UserError(
                f"--student {parts.student} and --student-layers exclude each other: "
                "a student is a model of its own or starts from the teacher's layers."
            )
        if parts.teacher is None:
            raise UserError("--student-layers takes layers of a teacher: give --teacher too.")
        return {"layers": list(parts.student_layers)}
    if parts.student is None:
        raise UserError("There is no student: give --student-layers 2,4,6 (layers of the teacher), or --student.")
    is_folder = Path(parts.student).expanduser().is_dir()
    if not is_folder and parts.student in {entry.name for entry in entry_points(group="potstill.plugins")}:
        return {"plugin": parts.student}
    return {"model": model(parts.student, "--student")}


def _stage(parts: Parts) -> dict[str, Any]:
    stage: dict[str, Any] = {"name": "train" if parts.teacher is None else "distil"}
    for field in ("epochs", "batch_size", "learning_rate"):
        if getattr(parts, field) is not None:
            stage[field] = getattr(parts, field)
    return stage
