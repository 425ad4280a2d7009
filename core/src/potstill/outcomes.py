"""What is kept of a stage's answers on the validation rows: enough to score any part of these rows again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from potstill.errors import FileError

NAME = "outcomes.safetensors"
"""In a stage's folder."""

Rows = npt.NDArray[Any] | list[npt.NDArray[Any]]
"""One array, a row each; or a list of arrays of one row each, where rows have shapes of their own."""


def keep_outcomes(folder: Path, outcomes: Rows, labels: Rows) -> None:
    """Writes what `Task.kept` gave; nothing where a task keeps something else than numbers."""
    parts = {**_packed("outcomes", outcomes), **_packed("labels", labels)}
    if not any(part.dtype.hasobject or part.dtype.kind in "US" for part in parts.values()):
        save_file(parts, folder / NAME)


def kept_outcomes(folder: Path) -> tuple[Rows, Rows]:
    """What `keep_outcomes` wrote: of the model, and of the labels.

    Raises: FileError where it is not there or not whole.
    """
    try:
        parts = load_file(folder / NAME)
        return _unpacked("outcomes", parts), _unpacked("labels", parts)
    except Exception as problem:  # safetensors has errors of its own, none of them a subclass of another
        raise FileError(f"The outcomes of {folder} on the validation rows cannot be read: {problem}.") from problem


def _packed(name: str, rows: Rows) -> dict[str, npt.NDArray[Any]]:
    if not isinstance(rows, list):
        return {name: np.ascontiguousarray(rows)}
    # One array of all numbers: a tensor a row would make a file of headers.
    return {
        name: np.concatenate([row.ravel() for row in rows]),
        f"{name} shapes": np.array([row.shape for row in rows], dtype=np.int64),
    }


def _unpacked(name: str, parts: dict[str, npt.NDArray[Any]]) -> Rows:
    shapes = parts.get(f"{name} shapes")
    if shapes is None:
        return parts[name]
    ends = np.cumsum(shapes.prod(axis=1))[:-1]
    return [row.reshape(shape) for row, shape in zip(np.split(parts[name], ends), shapes, strict=True)]
