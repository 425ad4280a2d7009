"""`potstill evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from potstill.cli.compose import data_path, finished_model
from potstill.cli.display import main_process, make_progress
from potstill.cli.options import LABEL, columns, json_option, quiet_option
from potstill.cli.output import say_json


@click.command
@click.argument("model", metavar="MODEL")
@click.argument("data", metavar="DATA")
@click.option("--text", metavar="COLUMN", help="The text's column. [default: as in training]")
@click.option("--text-pair", metavar="COLUMN", help="The second text's column. [default: as in training]")
@click.option("--label", callback=columns, metavar="COLUMN,…", help=f"{LABEL} [default: as in training]")
@click.option(
    "--max-length", type=click.IntRange(1), metavar="N", help="Tokens a row at most. [default: as in training]"
)
@click.option("--batch-size", type=click.IntRange(1), metavar="N", default=64, show_default=True, help="Rows a batch.")
@quiet_option
@json_option
def evaluate(model: str, data: str, quiet: bool, as_json: bool, **changes: Any) -> None:
    """Measure a finished model on a data file.

    MODEL is a run folder, a model folder, or an .onnx file in the folder of an export; DATA a file, a folder of files,
    or a hub id with "::split".

    \b
    Examples:
      potstill evaluate runs/thucnews-bilstm data/thucnews_titles/test.parquet
      potstill evaluate runs/thucnews-bilstm/export/model.int8.onnx data/thucnews_titles/test.parquet
    """
    folder = finished_model(model)
    spec = data_path(data, "DATA")

    from potstill.quiet import quiet_libraries
    from potstill.saved import evaluate_folder

    said = {key: value for key, value in changes.items() if value is not None}
    with quiet_libraries():
        metrics = evaluate_folder(folder, spec, data_root=Path.cwd(), progress=make_progress(quiet), **said)
    if not main_process():
        return
    if as_json:
        say_json(metrics)
        return
    from potstill.report.table import print_table

    print_table([{"model": str(model), **metrics}])
