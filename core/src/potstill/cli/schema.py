"""`potstill schema`."""

from __future__ import annotations

import click

from potstill.cli.output import say_json


@click.command
def schema() -> None:
    """Print the recipe's JSON schema, so that an editor completes and checks recipes.

    \b
    Example:
      potstill schema > recipe.schema.json      then, as the first line of a recipe (Taplo, Even Better TOML):
      #:schema ./recipe.schema.json
    """
    from potstill import recipe

    say_json(recipe.json_schema())
