"""`potstill compare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from potstill.cli.options import json_option
from potstill.cli.output import say_json
from potstill.errors import UserError


@click.command
@click.argument("folders", nargs=-1, required=True, metavar="RUN RUN …", type=click.Path(path_type=Path))
@json_option
def compare(folders: tuple[Path, ...], as_json: bool) -> None:
    """Put two or more runs side by side: what differs in their settings, and every model's metrics.

    \b
    Example:
      potstill compare runs/with-teacher runs/without-teacher
    """
    if len(folders) < 2:
        raise UserError(f"There is only '{folders[0]}': name two run folders or more.")
    from potstill.report.table import columns_of, headline, print_table

    names = _names(folders)
    rows = model_table(folders, names)
    changes = {name: differences(folders[0], folder) for name, folder in zip(names[1:], folders[1:], strict=True)}
    if as_json:
        say_json({"rows": rows, "differences": changes})
        return
    for name, lines in changes.items():
        click.echo(f"{names[0]} → {name}")
        click.echo("\n".join(f"  {line}" for line in lines) or "  the same recipe")
    print_table(rows, columns=["run", *columns_of([_without_run(row) for row in rows], headline())])


def differences(first: Path, second: Path) -> list[str]:
    """Lines such as "student.hidden_size: 256 → 128", from the recipes that the runs recorded."""
    from potstill import recipe

    return recipe.difference(_recipe(first), _recipe(second))


def model_table(folders: Sequence[Path], names: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of every run's table of models, each with the name of its run."""
    from potstill.report.table import model_rows

    return [{"run": name, **row} for name, folder in zip(names, folders, strict=True) for row in model_rows(folder)]


def _recipe(folder: Path) -> Any:
    from potstill import recipe

    if not (folder / "recipe.toml").is_file():
        raise UserError(
            f"The folder '{folder}' holds no run." if folder.is_dir() else f"There is no run folder '{folder}'."
        )
    return recipe.load(folder / "recipe.toml")


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names, or their paths where two have one name."""
    short = [folder.resolve().name for folder in folders]
    return short if len(set(short)) == len(short) else [str(folder) for folder in folders]


def _without_run(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "run"}
