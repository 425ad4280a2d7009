"""`potstill plugins`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from potstill.cli.options import json_option
from potstill.cli.output import say_json


@click.group
def plugins() -> None:
    """List, show, check and make plugins.

    \b
    Example:
      potstill plugins show hinton
    """


@plugins.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List installed plugins and plugin commands: origin, hooks, and what is wrong with a broken one.

    \b
    Example:
      potstill plugins list
    """
    from potstill.cli.plugininfo import every_plugin
    from potstill.report.table import print_table

    rows = every_plugin()
    if as_json:
        say_json(rows)
        return
    problems = any(row["problem"] for row in rows)
    shown = [{**row, "from": f"{row['distribution']} {row['version']}"} for row in rows]
    print_table(shown, columns=["name", "kind", "from", "hooks", "summary", *(["problem"] if problems else [])])


@plugins.command
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show a plugin: what it does, its hooks, its options with their defaults.

    \b
    Example:
      potstill plugins show hinton
    """
    from potstill.cli.plugininfo import describe

    content = describe(name)
    if as_json:
        say_json(content)
    else:
        _print(content)


def _print(content: dict[str, Any]) -> None:
    from potstill.report.table import cell, print_table

    click.echo(f"{content['name']}  ({content['distribution']} {content['version']})\n")
    click.echo(f"{content['description']}\n")
    for key in ("hooks", "provides", "requires", "conflicts"):
        click.echo(f"{key + ':':11}{cell(key, content[key])}")
    if content["options"]:
        options = [{**option, "default": str(option["default"])} for option in content["options"]]
        print_table(options, columns=["option", "type", "default", "description"])
    else:
        click.echo("It has no options.")


@plugins.command
@click.argument("name", metavar="NAME|FOLDER")
def check(name: str) -> None:
    """Check a plugin by the loader's rules: an installed one by its name, or a distribution's folder.

    \b
    Example:
      potstill plugins check ./potstill-my-loss
    """
    from potstill.cli.plugincheck import check as checked

    for line in checked(name):
        click.echo(line)


@plugins.command
@click.argument("name")
@click.option("--folder", metavar="DIR", type=click.Path(path_type=Path), help="Where to. [default: ./potstill-NAME]")
def new(name: str, folder: Path | None) -> None:
    """Make a plugin: a whole distribution with one loss, its tests and a README, ready to be changed.

    \b
    Example:
      potstill plugins new my-loss && pip install -e './potstill-my-loss[test]' && pytest potstill-my-loss
    """
    from potstill.cli.newplugin import make

    path = make(name, folder)
    click.echo(f"{path}  (next: pip install -e '{path.absolute()}[test]' && pytest {path})")
