"""One stage of a recipe, set up so that a test can look into it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from potstill import loader
from potstill.context import Context
from potstill.engine import Engine
from potstill.models import Model
from potstill.plugin import Plugin
from potstill.progress import Progress
from potstill.recipe import parse
from potstill.runner import expanded
from potstill.stage import Stage


def stage_of(
    recipe: Mapping[str, Any],
    data: Path,
    folder: Path,
    *,
    plugins: Sequence[Plugin] | None = None,
    beside: Sequence[Plugin] = (),
    progress: Progress | None = None,
    given: Mapping[str, Model] | None = None,
    tables: Mapping[str, Any] | None = None,
) -> Stage:
    """The last stage of a recipe, after every plugin's setup; close its `exit` where hooks must come off.

    Args:
        recipe: tables of a recipe.
        data: where its paths stand.
        folder: of the run; nothing is written there yet.
        plugins: these objects in the place of those that the stage names.
        beside: objects that come after them.
        given: models by "teacher" and "student", as in `Context`.
        tables: data sets by split, as in `Context`.
    """
    plan = expanded(parse(recipe), teacher_given="teacher" in (given or {}))
    context = Context(plan, folder, data, progress=progress or Progress(), given=given, tables=tables)
    named = loader.stage_plugins(plan, plan.stages[-1]) if plugins is None else plugins
    return Stage(context, plan.stages[-1], [*named, *beside])


def engine_of(recipe: Mapping[str, Any], data: Path, folder: Path, **more: Any) -> Engine:
    """The engine of `stage_of`, which takes `more`; it trains in `folder / "stage"`."""
    return Engine(stage_of(recipe, data, folder, **more), folder / "stage")
