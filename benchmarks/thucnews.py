"""THUCNews titles: what accumulation, mixed precision and adversarial training make of a BiLSTM and a small BERT.

    python benchmarks/thucnews.py DATA_ROOT SCRATCH [--models bilstm bert] [--methods …] [--updates 704] [--out FILE.md]

DATA_ROOT holds thucnews_titles/ and vocab/. Both models start from random weights and learn from the labels alone.

1. "plain" tries three learning rates with one seed; the best on the validation rows is kept for all methods.
2. Every method: three seeds, equally many rows in the same order. What accumulates makes one update of 4 micro-batches
   of 64 rows, so a quarter of the updates, at twice the learning rate (the square root of 4, the usual rule for Adam).

704 updates of 64 rows are one epoch of 45,000. "seconds an epoch" is the time in updates, scaled to that many rows;
evaluation is not in it, so for a fair number the machine must be idle. A method whose plugin is not installed is left
out. Everything goes through `potstill sweep`; the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

from study import SEEDS, Row, arguments, best, line, summary, swept, table, tell

from potstill.discovery import PLUGINS, installed

HERE = Path(__file__).parent / "thucnews"
RATE = "stage.student.learning_rate"
MODELS: Mapping[str, Sequence[float]] = {"bilstm": (2e-3, 4e-3, 8e-3), "bert": (5e-4, 1e-3, 2e-3)}
"""The learning rates that "plain" tries."""
METHODS: Mapping[str, Sequence[str]] = {
    "plain": (),
    "+accumulate": ("accumulate",),
    "+amp": ("amp",),
    "+amp+accumulate": ("amp", "accumulate"),
    "+fgm": ("fgm",),
    "+pgd": ("pgd",),
    "+fgm+amp": ("fgm", "amp"),
}
MICRO_BATCHES, BATCH, EPOCH = 4, 64, 45_000
METRICS = ("accuracy", "macro_f1", "test_accuracy", "test_macro_f1")


class Study:
    """The sweeps of one model."""

    def __init__(self, model: str, told: argparse.Namespace) -> None:
        self.model, self.told = model, told
        self.words = {"accumulate": f"accumulate:batches={MICRO_BATCHES}"}
        self.words |= {name: getattr(told, name) for name in ("amp", "fgm", "pgd")}

    def run(self, methods: Sequence[str]) -> list[Row]:
        """Rows of the table."""
        rates = self.sweep("plain", MODELS[self.model], "1")
        plain, rows = best(rates, RATE), []
        for row in summary(rates):
            own = [one for one in rates if one["settings"][RATE] == row[RATE]]
            rows.append(self.row(f"plain, learning rate {row[RATE]:g}", "plain", own))
        for method in methods:
            rate = 2 * plain if "accumulate" in METHODS[method] else plain
            rows.append(self.row(method, method, self.sweep(method, [rate], self.told.seeds)))
        return rows

    def folder(self, method: str) -> Path:
        """Where a method's runs are."""
        return Path(self.told.scratch) / f"{self.model}-{method.strip('+').replace('+', '-')}"

    def sweep(self, method: str, rates: Sequence[float], seeds: str) -> list[Row]:
        """One sweep of one method."""
        updates = self.told.updates // (MICRO_BATCHES if "accumulate" in METHODS[method] else 1)
        changes = [f"stage.student.updates={updates}", f"stage.student.evaluate_every={max(1, updates // 2)}"]
        changes += [f"data.validation_rows={self.told.validation_rows}"] if self.told.validation_rows else []
        plugins = [self.words[name] for name in METHODS[method]]
        recipe, grid = HERE / f"{self.model}.toml", (RATE, rates)
        folder = self.folder(method)
        return swept(recipe, self.told.data_root, folder, grid, seeds=seeds, plugins=plugins, changes=changes)

    def row(self, what: str, method: str, runs: Sequence[Row]) -> Row:
        """One line: the runs' means and deviations."""
        (found,) = summary(runs)
        seconds = [self.seconds(self.folder(method) / run["folder"]) for run in runs]
        spread = f" ± {stdev(seconds):.1f}" if len(seconds) > 1 else ""
        return {**line(what, found, METRICS), "seconds an epoch": f"{mean(seconds):.1f}{spread}"}

    def seconds(self, run: Path) -> float:
        """A run's time in updates, scaled to one epoch of rows."""
        facts = json.loads((run / "stages/01-student/result.json").read_text())
        rows = BATCH * facts["updates"] * (MICRO_BATCHES if "accumulate" in facts["plugins"] else 1)
        return float(facts["seconds"]) * EPOCH / rows


def available(methods: Sequence[str]) -> list[str]:
    """The methods whose plugins are installed; a line for each of the others."""
    known = {found.name for found in installed(PLUGINS)}
    for method in methods:
        if missing := sorted(set(METHODS[method]) - known):
            print(f"{method}: left out, the plugin '{missing[0]}' is not installed.", file=sys.stderr)
    return [method for method in methods if set(METHODS[method]) <= known]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--updates", type=int, default=704, help="of 64 rows; 704 are one epoch")
    parser.add_argument("--validation-rows", type=int, help="all where left out; all test rows are scored anyway")
    parser.add_argument("--seeds", default=SEEDS)
    parser.add_argument("--amp", default="amp", help="the plugin's options, such as amp:dtype=bfloat16")
    parser.add_argument("--fgm", default="fgm", help="the plugin's options, such as fgm:epsilon=2")
    parser.add_argument("--pgd", default="pgd", help="the plugin's options, such as pgd:steps=2")
    told = parser.parse_args()
    methods = available(told.methods)
    text = "\n".join(f"### {model}\n\n{table(Study(model, told).run(methods))}\n" for model in told.models)
    tell(text, told.out)


if __name__ == "__main__":
    main()
