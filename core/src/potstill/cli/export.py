"""`potstill export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from potstill.cli.compose import data_path, model_folder
from potstill.cli.display import make_progress
from potstill.cli.options import json_option, quiet_option
from potstill.cli.output import say_json
from potstill.errors import UserError


@click.command
@click.argument("model", metavar="MODEL")
@click.option(
    "-p",
    "--plugin",
    "plugins",
    multiple=True,
    required=True,
    metavar="NAME[:OPTION=VALUE,…]",
    help="The export plugin; repeatable.",
)
@click.option("--out", metavar="DIR", help="Where to write. [default: the run's folder 'export', or MODEL/export]")
@click.option("--validation", metavar="FILE", help="Rows that parity is measured on.")
@click.option("--teacher", metavar="DIR", help="A model folder to compare with.")
@quiet_option
@json_option
def export(
    model: str,
    plugins: tuple[str, ...],
    out: str | None,
    validation: str | None,
    teacher: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Export a finished model through plugins.

    MODEL is a run folder or a model folder.

    \b
    Example:
      potstill export runs/thucnews-bilstm -p onnx --validation data/thucnews_titles/dev.parquet
    """
    folder = model_folder(model)
    target = Path(out) if out else Path(model).expanduser() / "export"
    rows_file = data_path(validation, "--validation") if validation else None
    compared = model_folder(teacher) if teacher else None

    from potstill.exporting import export_folder
    from potstill.quiet import quiet_libraries

    with quiet_libraries():
        artifacts = export_folder(
            folder, options_by_plugin(plugins), target, rows_file, compared, progress=make_progress(quiet)
        )
    rows = [dict(row) for artifact in artifacts for row in artifact.rows]
    if as_json:
        say_json([{"name": a.name, "files": a.files, "rows": a.rows, "facts": a.facts} for a in artifacts])
        return
    from potstill.report.table import print_table

    if rows:
        print_table(rows)
    for artifact in artifacts:
        for file in artifact.files:
            click.echo(file)


def options_by_plugin(words: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """`("onnx:int8=true",)` → `{"onnx": {"int8": True}}`."""
    from potstill.recipe import with_plugins

    names = [word.partition(":")[0] for word in words]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"-p names '{twice[0]}' twice; put its options into one.")
    stage = with_plugins({}, list(words))["stage"][0]
    return {name: stage.get(name, {}) for name in names}
