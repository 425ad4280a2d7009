"""Checks that hold for every plugin: a run that breaks off anywhere goes on to the very same end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from potstill.progress import Bar, Progress
from potstill.runner import Result, run


class Unplugged(BaseException):
    """A run broken off on purpose."""


class _Unplug(Progress):
    """Breaks a run off when `updates` updates of the stage `stage` are done."""

    def __init__(self, stage: str, updates: int) -> None:
        self._stage = stage
        self._left = updates

    @contextmanager
    def bar(self, name: str, total: int | None, done: int = 0) -> Iterator[Bar]:
        yield _Fuse(self) if name == self._stage else Bar()

    def burn(self, steps: int) -> None:
        self._left -= steps
        if self._left <= 0:
            raise Unplugged


class _Fuse(Bar):
    def __init__(self, progress: _Unplug) -> None:
        self._progress = progress

    def advance(self, steps: int = 1, **facts: float | str) -> None:
        self._progress.burn(steps)


def assert_resumes_exactly(recipe: Mapping[str, Any], *, data: Path, folder: Path, stage: str, after: int) -> Result:
    """Runs a recipe twice, once broken off and resumed, and compares weights and metrics bit by bit.

    Args:
        recipe: tables of a recipe.
        data: where its paths stand.
        folder: two run folders are made in it, `whole` and `broken`.
        stage: the stage to break off.
        after: updates of that stage until then.

    Returns: the result of the run left alone.
    Raises: AssertionError naming the first difference, or where the run ended before it could be broken off.
    """
    whole = run(recipe, folder=folder / "whole", data_root=data)
    try:
        run(recipe, folder=folder / "broken", data_root=data, progress=_Unplug(stage, after))
    except Unplugged:
        pass
    else:
        raise AssertionError(f"The stage '{stage}' ended before its update {after}.")
    run(recipe, folder=folder / "broken", data_root=data)
    for name in whole.stages:
        assert_same_weights(folder / "whole", folder / "broken", name)
        one, other = (_stage(folder / side, name) / "metrics.jsonl" for side in ("whole", "broken"))
        if one.read_bytes() != other.read_bytes():
            raise AssertionError(f"The metrics of the stage '{name}' differ after the run was resumed.")
    return whole


def weights(run_folder: Path, stage: str) -> dict[str, Tensor]:
    """The weights that a stage handed on, by name."""
    return load_file(_stage(run_folder, stage) / "best" / "model.safetensors")


def assert_same_weights(one: Path, other: Path, stage: str) -> None:
    """Compares what a stage of two runs handed on, bit by bit.

    Raises: AssertionError naming the first parameter that differs.
    """
    theirs = weights(other, stage)
    for name, value in weights(one, stage).items():
        if not torch.equal(theirs[name], value):
            raise AssertionError(f"'{name}' of the stage '{stage}' differs between {one} and {other}.")


def _stage(run_folder: Path, name: str) -> Path:
    return next(path for path in run_folder.glob("stages/*") if path.name.split("-", 1)[1] == name)
