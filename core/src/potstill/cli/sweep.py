"""`potstill sweep`."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import click

from potstill.cli.display import main_process, make_progress
from potstill.cli.options import change_options, json_option, prepare, quiet_option, track_option
from potstill.cli.output import say_json
from potstill.errors import UserError
from potstill.settings import LARGEST_SEED

Row = Mapping[str, Any]


@click.command
@click.argument("recipe", metavar="RECIPE.toml")
@click.option("--grid", "grids", multiple=True, metavar="KEY=V1,V2,…", help="A setting and its values; repeatable.")
@click.option("--seeds", metavar="1,2,3", help="Seeds that each combination runs with. [default: the recipe's]")
@change_options
@click.option("--folder", metavar="DIR", help="Where the runs go. [default: sweeps/NAME]")
@track_option
@quiet_option
@json_option
def sweep(
    recipe: str,
    grids: tuple[str, ...],
    seeds: str | None,
    folder: str | None,
    track: tuple[str, ...],
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Run a grid of settings × seeds over one recipe. What is common, such as the teacher, is trained once.

    The same command again goes on where a sweep stopped. It ends with a row for each combination: mean ± standard
    deviation over the seeds.

    \b
    Example:
      potstill sweep thucnews-bilstm.toml --data-root data --grid hinton.temperature=1,5,10,20 --seeds 1,2,3
    """
    prepared = prepare(recipe, **options)
    grid = parse_grid(grids)
    target = Path(folder) if folder else Path("sweeps") / prepared.recipe.name

    from potstill.sweep import sweep as run_sweep
    from potstill.tasks import task_class

    rows = run_sweep(
        prepared.raw,
        grid=grid,
        seeds=parse_seeds(seeds),
        folder=target,
        data_root=prepared.data_root,
        progress=make_progress(quiet),
        track=track,
    )
    if main_process():
        task = prepared.recipe.task
        _show(rows, task.metric or task_class(task.kind).default_metric, target, as_json)


def parse_grid(words: Sequence[str]) -> dict[str, list[Any]]:
    """`["hinton.temperature=1,5", "student.layers=[2],[2,4]"]` as lists of TOML values; bare words are strings.

    Raises: UserError for a word without "=", an empty list, or a key said twice.
    """
    grid: dict[str, list[Any]] = {}
    for word in words:
        key, equals, text = word.partition("=")
        key = key.strip()
        if not equals or not key or not text.strip():
            raise UserError(f"--grid '{word}' is no KEY=V1,V2,… such as stage.distil.epochs=1,3.")
        if key in grid:
            raise UserError(f"--grid names '{key}' twice; put all its values into one list.")
        grid[key] = _values(text)
    return grid


def summary(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One row a combination: its settings, the number of seeds, and "mean ± sd" of each metric.

    The deviation is the sample's (n - 1); with one seed the number stands alone.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(repr(sorted(row["settings"].items())), []).append(row)
    return [_summary_row(group) for group in groups.values()]


def _summary_row(group: Sequence[Row]) -> dict[str, Any]:
    row: dict[str, Any] = {**group[0]["settings"], "seeds": len(group)}
    measured = [_measured(member) for member in group]
    for name in dict.fromkeys(name for metrics in measured for name in metrics):
        row[name] = _mean_and_deviation([metrics[name] for metrics in measured if _finite(metrics.get(name))])
    return row


def _measured(row: Row) -> dict[str, Any]:
    """A run's metrics on the validation rows and, named "test_…", on the test rows."""
    test = {f"test_{name}": value for name, value in (row.get("test") or {}).items()}
    return {**(row["metrics"] or {}), **test}


def _mean_and_deviation(values: Sequence[float]) -> str | None:
    if not values:
        return None
    return f"{mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")


def _show(rows: Sequence[Row], metric: str, folder: Path, as_json: bool) -> None:
    from potstill.report.table import columns_of, headline, print_table

    if as_json:
        say_json({"rows": rows, "summary": summary(rows)})
        return
    combined = summary(rows)
    settings = list(dict.fromkeys(key for row in rows for key in row["settings"]))
    metrics = [{key: value for key, value in row.items() if key not in settings} for row in combined]
    columns = [name for name in columns_of(metrics, headline(metric)) if name != "seeds"]
    print_table(combined, columns=[*settings, "seeds", *columns])
    click.echo(f"folder  {folder}")


def _values(text: str) -> list[Any]:
    """The values of a list without brackets."""
    try:
        values: list[Any] = tomllib.loads(f"values = [{text}]")["values"]
    except tomllib.TOMLDecodeError:
        return [_value(part.strip()) for part in text.split(",")]
    return values


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def parse_seeds(text: str | None) -> list[int]:
    """ "1,2,3" as numbers; [] where nothing is said.

    Raises: UserError for what is no list of them, or names one twice.
    """
    if text is None:
        return []
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds '{text}' is no list of whole numbers such as 1,2,3.") from None
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds '{text}' names a seed twice.")
    if not all(0 <= seed <= LARGEST_SEED for seed in seeds):
        raise UserError(f"--seeds '{text}': a seed is a number from 0 to {LARGEST_SEED}.")
    return seeds


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
