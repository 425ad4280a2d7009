"""What `potstill plugins` tells about plugins."""

from __future__ import annotations

import inspect
from typing import Any

from pydantic_core import PydanticUndefined

from potstill.cli.commands import COMMANDS, plugin_commands, summary
from potstill.discovery import PLUGINS, Found, installed
from potstill.errors import PotstillError
from potstill.loader import plugin_class
from potstill.plugin import Plugin, PluginConfig
from potstill.plugin_checks import implementations


def every_plugin() -> list[dict[str, Any]]:
    """One row for each installed plugin and each plugin command; loading them shows what is broken."""
    return [_plugin_row(found) for found in installed(PLUGINS)] + [_command_row(found) for found in installed(COMMANDS)]


def describe(name: str) -> dict[str, Any]:
    """An installed plugin: description, hooks, options, and what it provides, requires and excludes.

    Raises: PluginError as `loader.plugin_class`.
    """
    cls = plugin_class(name)
    found = next(found for found in installed(PLUGINS) if found.name == name)
    return {
        "name": name,
        "distribution": found.distribution,
        "version": found.version,
        "description": inspect.getdoc(cls) or summary(found.distribution),
        "hooks": hooks_of(cls),
        "provides": sorted(cls.provides),
        "requires": sorted(cls.requires),
        "conflicts": sorted(cls.conflicts),
        "options": options_of(cls.Config),
    }


def hooks_of(cls: type[Plugin]) -> list[str]:
    """The hooks that a class implements; a wrapper is marked so."""
    return [
        f"{options.get('specname') or name}{' (wrapper)' if options.get('wrapper') else ''}"
        for name, options in implementations(cls).items()
    ]


def options_of(config: type[PluginConfig]) -> list[dict[str, Any]]:
    """One row an option: name, type, default (None where it must be given) and description."""
    return [
        {
            "option": name,
            "type": inspect.formatannotation(field.annotation).replace("typing.", ""),
            "default": _default(field.get_default(call_default_factory=True)),
            "description": " ".join((field.description or "").split()),
        }
        for name, field in config.model_fields.items()
    ]


def _plugin_row(found: Found) -> dict[str, Any]:
    row = _row(found, "plugin")
    try:
        cls = plugin_class(found.name)
    except PotstillError as error:
        return {**row, "problem": str(error)}
    return {**row, "hooks": hooks_of(cls), "summary": (inspect.getdoc(cls) or row["summary"]).partition("\n")[0]}


def _command_row(found: Found) -> dict[str, Any]:
    row = _row(found, "command")
    try:
        plugin_commands()[found.name].load()
    except PotstillError as error:
        return {**row, "problem": str(error)}
    return row


def _row(found: Found, kind: str) -> dict[str, Any]:
    return {
        "name": found.name,
        "kind": kind,
        "distribution": found.distribution,
        "version": found.version,
        "summary": summary(found.distribution),
        "hooks": [],
        "problem": None,
    }


def _default(value: Any) -> Any:
    if value is PydanticUndefined:
        return "(must be given)"
    return "none" if value is None else value
