"""`potstill schema`."""

from __future__ import annotations

import contextlib

import click

from potstill.cli.output import say_json


@click.command
def schema() -> None:
    """Print the recipe's JSON schema, with the options of all installed plugins and tasks, for editors.

    \b
    Example:
      potstill schema > recipe.schema.json      then, as a recipe's first line (Taplo, Even Better TOML):
      #:schema ./recipe.schema.json
    """
    from potstill import recipe
    from potstill.discovery import PLUGINS, installed
    from potstill.errors import PluginError
    from potstill.loader import plugin_class
    from potstill.tasks import GROUP, task_class

    options, tasks = {}, {}
    for found in installed(PLUGINS):
        with contextlib.suppress(PluginError):  # a broken plugin has no options to offer
            options[found.name] = plugin_class(found.name).Config
    for found in installed(GROUP):
        with contextlib.suppress(PluginError):
            tasks[found.name] = task_class(found.name).Options
    say_json(recipe.json_schema(options, tasks))
