"""`potstill plan`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from potstill.cli.options import json_option, prepare, recipe_options
from potstill.cli.output import plain, say_json

if TYPE_CHECKING:
    from rich.tree import Tree


@click.command
@recipe_options
@json_option
def plan(as_json: bool, **options: Any) -> None:
    """Show what a run would do, and train nothing.

    The stages as plugins expand them, the order of wrappers (first = outermost), the owners of slots, loss terms and
    observed features, sizes, the number of updates and the learning rates. Takes the same options as `potstill run`.

    \b
    Example:
      potstill plan thucnews-bilstm.toml --data-root data -p accumulate:batches=4
    """
    prepared = prepare(**options)

    from potstill import planning

    content = planning.plan(prepared.recipe, prepared.data_root).as_dict()
    if as_json:
        say_json(content)
        return
    from potstill.report.table import stdout_console

    stdout_console().print(tree(prepared.recipe.name, content))


def tree(name: str, content: Mapping[str, Any]) -> Tree:
    """A plan's dictionary as a tree: one branch a stage, one line a fact."""
    from rich.text import Text
    from rich.tree import Tree

    root = Tree(Text(name, style="bold"))
    for key, value in content.items():
        if key not in ("name", "stages"):
            _add(root, key, value)
    for number, stage in enumerate(content.get("stages", ()), 1):
        title = f"{number} {stage.get('name', '?')}"
        branch = root.add(Text.assemble((title, "bold"), f": trains the {stage.get('trains', 'student')}"))
        for key, value in stage.items():
            if key not in ("name", "trains"):
                _add(branch, key, value)
    return root


def _add(branch: Tree, key: str, value: Any) -> None:
    """One fact: a line, or a branch of lines for a table or a list of tables."""
    from rich.text import Text

    value = plain(value)
    if value is None or value in ([], {}):
        return
    label = key.replace("_", " ")
    if isinstance(value, dict) and any(isinstance(part, (dict, list)) for part in value.values()):
        inner = branch.add(Text(label, style="cyan"))
        for name, part in value.items():
            _add(inner, name, part)
    elif isinstance(value, list) and any(isinstance(part, dict) for part in value):
        inner = branch.add(Text(label, style="cyan"))
        for part in value:
            inner.add(Text(_line(part)))
    else:
        branch.add(Text.assemble((label, "cyan"), " ", _line(value)))


def _line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_line(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(_line, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
