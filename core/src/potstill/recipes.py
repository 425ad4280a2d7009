"""Recipes and suites that ship inside packages: `recipes/*.toml` and `suites/*.toml`, found without importing them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from importlib.util import find_spec
from pathlib import Path

from potstill.errors import UserError, did_you_mean

GROUPS = ("potstill.plugins", "potstill.commands")
RECIPES, SUITES = "recipes", "suites"
"""The folders in a package; a suite is a list of tasks for `potstill suite`."""


@dataclass(frozen=True)
class ShippedRecipe:
    """A recipe or suite file inside an installed distribution.

    Attributes:
        name: the file's name without `.toml`.
        summary: the comment on the file's first line, or "".
    """

    name: str
    path: Path
    distribution: str
    version: str

    @property
    def is_suite(self) -> bool:
        """Whether it is a list of tasks."""
        return self.path.parent.name == SUITES

    @property
    def summary(self) -> str:
        with self.path.open(encoding="utf-8") as lines:
            first = lines.readline().strip()
        return first.lstrip("# ").strip() if first.startswith("#") else ""


def shipped(*folders: str) -> list[ShippedRecipe]:
    """Every recipe of every installed distribution with a potstill plugin or command, by name.

    Args:
        folders: `RECIPES` where none is given, `SUITES`, or both.
    """
    wanted = folders or (RECIPES,)
    found = {recipe.path: recipe for distribution in distributions() for recipe in _of(distribution, wanted)}
    return sorted(found.values(), key=lambda recipe: (recipe.name, recipe.distribution))


def find(name: str) -> ShippedRecipe:
    """The recipe or suite of that name; "distribution/name" where two distributions ship one name."""
    known = shipped(RECIPES, SUITES)
    distribution, _, plain = name.removesuffix(".toml").rpartition("/")
    matches = [recipe for recipe in known if recipe.name == plain and distribution in ("", recipe.distribution)]
    if len(matches) > 1:
        choices = " or ".join(f"{recipe.distribution}/{recipe.name}" for recipe in matches)
        raise UserError(f"There are two recipes '{name}': say {choices}.")
    if not matches:
        near = did_you_mean(plain, [recipe.name for recipe in known])
        raise UserError(f"No installed plugin ships a recipe '{name}'.{near} `potstill recipes list` shows them.")
    return matches[0]


def copy(name: str, target: Path | None = None, overwrite: bool = False) -> Path:
    """Copies a shipped recipe to a file or into a folder (default: the current one); returns the file."""
    recipe = find(name)
    target = target or Path()
    path = target / recipe.path.name if target.is_dir() else target
    if path.exists() and not overwrite:
        raise UserError(f"'{path}' exists; --force overwrites it.")
    if not path.parent.is_dir():
        raise UserError(f"There is no folder '{path.parent}'.")
    shutil.copyfile(recipe.path, path)
    return path


def _of(distribution: Distribution, wanted: Sequence[str]) -> Iterator[ShippedRecipe]:
    packages = {entry.module.partition(".")[0] for entry in distribution.entry_points if entry.group in GROUPS}
    for package in sorted(packages):
        for folder in _folders(package):
            for path in (path for inner in wanted for path in sorted((folder / inner).glob("*.toml"))):
                yield ShippedRecipe(path.stem, path, distribution.metadata["Name"], distribution.version)


def _folders(package: str) -> list[Path]:
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return []
    return [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
