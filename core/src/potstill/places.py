"""Where models and tokenizers lie: below the data root, in a folder, or on the hub."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, cast

from potstill.discovery import installed
from potstill.errors import ModelError
from potstill.files import read_json


def find_place(spec: str, root: Path | None) -> str:
    """A path below `root` where there is one, else the word as it stands (an absolute path, or a hub id)."""
    path = Path(spec).expanduser()
    if path.is_absolute():
        return str(path)
    below = (root or Path()) / path
    return str(below.resolve()) if below.exists() else spec


def read_config(folder: Path) -> dict[str, Any]:
    """A model folder's config.json; {} where there is none."""
    path = folder / "config.json"
    try:
        return cast(dict[str, Any], read_json(path)) if path.is_file() else {}
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {first_line(error)}.") from error


def register_kind(kind: str) -> None:
    """Imports the module that an installed plugin offers for a model type transformers does not know."""
    for found in installed("potstill.models"):
        if found.name == kind:
            import_module(found.value)


def first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    line = " ".join(map(str.strip, lines[:2])) if lines[0].endswith(":") else lines[0]
    return line.strip("'\" ")
