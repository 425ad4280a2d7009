"""The page of all keys of a recipe, from the models in `potstill.settings` and their docstrings."""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from docs.generate.markdown import docstring, table
from potstill.discovery import installed
from potstill.recipe import Recipe
from potstill.settings import CorpusConfig, DataConfig, ExportConfig, ModelConfig, StagePlan, TaskConfig
from potstill.tasks import GROUP, task_class

TABLES: tuple[tuple[str, type[BaseModel]], ...] = (
    ("Top of the file", Recipe),
    ("`[task]`", TaskConfig),
    ("`[data]`", DataConfig),
    ("`[data.corpus]`", CorpusConfig),
    ("`[teacher]` and `[student]`", ModelConfig),
    ("`[[stage]]`", StagePlan),
    ("`[export]`", ExportConfig),
)
"""Heading → model, in the order of a recipe."""

INTRODUCTION = """\
# Recipes

A recipe is one TOML file that says all that a run does. Every key is below, with its default; a key that is not
there, or a value that cannot be, is an error that names file, table and key. `potstill schema` prints the same as a
JSON schema for editors, `potstill plan` shows what a recipe comes to, and `recipe.toml` in a run folder is the recipe
with every default written out.

Paths stand under `--data-root`, by default the recipe's own folder. `--set KEY=VALUE` changes any key from the command
line: `--set data.max_length=64`, `--set stage.distil.epochs=2` (by the stage's name or number), and
`--set hinton.temperature=2` for a plugin's option wherever the recipe names that plugin. Values are TOML; a bare word
is text.
"""


def page() -> str:
    """The whole page."""
    return INTRODUCTION + "".join(f"\n## {heading}\n\n{_section(model)}" for heading, model in (*TABLES, *_tasks()))


def _tasks() -> Iterator[tuple[str, type[BaseModel]]]:
    """The options of each task that has any."""
    for entry in sorted(installed(GROUP), key=lambda entry: entry.name):
        options = task_class(entry.name).Options
        if options.model_fields:
            yield f'`[task]` with `kind = "{entry.name}"`', options


def _section(model: type[BaseModel]) -> str:
    text = docstring(inspect.getdoc(model))
    inherited = model.__base__.model_fields if model.__base__ else {}
    fields = sorted(model.model_fields.items(), key=lambda item: item[0] in inherited)
    rows = [_row(name, field) for name, field in fields]
    return f"{text}\n{table(('key', 'value', 'default', 'meaning'), rows)}"


def _row(name: str, field: FieldInfo) -> tuple[str, str, str, str]:
    key = field.serialization_alias or name
    limits = _limits(field.metadata)
    kind = _kind(field.annotation) + (f", {limits}" if limits else "")
    return f"`{key}`", kind, _default(field), field.description or ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is None or value is PydanticUndefined or value == ():
        return "–"
    return f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"


def _kind(annotation: Any) -> str:
    """A type in a reader's words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        limits = _limits(annotation.__metadata__)
        return _kind(arguments[0]) + (f", {limits}" if limits else "")
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_kind(part) for part in arguments if part is not type(None))
    if origin is Literal:
        return " or ".join(f'`"{part}"`' for part in arguments)
    if origin is dict or annotation is dict:
        return "table"
    if origin in (list, tuple):
        return "tables" if _is_model(arguments[0]) else f"list ({_kind(arguments[0])})"
    if _is_model(annotation):
        return "table"
    return {str: "text", int: "whole number", float: "number", bool: "`true` or `false`"}.get(annotation, "anything")


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _limits(metadata: typing.Iterable[Any]) -> str:
    found = []
    for limit in metadata:
        if isinstance(limit, FieldInfo):
            found.append(_limits(limit.metadata))
        for kind, sign, value in ((Ge, "≥", "ge"), (Gt, ">", "gt"), (Le, "≤", "le"), (Lt, "<", "lt")):
            if isinstance(limit, kind):
                found.append(f"{sign} {getattr(limit, value)}")
        if isinstance(limit, MinLen) and limit.min_length == 1:
            found.append("not empty")
    return ", ".join(part for part in found if part)
