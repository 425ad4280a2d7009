"""Mappings as text: the authors' `.nm` files (JSON), and TOML with layers as potstill counts them."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from potstill.complaints import Location, validated
from potstill.errors import RecipeError, did_you_mean
from potstill.plugin import PluginConfig
from potstill_diito.mapping import BUILT_IN, Alignment, Range, Variable

ENTRIES = "interchange_variable_mappings"
"""The one key of an `.nm` file."""
_NUMBER = r"\d+|\[\d+:\d+\]"
_NAME = re.compile(rf"\$L:({_NUMBER})\$H:({_NUMBER})\$(\[\d+:\d+\])")


def _as_range(value: Any) -> Range:
    """3 or "3:5" as a range, half-open.

    Raises: ValueError for anything else, and for a range that holds nothing.
    """
    first, _, end = str(value).partition(":")
    whole = isinstance(value, int | str) and not isinstance(value, bool) and first.isdecimal()
    if not whole or (isinstance(value, str) and not end.isdecimal()):
        raise ValueError("this should be a number from 0, or a range such as '0:12' that does not include its end")
    found = int(first), int(end or first) + (not end)
    if found[0] >= found[1]:
        raise ValueError("the range holds nothing: its end is not in it")
    return found


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


Ranged = Annotated[Range, BeforeValidator(_as_range)]


class VariableTable(PluginConfig):
    """`{ layers = [1, 2], heads = "0:12", dims = "0:64" }`."""

    layers: Annotated[tuple[int, ...], BeforeValidator(_as_list), Field(min_length=1)]
    """A layer or a list of layers: 0 is the embedding output, -1 the last layer."""
    heads: Ranged | None = None
    """A head or a range of heads, from 0. Left out: all."""
    dims: Ranged | None = None
    """A range of dimensions within each head, from 0. Left out: all."""

    def variable(self, told: str) -> Variable:
        """The variable that this table says."""
        return Variable(self.layers, self.heads, self.dims, told)


Variables = Annotated[tuple[VariableTable, ...], BeforeValidator(_as_list), Field(min_length=1)]


class AlignmentTable(PluginConfig):
    """One entry of a mapping."""

    teacher: Variables
    """A part of the teacher, or a list of parts of which one is drawn each time."""
    student: Variables
    """A part of the student, or a list of parts of which one is drawn each time."""


class MappingFile(PluginConfig):
    """A mapping in TOML."""

    mapping: tuple[AlignmentTable, ...] = ()
    """The entries, of which one is drawn each time."""


def from_tables(tables: Sequence[AlignmentTable], where: str) -> list[Alignment]:
    """The mapping that tables say.

    Args:
        where: how errors name the mapping.
    """
    return [
        Alignment(
            *(
                tuple(table.variable(_told(side, number, where)) for table in getattr(entry, side))
                for side in ("teacher", "student")
            )
        )
        for number, entry in enumerate(tables, start=1)
    ]


def read_mapping(path: Path) -> list[Alignment]:
    """The mapping in a file, by its ending: `.toml`, or `.nm` and `.json` for the authors' format.

    Raises: RecipeError where there is no such file, it is not what its ending says, or an entry cannot be.
    """
    if path.suffix not in (".toml", ".nm", ".json"):
        raise RecipeError(
            f"diito.mapping = '{path}' is none of {', '.join(BUILT_IN)}, and no file that ends in .toml, .nm or .json."
            f"{did_you_mean(path.name, BUILT_IN)}"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        reason = "is not there" if isinstance(problem, FileNotFoundError) else f"cannot be read as text: {problem}"
        raise RecipeError(f"diito.mapping = '{path}' {reason}.") from None
    return _from_toml(text, path) if path.suffix == ".toml" else _from_names(text, path)


def _from_toml(text: str, path: Path) -> list[Alignment]:
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise RecipeError(f"diito.mapping = '{path}' is not TOML: {problem}.") from None
    found = validated(MappingFile, tables, lambda table: _place(path, table))
    if not found.mapping:
        raise RecipeError(f"diito.mapping = '{path}' holds no entry: a table [[mapping]] with teacher and student.")
    return from_tables(found.mapping, f"'{path}'")


def _place(path: Path, table: Location) -> str:
    entry = f", mapping {int(table[1]) + 1}" if len(table) > 1 else ""
    side = f", {table[2]}" if len(table) > 2 else ""
    return f"'{path}'{entry}{side}: "


def _from_names(text: str, path: Path) -> list[Alignment]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise RecipeError(f"diito.mapping = '{path}' is not JSON: {problem}.") from None
    entries = found.get(ENTRIES) if isinstance(found, dict) else None
    if not isinstance(entries, list) or not entries:
        raise RecipeError(f"diito.mapping = '{path}' should be a table with one key, '{ENTRIES}', a list of entries.")
    return [
        Alignment(*(_named(entry, side, number, path) for side in ("teacher", "student")))
        for number, entry in enumerate(entries, start=1)
    ]


def _named(entry: Any, side: str, number: int, path: Path) -> tuple[Variable, ...]:
    key = f"{side}_variable_names"
    names = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise RecipeError(
            f"'{path}', mapping {number}: '{key}' should be a list of names such as '$L:6$H:[0:12]$[0:64]'."
        )
    return tuple(variable_named(name, _told(side, number, f"'{path}'")) for name in names)


def variable_named(name: str, where: str = "") -> Variable:
    """The variable of a name such as `$L:6$H:[0:12]$[0:64]`, whose layers count from 0: its layer 6 is 7 here.

    Raises: RecipeError where it is no such name, or a range holds nothing.
    """
    told = f"'{name}'{f' ({where})' if where else ''}"
    match = _NAME.fullmatch(name.strip())
    if match is None:
        raise RecipeError(
            f"{told} is no variable; write $L:layer$H:head$[first:end], with a number or a range [first:end] for layer "
            "and head."
        )
    try:
        layers, heads, dims = (_as_range(_bare(part)) for part in match.groups())
    except ValueError as problem:
        raise RecipeError(f"{told}: {problem}.") from None
    return Variable(tuple(layer + 1 for layer in range(*layers)), heads, dims, told)


def _bare(part: str) -> int | str:
    return part[1:-1] if part.startswith("[") else int(part)


def _told(side: str, number: int, where: str) -> str:
    return f"{side} of mapping {number}, {where}"
