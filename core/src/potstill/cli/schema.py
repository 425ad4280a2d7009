"""`potstill schema`."""

from __future__ import annotations

import contextlib

import click

from potstill.cli.output import say_json


@click.command
def schema() -> None:
    """Print the recipe's JSON schema, with the options of all installed plugins, for editors that check and complete.

    \b
    Example:
      potstill schema > recipe.schema.json      then, as a recipe's first line (Taplo, Even Better TOML):
      #:schema ./recipe.schema.json
    """
    from potstill import recipe
    from potstill.discovery import PLUGINS, installed
    from potstill.errors import PluginError
    from potstill.loader import plugin_class

    options = {}
    for found in installed(PLUGINS):
        with contextlib.suppress(PluginError):  # a broken plugin has no options to offer
            options[found.name] = plugin_class(found.name).Config
    say_json(recipe.json_schema(options))
