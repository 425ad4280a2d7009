"""`potstill time`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from potstill.cli.display import make_progress
from potstill.cli.options import json_option, quiet_option
from potstill.cli.output import say_json
from potstill.errors import UserError

if TYPE_CHECKING:
    from potstill.timing import Timing


@click.command
@click.argument("models", nargs=-1, required=True, metavar="[NAME=]MODEL…")
@click.option("--lengths", default="32", show_default=True, metavar="32,128", help="Tokens a row.")
@click.option("--batches", default="1", show_default=True, metavar="1,8", help="Rows a call.")
@click.option("--rounds", default=10, show_default=True, metavar="N", help="Turns of each model, interleaved.")
@click.option("--calls", default=20, show_default=True, metavar="N", help="Measured calls a turn.")
@click.option("--warmup", default=3, show_default=True, metavar="N", help="Calls before each turn that do not count.")
@click.option("--threads", default=1, show_default=True, metavar="N", help="Threads of each runtime.")
@quiet_option
@json_option
def time(models: tuple[str, ...], lengths: str, batches: str, quiet: bool, as_json: bool, **counts: int) -> None:
    """Measure how fast models answer, each in a process of its own, in interleaved rounds.

    MODEL is an .onnx file, an exported folder, a model folder (timed in torch), or a run folder (all its .onnx files,
    the largest first). The speed-up is that over the first model: the median over the rounds, with an interval that
    holds it with at least 95 % confidence. Where the interval does not lie beyond 2 % on one side of 1, the models are
    too noisy to rank (or about equal); six rounds are the fewest that rank at all. CPU time is that of the whole
    process, memory its peak. --json has every percentile, count and condition.

    \b
    Example:
      potstill time float=runs/demo/export/model.onnx int8=runs/demo/export/model.int8.onnx --lengths 32,128
    """
    from potstill.timing import conditions, measure

    timings = measure(
        entries(models),
        _numbers(lengths, "--lengths"),
        _numbers(batches, "--batches"),
        progress=make_progress(quiet),
        **counts,
    )
    if as_json:
        say_json(rows(timings))
        return
    from potstill.report.latency import cells, columns
    from potstill.report.table import print_table

    table = cells(rows(timings))
    print_table(table, columns=columns(table))
    click.echo(conditions(timings))


def entries(words: Sequence[str]) -> list[tuple[str, Path]]:
    """Models by name: "NAME=PATH" as it says, a path by the shortest end of it that is no other's.

    A run folder stands for all its exported models.
    """
    named = [(name, _expanded(given)) for name, given in map(_named, words)]
    plain = [path for name, paths in named if name is None for path in paths]
    return [
        (_short(path, plain) if name is None else name if len(paths) == 1 else f"{name}/{path.name}", path)
        for name, paths in named
        for path in paths
    ]


def rows(timings: Sequence[Timing]) -> list[dict[str, Any]]:
    """Everything measured of each model, its size, and its speed-up over the first one at the same shape."""
    from potstill.timing import records

    return [record | {"bytes": _size(Path(record["path"]))} for record in records(timings)]


def _named(word: str) -> tuple[str | None, Path]:
    name, equals, path = word.partition("=")
    return (name, Path(path)) if equals and not Path(word).exists() else (None, Path(word))


def _expanded(path: Path) -> list[Path]:
    """A run folder's exported models, the largest first, or its model where it has none; any other path as it is."""
    if not (path / "recipe.toml").is_file():
        return [path]
    found = (path / "export").rglob("*.onnx")
    return sorted(found, key=lambda file: (-file.stat().st_size, file)) or [path / "model"]


def _short(path: Path, others: Sequence[Path]) -> str:
    parts = path.parts
    for length in range(1, len(parts)):
        end = parts[-length:]
        if sum(other.parts[-length:] == end for other in others) == 1:
            return "/".join(end)
    return str(path)


def _size(path: Path) -> int | None:
    """Bytes of an ONNX file with its external data, or of a folder's weights."""
    files = path.glob("*.safetensors") if path.is_dir() else [path, *path.parent.glob(f"{path.name}*data")]
    return sum(file.stat().st_size for file in files if file.is_file()) or None


def _numbers(text: str, option: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{option} '{text}' is no list of whole numbers such as 1,8.") from None
