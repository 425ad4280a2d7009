"""Which models a stage starts from: "fresh", "previous", "stage:NAME", a folder or a hub id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from potstill.errors import did_you_mean

if TYPE_CHECKING:
    from potstill.recipe import Recipe
    from potstill.settings import StagePlan

FRESH = "fresh"
PREVIOUS = "previous"
STAGE = "stage:"


def stage_named(reference: str) -> str | None:
    """The stage's name in "stage:NAME"; None for any other reference."""
    return reference.removeprefix(STAGE) if reference.startswith(STAGE) else None


def check_references(stages: Sequence[StagePlan]) -> None:
    """Every stage has a name of its own and refers only to stages before it.

    Raises: ValueError with the stage's number and name.
    """
    names = [plan.name for plan in stages]
    for at, plan in enumerate(stages):
        place = f"stage {at + 1} ({plan.name})"
        if plan.name in names[:at]:
            raise ValueError(f"{place}: stage {names.index(plan.name) + 1} has the same name")
        for key in ("teacher", "student"):
            wrong = _wrong(getattr(plan, key), names, at)
            if wrong:
                raise ValueError(f"{place}: {key} = '{getattr(plan, key)}' {wrong}")


def _wrong(reference: str | None, names: list[str], at: int) -> str:
    if reference == PREVIOUS and at == 0:
        return "stands in the first stage, and there is none before it"
    name = None if reference is None else stage_named(reference)
    if name is None or name in names[:at]:
        return ""
    if name == names[at]:
        return "is this stage itself"
    if name in names:
        return f"comes later: it is stage {names.index(name) + 1}"
    before = f"the stages before it are {', '.join(names[:at])}" if at else "there is no stage before it"
    return f"does not exist; {before}.{did_you_mean(name, names[:at])}"


def resolve_references(recipe: Recipe, *, teacher_given: bool = False) -> Recipe:
    """The recipe with `teacher` and `student` filled in for every stage, "previous" as "stage:NAME".

    What a stage leaves out follows from the stages before it.

    A stage that trains the student goes on from the last student stage before it, else "fresh"; its teacher is
    the last teacher stage before it, else "fresh" where the recipe has a `[teacher]` table, else none. A stage
    that trains the teacher has no teacher; its `student` names the model that is trained: the last teacher
    stage before it, else "fresh", which there means the `[teacher]` table. "previous" becomes the stage's name.

    Args:
        teacher_given: the caller holds a teacher, so none need be in the recipe.
    """
    outside = FRESH if recipe.teacher is not None or teacher_given else None
    last: dict[str, str] = {}
    stages: list[StagePlan] = []
    for plan in recipe.stages:
        student = _named(plan.student, stages) or last.get(plan.trains, FRESH)
        teacher = _named(plan.teacher, stages)
        if teacher is None and plan.trains == "student":
            teacher = last.get("teacher", outside)
        before = f"{STAGE}{stages[-1].name}" if stages else FRESH
        exact = {"teacher": teacher, "student": student}
        exact = {side: before if reference == PREVIOUS else reference for side, reference in exact.items()}
        stages.append(plan.model_copy(update=exact))
        last[plan.trains] = f"{STAGE}{plan.name}"
    return recipe.model_copy(update={"stages": tuple(stages)})


def _named(reference: str | None, before: Sequence[StagePlan]) -> str | None:
    return f"{STAGE}{before[-1].name}" if reference == PREVIOUS else reference
