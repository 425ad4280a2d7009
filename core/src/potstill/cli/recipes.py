"""`potstill recipes`."""

from __future__ import annotations

from pathlib import Path

import click

from potstill.cli.options import json_option
from potstill.cli.output import say_json


@click.group
def recipes() -> None:
    """List, show and copy the recipes and suites that ship with potstill and its plugins.

    \b
    Example:
      potstill recipes copy thucnews-bilstm && potstill run thucnews-bilstm.toml --data-root data
    """


@recipes.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the recipes and suites of all installed plugins.

    \b
    Example:
      potstill recipes list
    """
    from potstill.recipes import RECIPES, SUITES, shipped
    from potstill.report.table import print_table

    rows = [
        {"recipe": recipe.name, "from": f"{recipe.distribution} {recipe.version}", "summary": recipe.summary}
        for recipe in shipped(RECIPES, SUITES)
    ]
    if as_json:
        say_json(rows)
    elif rows:
        print_table(rows, columns=["recipe", "from", "summary"])
    else:
        click.echo("No installed plugin ships a recipe.")


@recipes.command
@click.argument("name")
def show(name: str) -> None:
    """Print a recipe or suite.

    \b
    Example:
      potstill recipes show thucnews-bilstm
    """
    from potstill.recipes import find

    click.echo(find(name).path.read_text(encoding="utf-8"), nl=False)


@recipes.command
@click.argument("name")
@click.argument("target", required=False, type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite a file of that name.")
def copy(name: str, target: Path | None, force: bool) -> None:
    """Copy a recipe or suite to the current folder, or to TARGET (a folder or a file).

    \b
    Example:
      potstill recipes copy thucnews-bilstm my-recipe.toml
    """
    from potstill.recipes import copy as copied
    from potstill.recipes import find

    path = copied(name, target, overwrite=force)
    how = "suite {} --model DIR" if find(name).is_suite else "run {}"
    click.echo(f"{path}  (run it: potstill {how.format(path)})")
