"""Which columns a task reads: those that are named and, for what is left out, its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from potstill.data.columns import ROLES, Names
from potstill.errors import RecipeError
from potstill.tasks import Task, task_class

if TYPE_CHECKING:
    from potstill.recipe import DataConfig, Recipe

Roles = dict[str, Names | None]
"""A column by role, "text", "text_pair" and "label"; None or "" where there is none. The label may have several."""


def with_columns(recipe: Recipe) -> Recipe:
    """The recipe with the columns named that its table `[data]` leaves out.

    Raises: RecipeError for an unknown kind of task, and for a list of columns that it does not take.
    """
    kind = task_class(recipe.task.kind)
    columns = _named(recipe.data, kind)
    taken(columns, kind)
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=columns)})


def columns_of(data: DataConfig, kind: type[Task]) -> Roles:
    """The columns that a table `[data]` means: those that it names and, for what it leaves out, the task's own.

    Raises: RecipeError for a list of columns that the task does not take.
    """
    return taken(_named(data, kind), kind)


def usual(kind: type[Task]) -> Roles:
    """What the columns of a task are called where nobody says otherwise."""
    known: Mapping[str, str] = {**Task.columns, **kind.columns}
    return {role: known.get(role) for role in ROLES}


def taken(columns: Roles, kind: type[Task]) -> Roles:
    """The columns that a task reads of those that there are: one that makes its labels of the text needs no others.

    Raises: RecipeError for a list of columns that the task does not take.
    """
    label = columns.get("label")
    if not isinstance(label, str | None) and not kind.label_columns:
        raise RecipeError(
            f"data.label = {[*label]!s:.60} names {len(label)} columns, and the task '{kind.name}' reads one at "
            "most; name that, or take a task of several classes a row, such as task.kind = 'multi-label'."
        )
    return columns if kind.label_column else {**columns, "label": None}


def _named(data: DataConfig, kind: type[Task]) -> Roles:
    said = {role: getattr(data, role) for role in ROLES}
    return {role: own if said[role] is None else said[role] for role, own in usual(kind).items()}
