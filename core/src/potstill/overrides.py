"""Changes from the command line: `--set a.b=c` and `-p plugin:option=value`, on a recipe that is still a dict."""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from potstill.complaints import known_keys
from potstill.errors import RecipeError, did_you_mean
from potstill.settings import DataConfig, ExportConfig, ModelConfig, StagePlan, TaskConfig

TABLES = {
    "task": known_keys(TaskConfig),
    "data": known_keys(DataConfig),
    "teacher": known_keys(ModelConfig),
    "student": known_keys(ModelConfig),
    "export": known_keys(ExportConfig),
}
"""The keys of a recipe's tables."""
KEYS = ("name", "seed")
"""The keys of a recipe that are no table."""

Tree = dict[str, Any]


def with_overrides(recipe: Mapping[str, Any], overrides: Sequence[str]) -> Tree:
    """A copy of the recipe with keys changed.

    Args:
        overrides: each "KEY=VALUE". The key is dotted: `seed`, `data.train`, `student.config.hidden_size`,
            `stage.distil.epochs` or `stage.2.epochs` for one stage, `NAME.temperature` for that plugin's option
            wherever the recipe names it. The value is TOML; a bare word is text.

    Raises: RecipeError for what is not "KEY=VALUE" and for a key that cannot be.
    """
    changed = copy.deepcopy(dict(recipe))
    for override in overrides:
        key, equals, value = override.partition("=")
        path = [part.strip().strip('"') for part in key.split(".")]
        if not equals or not all(path):
            raise RecipeError(f"override '{override}' is not KEY=VALUE, such as seed=7 or data.max_length=64.")
        _override(changed, path, _value(value, f"override '{override}'"), f"override '{override}'")
    return changed


def with_plugins(recipe: Mapping[str, Any], plugins: Sequence[str]) -> Tree:
    """A copy of the recipe with plugins added to its last student stage (a new one, "distil", if it has none).

    Args:
        plugins: each "NAME" or "NAME:OPTION=VALUE,OPTION=VALUE", values as in `with_overrides`. A plugin that
            the stage names already gets the options only.

    Raises: RecipeError for what is not written like that.
    """
    changed = copy.deepcopy(dict(recipe))
    for text in plugins:
        name, _, rest = text.partition(":")
        if not re.fullmatch(r"[\w-]+", name):
            raise RecipeError(f"plugin '{text}' is not NAME or NAME:OPTION=VALUE, such as accumulate:batches=4.")
        stage = _last_student_stage(changed)
        if name not in stage.get("plugins", ()):
            stage["plugins"] = [*stage.get("plugins", ()), name]
        for option in _split(rest):
            key, equals, value = option.partition("=")
            path = [part.strip() for part in key.split(".")]
            if not equals or not all(path):
                raise RecipeError(f"plugin '{text}': '{option}' is not OPTION=VALUE, such as batches=4.")
            _put(stage, [name, *path], _value(value, f"plugin '{text}'"), f"plugin '{text}'")
    return changed


def _last_student_stage(recipe: Tree) -> Tree:
    stages = recipe.setdefault("stage", [])
    for stage in reversed(stages):
        if stage.get("trains", "student") == "student":
            return _table(stage, "stage")
    recipe["stage"] = [*stages, {"name": "distil"}]
    return _table(recipe["stage"][-1], "stage")


def _split(options: str) -> Iterator[str]:
    """The text between commas that stand outside quotes and brackets."""
    part, depth, quote = "", 0, ""
    for sign in options:
        if sign == "," and not depth and not quote:
            yield part
            part = ""
            continue
        part += sign
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        else:
            depth += (sign in "[{") - (sign in "]}")
    if part:
        yield part


def _value(text: str, where: str) -> Any:
    """A TOML value; what is none, and looks like none, is a bare word."""
    text = text.strip()
    try:
        found = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        if text[:1] in ("[", "{", '"', "'"):
            raise RecipeError(f'{where}: {text} is not a TOML value; a list is written ["a", "b"].') from None
        short_float = re.fullmatch(r"[+-]?(\d+\.|\.\d+)([eE][+-]?\d+)?", text)
        return float(text) if short_float else text
    only = found["value"] if len(found) == 1 else text
    return only if isinstance(only, str | bool | int | float | list | dict) else text


