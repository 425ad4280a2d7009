"""Files and folders that a recipe names, known by what they hold, so that they may be moved."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.files import path_hash
from potstill.references import STAGE
from potstill.settings import ModelConfig

if TYPE_CHECKING:
    from potstill.recipe import Recipe
    from potstill.settings import Reference


class NamedFiles:
    """Hashes of what is named, each made once.

    Args:
        root: where relative paths stand.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[str, str] = {}

    def path(self, word: str) -> Path:
        """A path of the recipe: absolute ones as they are, others below the root."""
        path = Path(word).expanduser()
        return path if path.is_absolute() else self._root / path

    def within(self, values: Iterable[Any]) -> dict[str, str]:
        """The hash of every file and folder that trees of dicts and lists name, by its words there."""
        words = {word for value in values for word in _words(value) if word and not word.startswith(STAGE)}
        for word in words - set(self._known):
            if os.path.exists(self.path(word)):  # False of a text that is too long for a path
                self._known[word] = path_hash(self.path(word))
        return {word: found for word, found in sorted(self._known.items()) if word in words}


def by_side(recipe: Recipe, named: NamedFiles) -> dict[str, dict[str, str]]:
    """What the recipe and its stages name for "teacher" and for "student"."""
    tables: dict[str, list[Any]] = {"teacher": [recipe.teacher], "student": [recipe.student]}
    for plan in recipe.stages:
        tables["teacher"] += plan.every_teacher.values()
        tables["student"].append(plan.student)
    return {side: named.within(map(naming, found)) for side, found in tables.items()}


def with_models(recipe: Recipe, words: Mapping[str, Mapping[str, str]]) -> Recipe:
    """The recipe with other words in its tables and references of "teacher" and "student", and nowhere else."""
    teacher, student = words.get("teacher", {}), words.get("student", {})
    stages = tuple(
        plan.model_copy(
            update={
                "teacher": exchanged(plan.teacher, teacher),
                "teachers": {name: exchanged(reference, teacher) for name, reference in plan.teachers.items()},
                "student": exchanged(plan.student, student),
            }
        )
        for plan in recipe.stages
    )
    tables = {"teacher": exchanged(recipe.teacher, teacher), "student": exchanged(recipe.student, student)}
    return recipe.model_copy(update={**tables, "stages": stages})


def exchanged(reference: Reference | None, words: Mapping[str, str]) -> Reference | None:
    """A table or another reference with other words in the place of some; a config's are no paths, and stay."""
    other = with_words(naming(reference), words)
    return reference.model_copy(update=other) if isinstance(reference, ModelConfig) else other


def naming(reference: Reference | None) -> Any:
    """What of a table or another reference may name a file: all but a config, whose "bert" is a kind of model."""
    return reference.model_dump(exclude={"config"}) if isinstance(reference, ModelConfig) else reference


def as_plain(reference: Reference | None) -> Any:
    """A table as a dict; any other reference as it is."""
    return reference.model_dump() if isinstance(reference, ModelConfig) else reference


def with_words(value: Any, words: Mapping[str, str]) -> Any:
    """A tree of dicts and lists with other texts in the place of some."""
    if isinstance(value, Mapping):
        return {key: with_words(part, words) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(with_words(part, words) for part in value)
    return words.get(value, value) if isinstance(value, str) else value


def _words(value: Any) -> Iterator[str]:
    """Every text in a tree of dicts and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _words(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _words(part)
