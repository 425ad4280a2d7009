"""`potstill plugins check`: the loader's rules on an installed plugin or a distribution's folder."""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

from potstill.attribution import described
from potstill.cli.plugininfo import hooks_of, options_of
from potstill.discovery import PLUGINS
from potstill.errors import PluginError
from potstill.loader import manager, plugin_class
from potstill.plugin import Plugin
from potstill.plugin_checks import check_class


def check(name: str) -> list[str]:
    """One line for each plugin that keeps the rules, then one for each thing that could be better.

    Args:
        name: of an installed plugin, or a folder with a pyproject.toml.

    Raises: PluginError, the first rule that is broken.
    """
    classes = _of_folder(Path(name)) if Path(name).is_dir() else [plugin_class(name)]
    return [line for cls in classes for line in _checked(cls)]


def _checked(cls: type[Plugin]) -> list[str]:
    check_class(cls, described(cls))
    required = [name for name, field in cls.Config.model_fields.items() if field.is_required()]
    together = not required and not cls.requires - {"teacher", "same-tokenizer"}
    if together:
        manager([cls(cls.Config())])
    lines = [f"{described(cls)} keeps the rules; hooks: {', '.join(hooks_of(cls)) or 'none'}."]
    if not hooks_of(cls):
        lines.append(f"{cls.name} implements no hook, so it does nothing: is @hookimpl missing?")
    if not cls.__doc__:
        lines.append(f"{cls.name} has no docstring, which `potstill plugins show {cls.name}` would print.")
    bare = [option["option"] for option in options_of(cls.Config) if not option["description"]]
    if bare:
        lines.append(f"{cls.name}: these options have no description: {', '.join(bare)}.")
    return lines


def _of_folder(folder: Path) -> list[type[Plugin]]:
    """The plugin classes that a distribution's pyproject.toml names, imported from its own sources."""
    path = folder / "pyproject.toml"
    if not path.is_file():
        raise PluginError(f"'{folder}' holds no pyproject.toml, so it is no distribution.")
    try:
        project = tomllib.loads(path.read_text(encoding="utf-8")).get("project", {})
    except tomllib.TOMLDecodeError as error:
        raise PluginError(f"'{path}' is not TOML: {error}.") from error
    entries = project.get("entry-points", {}).get(PLUGINS, {})
    if not entries:
        raise PluginError(f"'{path}' names no plugin: it needs a table [project.entry-points.\"{PLUGINS}\"].")
    sources = [str(place.resolve()) for place in (folder / "src", folder) if place.is_dir()]
    sys.path[:0] = sources
    try:
        return [_loaded(name, value, path) for name, value in entries.items()]
    finally:
        sys.path[:] = [place for place in sys.path if place not in sources]


def _loaded(name: str, value: str, path: Path) -> type[Plugin]:
    try:
        cls = EntryPoint(name, value, PLUGINS).load()
    except Exception as error:
        raise PluginError(
            f"'{path}': {name} = '{value}' cannot be imported: {type(error).__name__}: {error}."
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, Plugin)):
        raise PluginError(f"'{path}': {name} = '{value}' is no subclass of potstill.Plugin.")
    if getattr(cls, "name", None) != name:
        raise PluginError(
            f"'{path}': the plugin '{name}' calls itself {getattr(cls, 'name', None)!r}; they must be equal."
        )
    return cls
