"""Who did it: an exception inside a hook names its plugin, and so does every loss term."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator, Iterable
from dataclasses import replace
from typing import Any

import pluggy

from potstill.discovery import PLUGINS, installed
from potstill.errors import Interrupted, PluginError
from potstill.plugin import LossTerm, Plugin
from potstill.recipe import StagePlan

CORE = "core"
"""The name of the plugin that is always active."""
Function = Callable[..., Any]
_BLAMED = "_potstill_plugin"


def described(plugin: Plugin | type[Plugin]) -> str:
    """The plugin with its origin: "plugin 'hinton' (potstill-hinton 0.1.0)"; its module where it is not installed."""
    cls = plugin if isinstance(plugin, type) else type(plugin)
    value = f"{cls.__module__}:{cls.__qualname__}"
    origins = [found.origin for found in installed(PLUGINS) if found.value == value]
    return f"plugin '{cls.name}' ({origins[0] if origins else cls.__module__})"


def attribute(manager: pluggy.PluginManager, plugin: Plugin) -> None:
    """Wraps the plugin's registered hooks: exceptions get a note, loss terms the plugin's name."""
    who = described(plugin)
    for caller in manager.get_hookcallers(plugin) or ():
        for implementation in caller.get_hookimpls():
            if implementation.plugin is plugin:
                wrap = _wrapper if implementation.wrapper else _plain
                wrapped = wrap(implementation.function, plugin.name, f"{who}, hook {caller.name}", caller.name)
                # pluggy has no public way to decorate an implementation; its signature was checked by now
                object.__setattr__(implementation, "function", wrapped)


def blamed(error: BaseException) -> str | None:
    """The plugin whose hook raised this exception; None where no hook did."""
    name: str | None = getattr(error, _BLAMED, None)
    return name


def _plain(function: Function, name: str, note: str, hook: str) -> Function:
    finish = _FINISH.get(hook)

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        try:
            result = function(*arguments)
            return result if finish is None else finish(result, name)
        except Exception as error:
            _blame(error, name, note)
            raise

    return call


def _wrapper(function: Function, name: str, note: str, hook: str) -> Function:
    @functools.wraps(function)
    def call(*arguments: Any) -> Generator[Any, Any, Any]:
        try:
            return (yield from function(*arguments))
        except Exception as error:
            _blame(error, name, note)
            raise

    return call


def _blame(error: Exception, name: str, note: str) -> None:
    """Only the innermost plugin is named: an outer wrapper gets the same exception thrown in.

    The core is not named to the user, but it counts, so that nobody else is blamed for it.
    """
    if blamed(error) is not None or isinstance(error, Interrupted):
        return
    if name != CORE:
        error.add_note(note)
    with contextlib.suppress(AttributeError):
        setattr(error, _BLAMED, name)


def _named_terms(result: Any, plugin: str) -> list[LossTerm] | None:
    """`compute_loss`'s terms as a list, named "plugin.term"."""
    if result is None:
        return None
    if isinstance(result, LossTerm) or not isinstance(result, Iterable):
        raise PluginError(f"compute_loss of plugin '{plugin}' returned {_kind(result)}, not a list of LossTerm.")
    terms = list(result)
    wrong = next((term for term in terms if not isinstance(term, LossTerm)), None)
    if wrong is not None:
        raise PluginError(f"compute_loss of plugin '{plugin}' returned {_kind(wrong)} in its list, not a LossTerm.")
    names = [term.name for term in terms]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise PluginError(f"compute_loss of plugin '{plugin}' returned two terms named '{twice}'.")
    return terms if plugin == CORE else [replace(term, name=f"{plugin}.{term.name}") for term in terms]


def _stages(result: Any, plugin: str) -> Any:
    """`expand_stage`'s plans as a list."""
    if result is None:
        return None
    plans = list(result) if isinstance(result, list | tuple) else []
    if not plans or not all(isinstance(plan, StagePlan) for plan in plans):
        raise PluginError(f"expand_stage of plugin '{plugin}' returned {_kind(result)}, not a list of StagePlan.")
    return plans


def _kind(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(type(item).__name__ for item in value)}]"
    return type(value).__name__


_FINISH: dict[str, Callable[[Any, str], Any]] = {"compute_loss": _named_terms, "expand_stage": _stages}
