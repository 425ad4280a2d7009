"""The recipe: what a run does, as read from a TOML file or a dict.

The tables are described in `potstill.settings`, changes from the command line in `potstill.overrides`, and
which model a stage starts from in `potstill.references`; all of it can be imported from here.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import tomli_w
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, model_validator
from pydantic.json_schema import models_json_schema

from potstill.complaints import Location, validated
from potstill.errors import RecipeError, did_you_mean
from potstill.overrides import with_overrides, with_plugins
from potstill.references import check_references, resolve_references
from potstill.settings import DataConfig, ExportConfig, ModelConfig, Seed, Settings, StagePlan, TaskConfig

__all__ = [
    "DataConfig",
    "ExportConfig",
    "ModelConfig",
    "Recipe",
    "StagePlan",
    "TaskConfig",
    "difference",
    "dump",
    "json_schema",
    "load",
    "parse",
    "plain",
    "read",
    "resolve_references",
    "with_overrides",
    "with_plugins",
]


def _as_folder(value: str) -> str:
    if not re.fullmatch(r"\w[\w .-]*", value):
        raise ValueError("a name is a folder's too: letters, digits, ' ', '.', '-' and '_', a letter or digit first")
    return value


class Recipe(Settings):
    """Everything that a run does."""

    model_config = ConfigDict(populate_by_name=True)

    name: Annotated[str, AfterValidator(_as_folder)] = "run"
    """The run's name and that of its folder; the file's where it is left out."""
    seed: Seed = 42
    """Seed of every random draw."""
    task: TaskConfig = Field(default_factory=TaskConfig)
    """What the models learn to do."""
    data: DataConfig = Field(default_factory=DataConfig)
    """Where the rows come from."""
    teacher: ModelConfig | None = None
    """The model that is learnt from."""
    student: ModelConfig | None = None
    """The model that learns and is handed over at the end."""
    stages: Annotated[tuple[StagePlan, ...], Strict(False)] = Field(
        default=(), validation_alias="stage", serialization_alias="stage"
    )
    """The trainings, in order."""
    export: ExportConfig | None = None
    """In which forms the finished student is written."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.teacher is not None and self.teacher.layers is not None:
            raise ValueError("[teacher]: 'layers' takes layers from the teacher and is a key of [student]")
        check_references(self.stages)
        return self


def load(path: str | Path) -> Recipe:
    """The recipe in a TOML file.

    Raises: RecipeError for a file that is missing, is no TOML (with the line), or says what cannot be.
    """
    return parse(read(path), str(path))


def read(path: str | Path, what: str = "recipe") -> dict[str, Any]:
    """The file's tables, unchecked, with the file's name as the recipe's where none is given.

    Args:
        what: how errors call the file.

    Raises: RecipeError for a file that is missing or is no TOML, with the line.
    """
    path = Path(path)
    if not path.is_file():
        told = f"is a folder, not a {what} file" if path.is_dir() else "does not exist"
        near = did_you_mean(path.name, [beside.name for beside in path.parent.glob("*.toml")])
        raise RecipeError(f"{what} '{path}' {told}.{near}")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise RecipeError(f"{what} '{path}' is not UTF-8 text (byte {error.start}).") from None
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{what} {_toml_sentence(path, str(error))}") from None
    return {"name": re.sub(r"[^\w .-]", "-", path.stem), **data}


def _toml_sentence(path: Path, told: str) -> str:
    found = re.search(r"^(.*?)\s*\(at (?:line (\d+), column (\d+)|end of document)\)$", told, re.DOTALL)
    if found is None:
        return f"'{path}' is not valid TOML: {told}."
    line = found[2] or str(len(path.read_text(encoding="utf-8").splitlines()))
    column = f", column {found[3]}" if found[3] else ""
    return f"'{path}', line {line}{column}: this is not valid TOML: {found[1]}."


