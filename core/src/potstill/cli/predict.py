"""`potstill predict`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from potstill.cli.compose import data_path, model_folder
from potstill.cli.options import json_option
from potstill.cli.output import say_json
from potstill.errors import UserError


@click.command
@click.argument("model", metavar="MODEL")
@click.argument("texts", nargs=-1, metavar="[TEXT]…")
@click.option("--file", "file", metavar="FILE", help="A data file instead of texts; a .txt file has one text a line.")
@json_option
def predict(model: str, texts: tuple[str, ...], file: str | None, as_json: bool) -> None:
    """Label texts with a finished model, a line each; with --json a JSON object a line.

    MODEL is a run folder or a model folder. Without TEXT and --file, texts are read from standard input, one a line.

    \b
    Examples:
      potstill predict runs/demo "Opens a socket and waits for a connection."
      potstill predict runs/demo --file texts.csv --json > labels.jsonl
    """
    folder = model_folder(model)
    given = _given(texts, file)

    from potstill.quiet import quiet_libraries
    from potstill.saved import predict as predictions

    with quiet_libraries():
        for row in predictions(folder, given):
            if as_json:
                say_json(row, indent=None)
            else:
                click.echo(_line(row))


def _given(texts: Sequence[str], file: str | None) -> list[str] | Path:
    if texts and file is not None:
        raise UserError(f"Both texts and --file {file} are given; name one of them.")
    if file is not None:
        return Path(data_path(file, "--file"))
    if texts:
        return list(texts)
    if sys.stdin.isatty():
        raise UserError("There is no text: name one, or --file FILE, or pipe texts in, one a line.")
    return [line.rstrip("\n") for line in sys.stdin]


def _line(row: Mapping[str, Any]) -> str:
    """The label, the score and the text, between tabs."""
    order = [key for key in ("label", "value", "score", "words") if key in row]
    order += [key for key in row if key not in {*order, "text", "text_pair"}]
    order += [key for key in ("text", "text_pair") if key in row]
    return "\t".join(_cell(row[key]) for key in order)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, list):  # the most probable words of each place
        return " | ".join(", ".join(f"{one['word']} {one['score']:.2f}" for one in place) for place in value)
    return " ".join(str(value).split())
