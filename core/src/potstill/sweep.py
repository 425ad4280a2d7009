"""A grid of settings and seeds over one recipe; stages that are the same in several runs are trained once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import tomli_w

from potstill.errors import UserError
from potstill.files import write_json
from potstill.progress import Progress
from potstill.recipe import Recipe, parse, with_overrides
from potstill.runner import expanded, run


def sweep(
    recipe: Mapping[str, Any],
    *,
    grid: Mapping[str, Sequence[Any]],
    seeds: Sequence[int],
    folder: Path,
    data_root: Path,
    progress: Progress | None = None,
    track: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Runs every combination, each in a folder of its own, and goes on where an earlier call stopped.

    Args:
        recipe: tables of a recipe.
        grid: key -> values, keys as `--set` takes them.
        seeds: of the stages that train the student. Stages that train the teacher keep the recipe's own seed, so
            that a teacher is trained once for all runs that need the same one.
        folder: of the sweep.
        data_root: where the recipe's paths stand.
        track: as in `run`.

    Returns: one row a run: "settings", "seed", "folder", "metrics" and "test" of the student.
    Raises: as `planned`, before anything is trained.
    """
    told = progress or Progress()
    cells = planned(recipe, grid, seeds)
    rows: list[dict[str, Any]] = []
    done: list[Path] = []
    for number, (settings, seed, plan) in enumerate(cells, start=1):
        name = _name(settings, seed)
        told.note(f"run {number} of {len(cells)}: {name}")
        place = folder / name
        result = run(plan, folder=place, data_root=data_root, progress=told, reuse=done, track=track)
        done.append(place)
        rows.append(
            {"settings": settings, "seed": seed, "folder": name, "metrics": result.metrics, "test": result.test}
        )
        write_json(folder / "sweep.json", rows)
    return rows


def planned(
    recipe: Mapping[str, Any], grid: Mapping[str, Sequence[Any]], seeds: Sequence[int]
) -> list[tuple[dict[str, Any], int | None, Recipe]]:
    """The settings, seed and recipe of every run of a sweep, all of them checked.

    Raises: RecipeError for a key or value that cannot be; UserError where two runs would be one and the same.
    """
    found: dict[str, tuple[dict[str, Any], int | None, Recipe]] = {}
    for settings, seed in _cells(grid, seeds):
        name = _name(settings, seed)
        if name in found:
            raise UserError(f"The grid names the run '{name}' twice; give each value once.")
        found[name] = settings, seed, _plan(recipe, settings, seed)
    return list(found.values())


def _cells(grid: Mapping[str, Sequence[Any]], seeds: Sequence[int]) -> Iterator[tuple[dict[str, Any], int | None]]:
    for values in product(*grid.values()):
        for seed in seeds or (None,):
            yield dict(zip(grid, values, strict=True)), seed


def _plan(recipe: Mapping[str, Any], settings: Mapping[str, Any], seed: int | None) -> Recipe:
    changes = [f"{key}={_toml(value)}" for key, value in settings.items()]
    plan = _seeded(parse(with_overrides(recipe, changes)), seed)
    expanded(plan)  # raises for what plugins do not take
    return plan


def _seeded(recipe: Recipe, seed: int | None) -> Recipe:
    if seed is None:
        return recipe
    stages = tuple(plan if plan.trains == "teacher" else plan.with_(seed=seed) for plan in recipe.stages)
    return recipe.model_copy(update={"stages": stages})


def _name(settings: Mapping[str, Any], seed: int | None) -> str:
    parts = [f"{key.split('.')[-1]}={value}" for key, value in settings.items()]
    parts += [] if seed is None else [f"seed={seed}"]
    return ",".join(parts).replace("/", "_").replace(" ", "") or "run"


def _toml(value: Any) -> str:
    return tomli_w.dumps({"x": value}).strip().removeprefix("x = ").replace("\n", "")
