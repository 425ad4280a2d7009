"""Which models a stage starts from: "fresh", "previous", "stage:NAME", a folder, a hub id, or a table of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from potstill.errors import did_you_mean
from potstill.settings import ModelConfig

if TYPE_CHECKING:
    from potstill.recipe import Recipe
    from potstill.settings import Reference, StagePlan

FRESH = "fresh"
PREVIOUS = "previous"
STAGE = "stage:"


def teacher_side(name: str) -> str:
    """What a teacher is called: "teacher" where it is the only one, else with its name."""
    return f"teacher {name}".rstrip()


def stage_named(reference: Reference | None) -> str | None:
    """The stage's name in "stage:NAME"; None for any other reference."""
    return reference.removeprefix(STAGE) if isinstance(reference, str) and reference.startswith(STAGE) else None


def references(plan: StagePlan) -> Iterator[tuple[str, Reference]]:
    """The references that a stage gives, each with its key in the recipe."""
    for key, reference in (("teacher", plan.teacher), ("student", plan.student)):
        if reference is not None:
            yield key, reference
    for name, reference in plan.teachers.items():
        yield f"teachers.{name}", reference


def with_references(plan: StagePlan, renamed: Mapping[str, str]) -> StagePlan:
    """The plan with references exchanged."""

    def exact(reference: Reference | None) -> Reference | None:
        return renamed.get(reference, reference) if isinstance(reference, str) else reference

    teachers = {name: exact(reference) for name, reference in plan.teachers.items()}
    changes = {"teacher": exact(plan.teacher), "student": exact(plan.student), "teachers": teachers}
    return plan.model_copy(update=changes)


def tables_used(recipe: Recipe, plan: StagePlan) -> dict[str, ModelConfig]:
    """The tables that a stage makes models from: the trained one's by "student", a teacher's by "teacher" or its name.

    Args:
        plan: its references resolved, or not yet: what trains no teacher and names no student is fresh.
    """
    trained = recipe.teacher if plan.trains == "teacher" else recipe.student
    found = {"student": trained if plan.student in (None, FRESH) else plan.student}
    for name, reference in plan.every_teacher.items():
        found[teacher_side(name)] = recipe.teacher if reference == FRESH else reference
    return {side: table for side, table in found.items() if isinstance(table, ModelConfig)}


def check_references(stages: Sequence[StagePlan]) -> None:
    """Every stage has a name of its own and refers only to stages before it.

    Raises: ValueError with the stage's number and name.
    """
    names = [plan.name for plan in stages]
    for at, plan in enumerate(stages):
        place = f"stage {at + 1} ({plan.name})"
        if plan.name in names[:at]:
            raise ValueError(f"{place}: stage {names.index(plan.name) + 1} has the same name")
        for key, reference in references(plan):
            wrong = _wrong(reference, names, at)
            if wrong:
                raise ValueError(f"{place}: {key} = '{reference}' {wrong}")


def _wrong(reference: Reference, names: list[str], at: int) -> str:
    if reference == PREVIOUS and at == 0:
        return "stands in the first stage, and there is none before it"
    name = stage_named(reference)
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
        if stages:
            plan = with_references(plan, {PREVIOUS: f"{STAGE}{stages[-1].name}"})
        student = plan.student or last.get(plan.trains, FRESH)
        teacher = plan.teacher
        if teacher is None and not plan.teachers and plan.trains == "student":
            teacher = last.get("teacher", outside)
        stages.append(plan.model_copy(update={"teacher": teacher, "student": student}))
        last[plan.trains] = f"{STAGE}{plan.name}"
    return recipe.model_copy(update={"stages": tuple(stages)})