def parse(data: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """The recipe in a dict of TOML's shape.

    Args:
        where: what the errors call it, such as the file's path.

    Raises: RecipeError, one sentence with `where`, the table and the key.
    """
    if "stages" in data:
        raise RecipeError(f"{where}: unknown key 'stages'. Did you mean 'stage'?")

    def place(table: Location) -> str:
        return f"{where}: {_table_name(data, table)}"

    return validated(Recipe, data, place)


def _table_name(data: Mapping[str, Any], table: Location) -> str:
    if not table:
        return ""
    if table[0] != "stage" or len(table) < 2:
        return f"[{'.'.join(map(str, table))}]: "
    stage = data["stage"][table[1]]
    name = stage.get("name") if isinstance(stage, Mapping) else None
    return f"stage {int(table[1]) + 1} ({name}): " if name else f"stage {int(table[1]) + 1}: "


def plain(recipe: Recipe) -> dict[str, Any]:
    """The recipe as a dict of TOML's shape, defaults written out; `parse` gives the same recipe back."""
    return _plain(recipe)


def _plain(table: BaseModel) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, field in type(table).model_fields.items():
        value = getattr(table, name)
        if name == "options":
            found.update(value)
        elif isinstance(value, BaseModel):
            found[name] = _plain(value)
        elif name == "stages":
            found["stage"] = [_plain(stage) for stage in value]
        elif value is not None:
            found[name] = list(value) if isinstance(value, tuple) else value
        elif field.default is not None:
            # TOML has no null: what is switched off against its default is written as "" or 0
            found[name] = type(field.default)()
    return found


def dump(recipe: Recipe) -> str:
    """The recipe as TOML, defaults written out, which loads back equal."""
    return tomli_w.dumps(plain(recipe))


def difference(a: Recipe, b: Recipe) -> list[str]:
    """What differs, a line a key: "student.options.hidden_size: 256 → 128"; stages go by their names."""
    before, after = dict(_leaves(_by_stage(a))), dict(_leaves(_by_stage(b)))
    keys = dict.fromkeys([*before, *after])
    return [f"{key}: {_shown(before, key)} → {_shown(after, key)}" for key in keys if _unlike(before, after, key)]


def _by_stage(recipe: Recipe) -> dict[str, Any]:
    tables = recipe.model_dump(exclude={"stages"})
    plans = {plan.name: plan.model_dump(exclude={"name"}) for plan in recipe.stages}
    return {**tables, "stages": list(plans), "stage": plans}


def _leaves(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{key}.")
        elif value is not None:
            yield f"{above}{key}", value


def _unlike(before: dict[str, Any], after: dict[str, Any], key: str) -> bool:
    return (key in before) != (key in after) or before.get(key) != after.get(key)


def _shown(leaves: dict[str, Any], key: str) -> str:
    return json.dumps(leaves[key], ensure_ascii=False) if key in leaves else "not given"


def json_schema(
    plugins: Mapping[str, type[BaseModel]] | None = None, tasks: Mapping[str, type[BaseModel]] | None = None
) -> dict[str, Any]:
    """The recipe's JSON schema with a description of every key, for editors.

    Args:
        plugins: the options' models by plugin; the tables of plugins that are not here may hold anything.
        tasks: the options' models by kind of task; of those that are not here [task] may hold anything.
    """
    plugins, tasks = plugins or {}, tasks or {}
    models: dict[type[BaseModel], None] = dict.fromkeys([Recipe, *plugins.values(), *tasks.values()])
    places, schema = models_json_schema([(model, "validation") for model in models])
    definitions = schema["$defs"]
    tables = {name: places[model, "validation"] for name, model in plugins.items()}
    for name in ("StagePlan", "ExportConfig"):
        del definitions[name]["properties"]["options"]
        definitions[name]["properties"].update(tables)
        definitions[name]["additionalProperties"] = {"type": "object", "description": "The options of a plugin."}
    _allow_options(definitions["ModelConfig"])
    names = {kind: places[model, "validation"]["$ref"].rsplit("/", 1)[-1] for kind, model in tasks.items()}
    _add_options(definitions["TaskConfig"], {kind: definitions[name]["properties"] for kind, name in names.items()})
    for name in names.values():
        definitions.pop(name, None)
    recipe = definitions.pop("Recipe")
    top = {"$schema": "https://json-schema.org/draft/2020-12/schema", **recipe, "title": "potstill recipe"}
    without_null: dict[str, Any] = _without_null({**top, "$defs": definitions})
    return without_null


def _add_options(task: dict[str, Any], options: Mapping[str, Mapping[str, Any]]) -> None:
    """The keys of each kind of task beside those of all; any key where the kind is not known."""
    properties = task["properties"]
    del properties["options"], task["additionalProperties"]
    default = properties["kind"]["default"]
    task["allOf"] = []
    for kind, own in options.items():
        named: dict[str, Any] = {"properties": {"kind": {"const": kind}}}  # which holds where no kind is named too
        chosen = named if kind == default else {**named, "required": ["kind"]}
        task["allOf"].append(
            {"if": chosen, "then": {"propertyNames": {"enum": [*properties, *own]}, "properties": dict(own)}}
        )


def _allow_options(model: dict[str, Any]) -> None:
    """Any key beside `plugin`, and `layers` of any kind; only the known keys without."""
    properties = model["properties"]
    del properties["options"], model["additionalProperties"]
    layers = properties["layers"]
    properties["layers"] = {"description": layers.pop("description")}
    model["if"] = {"not": {"required": ["plugin"]}}
    model["then"] = {"propertyNames": {"enum": list(properties)}, "properties": {"layers": layers}}


def _without_null(schema: Any) -> Any:
    """The schema without null, which TOML does not have."""
    if isinstance(schema, list):
        return [_without_null(part) for part in schema if part != {"type": "null"}]
    if not isinstance(schema, dict):
        return schema
    found = {key: _without_null(part) for key, part in schema.items() if not (key == "default" and part is None)}
    choices = found.get("anyOf")
    if isinstance(choices, list) and len(choices) == 1:
        del found["anyOf"]
        found = {**choices[0], **found}
    return found
