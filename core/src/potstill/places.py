"""Where models and tokenizers lie: below the data root, in a folder, or on the hub."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from potstill.discovery import installed
from potstill.errors import ModelError


def find_place(spec: str, root: Path | None) -> str:
    """A path below `root` where there is one, else the word as it stands (an absolute path, or a hub id)."""
    path = Path(spec).expanduser()
    if path.is_absolute():
        return str(path)
    below = (root or Path()) / path
    return str(below.resolve()) if below.exists() else spec


def read_config(folder: Path) -> dict[str, Any]:
    """A model folder's config.json; {} where there is none."""
    return read_table(folder / "config.json")


def read_table(path: Path) -> dict[str, Any]:
    """The table in a JSON file beside a model; {} where there is no such file.

    Raises: ModelError where it holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {first_line(error)}.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds {content!r:.40}, not a table.")
    return content


def register_kind(kind: str) -> None:
    """Imports the module that an installed plugin offers for a model type transformers does not know."""
    for found in installed("potstill.models"):
        if found.name == kind:
            import_module(found.value)


def first_line(error: Exception) -> str:
    """What an error says first, without quotes around all of it and without a full stop."""
    lines = [line.rstrip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    line = " ".join(map(str.strip, lines[:2])) if lines[0].endswith(":") else lines[0]
    line = line.strip()
    quoted = line[:1] in ("'", '"') and line[:1] == line[-1:]  # as a KeyError shows its key
    return (line[1:-1] if quoted else line).rstrip(".")
