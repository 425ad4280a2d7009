"""What can be wrong with plugins, found before the first batch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from potstill.attribution import CORE, described
from potstill.errors import PluginError, did_you_mean
from potstill.hookspecs import Hooks
from potstill.plugin import API, Plugin

HOOKS: dict[str, tuple[str, ...]] = {
    name: tuple(inspect.signature(method).parameters)[1:]
    for name, method in vars(Hooks).items()
    if not name.startswith("_")
}
"""Every hook with the names of its arguments."""
EXCLUSIVE = ("build_student", "finish_student", "on_step")
"""Hooks where the first result wins and a second plugin's would be dropped without a word; wrappers are no rivals."""
OF_THE_CORE = frozenset({"teacher", "same-tokenizer"})
"""Requirements that only the stage can judge."""


def check_class(cls: type[Plugin], who: str) -> None:
    """A plugin's class keeps the rules of the hooks.

    Raises: PluginError for an API number other than the core's, an unknown hook, a hook without `@hookimpl`, an
        old-style wrapper, and arguments that the hook does not have or that have defaults.
    """
    if cls.api != API:
        newer = "update potstill" if cls.api > API else "update the plugin"
        raise PluginError(f"{who} is written for hooks of version {cls.api}, and this potstill has {API}; {newer}.")
    for name, options in implementations(cls).items():
        hook = str(options.get("specname") or name)
        if hook not in HOOKS:
            near = did_you_mean(hook, HOOKS) or f" The hooks are {', '.join(HOOKS)}."
            raise PluginError(f"{who}: there is no hook '{hook}'.{near}")
        _check_signature(getattr(cls, name), hook, who)
        _check_wrapper(getattr(cls, name), options, hook, who)
    unmarked = next((name for name in HOOKS if hasattr(cls, name) and name not in implementations(cls)), None)
    if unmarked is not None:
        raise PluginError(f"{who}: {unmarked} has the name of a hook and lacks the decorator @hookimpl.")


def implementations(cls: type[Plugin]) -> dict[str, Mapping[str, Any]]:
    """The options of every method that is marked with `@hookimpl`, by the method's name."""
    marked = {name: getattr(inspect.getattr_static(cls, name), "potstill_impl", None) for name in dir(cls)}
    return {name: options for name, options in marked.items() if options is not None}


def hook_names(cls: type[Plugin]) -> set[str]:
    """The hooks that a plugin implements."""
    return {str(options.get("specname") or name) for name, options in implementations(cls).items()}


def _check_signature(method: Callable[..., Any], hook: str, who: str) -> None:
    for parameter in list(inspect.signature(method).parameters.values())[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise PluginError(f"{who}: {hook} takes '{parameter}'; name the arguments: {', '.join(HOOKS[hook])}.")
        if parameter.name not in HOOKS[hook]:
            near = did_you_mean(parameter.name, HOOKS[hook])
            known = ", ".join(HOOKS[hook])
            raise PluginError(f"{who}: {hook} has no argument '{parameter.name}', only {known}.{near}")
        if parameter.default is not parameter.empty:
            raise PluginError(
                f"{who}: {hook} gives its argument '{parameter.name}' a default value, and so it would always get "
                "that one; leave the default out."
            )


def _check_wrapper(method: Callable[..., Any], options: Mapping[str, Any], hook: str, who: str) -> None:
    if options.get("hookwrapper"):
        raise PluginError(f"{who}: {hook} is an old-style wrapper; write wrapper=True and return the result.")
    if options.get("wrapper") and not inspect.isgeneratorfunction(method):
        raise PluginError(f"{who}: {hook} is a wrapper and must yield exactly once, for what it wraps.")


def check_together(plugins: Sequence[Plugin]) -> None:
    """The plugins of one stage can be active together.

    Raises: PluginError, naming both, for one name twice, a conflict, a requirement that nobody meets, and two
        plugins whose results for one hook exclude each other.
    """
    names = [plugin.name for plugin in plugins]
    if CORE in names:
        raise PluginError(f"plugin '{CORE}' is always active; leave it out of the list.")
    for at, plugin in enumerate(plugins):
        if plugin.name in names[:at]:
            raise PluginError(f"{described(plugin)} is active twice in one stage; name it once.")
        others = [other for other in plugins if other is not plugin]
        _check_conflicts(plugin, others)
        _check_requirements(plugin, others)
    for hook in EXCLUSIVE:
        _check_exclusive(hook, plugins)


def _offers(plugin: Plugin) -> frozenset[str]:
    return plugin.provides | {plugin.name}


def _check_conflicts(plugin: Plugin, others: Sequence[Plugin]) -> None:
    for other in others:
        for what in sorted(plugin.conflicts & _offers(other)):
            why = "" if what == other.name else f", and '{other.name}' provides that"
            raise PluginError(
                f"{described(plugin)} and {described(other)} cannot be active in one stage: "
                f"'{plugin.name}' conflicts with '{what}'{why}."
            )


def _check_requirements(plugin: Plugin, others: Sequence[Plugin]) -> None:
    offered = frozenset[str]().union(*(_offers(other) for other in others))
    for what in sorted(plugin.requires - OF_THE_CORE - offered):
        active = ", ".join(other.name for other in others) or "no other"
        raise PluginError(
            f"{described(plugin)} requires '{what}' in the same stage, where {active} is active; add a plugin that is "
            f"or provides '{what}'."
        )


def _check_exclusive(hook: str, plugins: Sequence[Plugin]) -> None:
    rivals = [plugin for plugin in plugins if _gives_result(plugin, hook)]
    if len(rivals) > 1:
        raise PluginError(
            f"{described(rivals[0])} and {described(rivals[1])} both implement {hook}, and only one result can count; "
            "name one of them."
        )


def _gives_result(plugin: Plugin, hook: str) -> bool:
    return any(
        (options.get("specname") or name) == hook and not options.get("wrapper")
        for name, options in implementations(type(plugin)).items()
    )
