"""From the names in a recipe to plugins at work: classes, instances, a stage's manager, the expanded stages."""

from __future__ import annotations

import functools
import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pluggy

from potstill.attribution import CORE, attribute, described
from potstill.complaints import validated
from potstill.discovery import PLUGINS, installed
from potstill.errors import PluginError, RecipeError, did_you_mean
from potstill.hookspecs import Hooks
from potstill.plugin import Plugin
from potstill.plugin_checks import check_class, check_together, hook_names, implementations
from potstill.recipe import Recipe, StagePlan
from potstill.references import STAGE, check_references, resolve_references, tables_used, with_references

MAX_EXPANSIONS = 50
"""More replacements of one stage than this are a cycle."""


def plugin_class(name: str) -> type[Plugin]:
    """The installed plugin's class.

    Raises: PluginError where none is installed, where it is broken (with distribution, version and reason), where
        two distributions offer it, and where it breaks a rule of the hooks.
    """
    every = installed(PLUGINS)
    found = next((entry for entry in every if entry.name == name), None)
    if found is None:
        names = sorted({entry.name for entry in every} - {CORE})
        raise PluginError(
            f"plugin '{name}' is not installed; installed are {', '.join(names) or 'none'}.{did_you_mean(name, names)}"
        )
    cls = found.load()
    who = f"plugin '{name}' ({found.origin})"
    if not (isinstance(cls, type) and issubclass(cls, Plugin)):
        raise PluginError(f"{who} is {cls!r}, not a subclass of potstill.Plugin.")
    if getattr(cls, "name", None) != name:
        raise PluginError(f"{who} calls itself {getattr(cls, 'name', None)!r}; its class needs name = '{name}'.")
    check_class(cls, who)
    return cls


def make_plugins(names: Sequence[str], options: Mapping[str, Mapping[str, Any]], where: str = "") -> list[Plugin]:
    """The plugins with their options, in the order of the names.

    Args:
        options: tables by plugin; a plugin without one gets its defaults.
        where: what errors name first, such as "stage 'distil': ".

    Raises: PluginError as `plugin_class`; RecipeError for an option that cannot be.
    """
    return [_made(name, options.get(name, {}), where) for name in names]


def _made(name: str, options: Mapping[str, Any], where: str) -> Plugin:
    try:
        cls = plugin_class(name)
    except PluginError as error:
        raise PluginError(f"{where}{error}") from error.__cause__
    config = validated(cls.Config, options, lambda table: f"{where}plugin '{name}'{_below(table)}: ")
    try:
        return cls(config)
    except Exception as error:
        error.add_note(f"{described(cls)}, when it was made")
        raise


def _below(table: tuple[str | int, ...]) -> str:
    return f", in {'.'.join(map(str, table))}" if table else ""


class _Manager(pluggy.PluginManager):
    """A stage's manager; looking for hooks leaves properties alone, which may need the stage to be set up."""

    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        if isinstance(inspect.getattr_static(plugin, name, None), property | functools.cached_property):
            return None
        return super().parse_hookimpl_opts(plugin, name)


def manager(plugins: Sequence[Plugin]) -> pluggy.PluginManager:
    """A manager of exactly these plugins and the core.

    The first plugin's hooks are called first, its wrappers are outermost, and the core's come last. Exceptions
    inside a hook get a note with the plugin, loss terms the plugin's name.

    Raises: PluginError for plugins that break a rule or cannot be active together.
    """
    for plugin in plugins:
        check_class(type(plugin), described(plugin))
    check_together(plugins)
    made = _Manager("potstill")
    made.add_hookspecs(Hooks)
    # pluggy calls what was registered last first
    for plugin in [*plugins, _core()][::-1]:
        made.register(plugin, plugin.name)
        attribute(made, plugin)
    made.check_pending()
    return made


def _core() -> Plugin:
    from potstill.builtin import Core  # the only one that may load torch

    return Core(Core.Config())


def stage_plugins(recipe: Recipe, plan: StagePlan) -> list[Plugin]:
    """The plugins that a stage names, in order, and those that build its fresh student or teacher.

    Raises: PluginError and RecipeError, with the stage's name.
    """
    where = f"stage '{plan.name}': "
    built: dict[str, dict[str, Any]] = {}
    for table in tables_used(recipe, plan).values():
        if table.plugin is None:
            continue
        if built.setdefault(table.plugin, table.options) != table.options:
            raise RecipeError(
                f"{where}teacher and student both name plugin '{table.plugin}', with different options; "
                "train the teacher in a run or stage of its own."
            )
    names = list(dict.fromkeys([*plan.plugins, *built]))
    options = {name: {**built.get(name, {}), **plan.options_of(name)} for name in names}
    plugins = make_plugins(names, options, where)
    for plugin in plugins:
        if hook_names(type(plugin)) == {"export"}:
            raise PluginError(
                f"{where}{described(plugin)} does nothing in a stage, only in [export] "
                f"(from options: --export {plugin.name})."
            )
    return plugins


def export_plugins(options: Mapping[str, Mapping[str, Any]]) -> list[Plugin]:
    """The plugins that export a student, with their options.

    Raises: PluginError and RecipeError, also for a plugin that does not export.
    """
    plugins = make_plugins(list(options), options, "[export]: ")
    for plugin in plugins:
        if "export" not in hook_names(type(plugin)):
            raise PluginError(f"[export]: {described(plugin)} exports nothing; its place is a stage's plugins.")
    return plugins


def expand(recipe: Recipe) -> tuple[StagePlan, ...]:
    """The stages that are trained: every plan replaced by what its plugins make of it, references filled in.

    Where a stage is replaced by several, and none has its name, "stage:NAME" in later stages means the last of them.

    Raises: PluginError for an endless expansion, naming the plugin, and for plans that do not fit together.
    """
    recipe = resolve_references(recipe)
    stages: list[StagePlan] = []
    waiting = [(plan, plan.name) for plan in recipe.stages]
    expansions: Counter[str] = Counter()
    while waiting:
        plan, origin = waiting.pop(0)
        parts = _parts(recipe, plan)
        if parts is None:
            stages.append(plan)
            continue
        expansions[origin] += 1
        if expansions[origin] > MAX_EXPANSIONS:
            raise PluginError(
                f"stage '{origin}': expand_stage of {_expanding(recipe, plan)} goes on for ever: {MAX_EXPANSIONS} "
                f"expansions did not end, and the last returned {', '.join(part.name for part in parts)}."
            )
        if plan.name not in [part.name for part in parts]:
            renamed = {f"{STAGE}{plan.name}": f"{STAGE}{parts[-1].name}"}
            waiting = [(with_references(later, renamed), name) for later, name in waiting]
        waiting = [*((part, origin) for part in parts), *waiting]
    try:
        check_references(stages)
    except ValueError as error:
        raise PluginError(f"after expand_stage: {error}") from None
    return resolve_references(recipe.model_copy(update={"stages": tuple(stages)})).stages


def _parts(recipe: Recipe, plan: StagePlan) -> list[StagePlan] | None:
    """What the plugins replace a stage by; None where they leave it."""
    plugins = stage_plugins(recipe, plan)
    if not any(map(_expands, plugins)):
        return None
    parts: list[StagePlan] | None = manager(plugins).hook.expand_stage(plan=plan)
    return None if parts == [plan] else parts


def _expanding(recipe: Recipe, plan: StagePlan) -> str:
    return " and ".join(described(plugin) for plugin in stage_plugins(recipe, plan) if _expands(plugin))


def _expands(plugin: Plugin) -> bool:
    return "expand_stage" in implementations(type(plugin))
