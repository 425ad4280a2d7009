"""What the studies of quality share: sweeps that go on where they were stopped, and tables of their means."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from potstill.cli.sweep import summary as summary

SEEDS = "1,2,3"

Row = dict[str, Any]


def potstill(*words: str | Path) -> None:
    """One command line; its bars go to standard error."""
    subprocess.run([sys.executable, "-m", "potstill", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def swept(
    recipe: Path,
    data: Path,
    folder: Path,
    grid: tuple[str, Sequence[Any]],
    *,
    seeds: str = SEEDS,
    plugins: Sequence[str] = (),
    changes: Sequence[str] = (),
) -> list[Row]:
    """The runs of one sweep: settings, seed, folder and metrics of each.

    Args:
        recipe: a file; `data` is its data root.
        folder: of this sweep alone; what is finished there is not run again.
        grid: a key and its values.
        plugins: with their options, as after `-p`.
        changes: KEY=VALUE, as after `--set`.
    """
    key, values = grid
    words = ["--grid", f"{key}={','.join(map(str, values))}", "--seeds", seeds]
    words += [word for plugin in plugins for word in ("-p", plugin)]
    words += [word for change in changes for word in ("--set", change)]
    potstill("sweep", recipe, "--data-root", data, "--folder", folder, *words)
    rows: list[Row] = json.loads((folder / "sweep.json").read_text())
    return rows


def best(rows: Sequence[Row], key: str, metric: str = "accuracy") -> Any:
    """The setting whose runs are best on the validation rows, on average over their seeds."""
    settings = dict.fromkeys(row["settings"][key] for row in rows)
    sign = -1 if metric == "perplexity" else 1
    return max(
        settings,
        key=lambda one: sign * mean(row["metrics"][metric] for row in rows if row["settings"][key] == one),
    )


def line(what: str, found: Row, metrics: Sequence[str]) -> Row:
    """A table's line of what `summary` gives: mean ± deviation of each metric."""
    scores = {name.replace("_", " "): found[name] for name in metrics}
    return {"student": what, "seeds": found["seeds"], **scores}


def as_folder(name: str) -> str:
    """A method's name as a folder's."""
    return "".join(sign if sign.isalnum() else "-" for sign in name)


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|---" * len(rows[0]) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row.values())) + " |" for row in rows)])


def arguments(about: str | None) -> argparse.ArgumentParser:
    """The command line's parser, with what every study is told."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_root", type=Path)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--out", type=Path, help="a Markdown file for the tables; standard output where left out")
    return parser


def tell(text: str, out: Path | None) -> None:
    """Writes the tables, or prints them."""
    out.write_text(text, encoding="utf-8") if out else print(text)
