"""`potstill report`."""

from __future__ import annotations

from pathlib import Path

import click

from potstill.cli.options import json_option
from potstill.cli.output import say_json
from potstill.errors import UserError


@click.command
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--markdown", "as_markdown", is_flag=True, help="Print the table of models in Markdown; write nothing.")
@json_option
def report(folder: Path, as_markdown: bool, as_json: bool) -> None:
    """Write a run folder's report.html again: models, curves, errors, recipe, in one page that works offline.

    \b
    Example:
      potstill report runs/thucnews-bilstm
    """
    from potstill.report.table import markdown, model_rows

    if as_json and as_markdown:
        raise UserError("--json and --markdown are two forms of one table; give one of them.")
    if as_json:
        say_json(model_rows(folder))
    elif as_markdown:
        click.echo(markdown(model_rows(folder)), nl=False)
    else:
        from potstill.report.html import write_report

        click.echo(write_report(folder))
