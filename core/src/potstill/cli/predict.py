"""`potstill predict`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from potstill.cli.compose import data_path, finished_model
from potstill.cli.options import json_option
from potstill.cli.output import say_json
from potstill.errors import UserError


@click.command
@click.argument("model", metavar="MODEL")
@click.argument("texts", nargs=-1, metavar="[TEXT]…")
@click.option("--file", "file", metavar="FILE", help="A data file instead of texts; a .txt file has one text a line.")
@click.option("--text-pair", metavar="TEXT", help="The second text of each TEXT: the context of a question.")
@json_option
def predict(model: str, texts: tuple[str, ...], file: str | None, text_pair: str | None, as_json: bool) -> None:
    """Label texts with a finished model, a line each; with --json a JSON object a line.

    MODEL is a run folder, a model folder, or an .onnx file in the folder of an export. Without TEXT and --file, texts
    are read from standard input, one a line. What is told of a text is the task's: its label, its value, the tags and
    entities of its words, the answer to a question, the words for its masks.

    \b
    Examples:
      potstill predict runs/demo "Opens a socket and waits for a connection."
      potstill predict runs/demo --file texts.csv --json > labels.jsonl
      potstill predict runs/demo/export/model.int8.onnx --file texts.csv
      potstill predict runs/squad "Who wrote it?" --text-pair "It was written by Ada in 1843."
    """
    folder = finished_model(model)
    given = _given(texts, file, text_pair)

    from potstill.quiet import quiet_libraries
    from potstill.saved import predict as predictions

    with quiet_libraries():
        for row in predictions(folder, given):
            if as_json:
                say_json(row, indent=None)
            else:
                click.echo(_line(row))


def _given(texts: Sequence[str], file: str | None, pair: str | None) -> list[str | tuple[str, str]] | Path:
    if pair is not None and file is not None:
        raise UserError(f"--text-pair is that of TEXT, and --file {file} is given; the file has a column for it.")
    if texts and file is not None:
        raise UserError(f"Both texts and --file {file} are given; name one of them.")
    if file is not None:
        return Path(data_path(file, "--file"))
    if texts:
        return [text if pair is None else (text, pair) for text in texts]
    if sys.stdin.isatty():
        raise UserError("There is no text: name one, or --file FILE, or pipe texts in, one a line.")
    lines = [line.rstrip("\n") for line in sys.stdin]
    return [text if pair is None else (text, pair) for text in lines]


def _line(row: Mapping[str, Any]) -> str:
    """The label, the score and the text, between tabs."""
    order = [key for key in ("label", "value", "answer", "score", "words") if key in row]
    order += [key for key in row if key not in {*order, "text", "text_pair"}]
    order += [key for key in ("text", "text_pair") if key in row]
    return "\t".join(_cell(row[key]) for key in order)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, dict):  # an entity, or a word with its probability
        return f"{_cell(value['text'])} ({value['entity']})" if "entity" in value else _cell([*value.values()])
    if isinstance(value, list):
        return (" | " if any(isinstance(part, list) for part in value) else ", ").join(map(_cell, value)) or "–"
    return " ".join(str(value).split())
