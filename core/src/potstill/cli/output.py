"""What commands print on standard output."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import click


def say_json(content: Any, indent: int | None = 2) -> None:
    """Prints JSON: paths as strings, data classes as objects, NaN and infinity as null."""
    click.echo(json.dumps(plain(content), indent=indent, ensure_ascii=False))


def plain(content: Any) -> Any:
    """The same in dicts, lists, strings, numbers and None."""
    if isinstance(content, Mapping):
        return {str(key): plain(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [plain(value) for value in content]
    if isinstance(content, (set, frozenset)):
        return sorted(plain(value) for value in content)
    if dataclasses.is_dataclass(content) and not isinstance(content, type):
        return {field.name: plain(getattr(content, field.name)) for field in dataclasses.fields(content)}
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if content is None or isinstance(content, (bool, int, str)):
        return content
    if hasattr(content, "item"):  # a number of NumPy or torch
        return plain(content.item())
    return str(content)