def _override(recipe: Tree, path: list[str], value: Any, where: str) -> None:
    head, rest = path[0], path[1:]
    if head == "stage":
        _override_stage(recipe, rest, value, where)
    elif head in KEYS:
        _put(recipe, path, value, where)
    elif head in TABLES:
        _override_table(recipe, head, rest, value, where)
    else:
        _override_plugin(recipe, head, rest, value, where)


def _override_table(recipe: Tree, head: str, rest: list[str], value: Any, where: str) -> None:
    if not rest:
        raise RecipeError(f"{where}: '{head}' is a table; name a key in it, such as {head}.{TABLES[head][0]}.")
    table = _table(recipe.setdefault(head, {}), where)
    rest = rest[1:] if rest[0] == "options" and len(rest) > 1 else rest
    free = head == "task" or (head in ("teacher", "student") and table.get("plugin") is not None)
    _check_key(rest[0], [*TABLES[head], *table.get("plugins", ())], f"{where}: [{head}]", free)
    _put(table, rest, value, where)


def _override_stage(recipe: Tree, rest: list[str], value: Any, where: str) -> None:
    stages = recipe.get("stage", [])
    names = [str(stage.get("name")) for stage in stages]
    if len(rest) < 2:
        raise RecipeError(
            f"{where}: a stage's key is stage.NAME.KEY, such as stage.{(names or ['distil'])[-1]}.epochs."
        )
    at = names.index(rest[0]) if rest[0] in names else int(rest[0]) - 1 if rest[0].isdecimal() else -1
    if not 0 <= at < len(stages):
        known = f"the stages are {', '.join(names)}" if names else "the recipe has no stage"
        raise RecipeError(f"{where}: there is no stage '{rest[0]}'; {known}.{did_you_mean(rest[0], names)}")
    keys = rest[2:] if rest[1] == "options" and len(rest) > 2 else rest[1:]
    _check_key(keys[0], [*known_keys(StagePlan), *stages[at].get("plugins", ())], f"{where}: stage '{names[at]}'")
    _put(_table(stages[at], where), keys, value, where)


def _override_plugin(recipe: Tree, plugin: str, rest: list[str], value: Any, where: str) -> None:
    named = _plugin_names(recipe)
    if plugin not in named:
        known = [*KEYS, *TABLES, "stage", *named]
        near = did_you_mean(plugin, known)
        if plugin in known_keys(StagePlan):
            names = [str(stage.get("name")) for stage in recipe.get("stage", [])] or ["distil"]
            near = f" Did you mean 'stage.{names[-1]}.{plugin}'?"
        raise RecipeError(
            f"{where}: '{plugin}' is neither a key of the recipe nor a plugin that it names "
            f"({', '.join(named) or 'it names none'}).{near}"
        )
    if not rest:
        raise RecipeError(f"{where}: '{plugin}' is a plugin; name an option of it, as in {plugin}.OPTION=VALUE.")
    for table in [*recipe.get("stage", []), recipe.get("export") or {}]:
        if plugin in table.get("plugins", ()):
            _put(_table(table, where), [plugin, *rest], value, where)
    for head in ("teacher", "student"):
        if (recipe.get(head) or {}).get("plugin") == plugin:
            _put(recipe[head], rest, value, where)


def _plugin_names(recipe: Tree) -> list[str]:
    tables = [*recipe.get("stage", []), recipe.get("export") or {}]
    names = [name for table in tables for name in table.get("plugins", ())]
    names += [name for head in ("teacher", "student") if (name := (recipe.get(head) or {}).get("plugin"))]
    return list(dict.fromkeys(names))


def _check_key(key: str, known: list[str], where: str, free: bool = False) -> None:
    if key not in known and not free:
        near = did_you_mean(key, known) or f" Known keys: {', '.join(known)}."
        raise RecipeError(f"{where}: unknown key '{key}'.{near}")


def _put(table: Tree, path: list[str], value: Any, where: str) -> None:
    """Sets a nested key, making the tables on the way."""
    for depth, part in enumerate(path[:-1]):
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"{where}: '{'.'.join(path[: depth + 1])}' is {inner!r}, not a table.")
        table = inner
    table[path[-1]] = value


def _table(table: Any, where: str) -> Tree:
    """The table, if it is one. Raises: RecipeError."""
    if not isinstance(table, dict):
        raise RecipeError(f"{where}: {table!r} should be a table.")
    return table
