"""Does soft-target distillation help a BiLSTM on Chinese headlines, and at which temperature?

    python benchmarks/temperature.py DATA_ROOT SCRATCH [--out FILE.md]

DATA_ROOT holds thucnews_titles/ and vocab/. One BERT teacher is trained on all labels. Then, in two settings,
(a) with all labels and (b) with the first 5,000 rows labelled and the others seen through the teacher only:

1. The student without a teacher tries three learning rates; the best on the validation rows is kept for all.
   In (b) it sees the 5,000 labelled rows alone.
2. The student without a teacher and with one at T = 1, 5, 10, 20: three seeds each, equally many updates.
3. The best T with accumulation: 4 micro-batches an update, equally many rows and so a quarter of the updates.

Everything goes through `potstill run` and `potstill sweep`; the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from potstill.cli.sweep import summary

HERE = Path(__file__).parent / "temperature"
RATE = "stage.student.learning_rate"
SEEDS = "1,2,3"
RATES = (2e-3, 4e-3, 8e-3)
TEMPERATURES = (1, 5, 10, 20)
ALPHA = 0.9
LABELLED = 5000
SETTINGS: Mapping[str, tuple[str, Sequence[str], Sequence[str]]] = {
    "a": ("all 45,000 rows labelled", (), ()),
    "b": (f"{LABELLED:,} rows labelled", (f"data.train_rows={LABELLED}",), (f"data.labelled_rows={LABELLED}",)),
}
"""What it is; changes to the recipe without a teacher; changes with one."""
METRICS = ("accuracy", "test_accuracy", "macro_f1")

Row = dict[str, Any]


class Study:
    """The sweeps of one setting."""

    def __init__(self, data: Path, scratch: Path, setting: str) -> None:
        self.data, self.scratch, self.setting = data, scratch, setting
        self.title, self.alone_changes, self.taught_changes = SETTINGS[setting]

    def run(self) -> list[Row]:
        """Rows of the table: what, and mean ± deviation of each metric."""
        rates = self.alone(",".join(map(str, RATES)), "1")
        rate = max(rates, key=lambda row: row["metrics"]["accuracy"])["settings"][RATE]
        taught = self.taught("taught", rate, ",".join(map(str, TEMPERATURES)))
        best = max(TEMPERATURES, key=lambda t: _mean(taught, t))
        rows = [_row(f"no teacher, learning rate {row[RATE]:g}, one seed", row) for row in summary(rates)]
        rows += [_row("no teacher", row) for row in summary(self.alone(str(rate), SEEDS))]
        rows += [_row(f"T = {row['hinton.temperature']}", row) for row in summary(taught)]
        summed = self.taught("accumulated", rate, str(best), "-p", "accumulate:batches=4", updates=352)
        return rows + [_row(f"T = {best}, accumulating 4 × 64 rows", row) for row in summary(summed)]

    def alone(self, rates: str, seeds: str) -> list[Row]:
        return self._sweep("alone", "--grid", f"{RATE}={rates}", "--seeds", seeds, changes=self.alone_changes)

    def taught(self, name: str, rate: float, temperatures: str, *more: str, updates: int = 1408) -> list[Row]:
        changes = [*self.taught_changes, f"{RATE}={rate}", f"stage.student.updates={updates}"]
        changes += [f"stage.student.evaluate_every={updates // 4}"]
        changes += [f"teacher.model={self.scratch.resolve() / 'teacher/model'}"]
        words = ["-p", f"hinton:alpha={ALPHA}", *more, "--grid", f"hinton.temperature={temperatures}"]
        return self._sweep(name, *words, "--seeds", SEEDS, changes=changes)

    def _sweep(self, name: str, *words: str, changes: Sequence[str]) -> list[Row]:
        folder = self.scratch / f"{self.setting}-{name}"
        said = [word for change in changes for word in ("--set", change)]
        potstill("sweep", HERE / "student.toml", "--data-root", self.data, "--folder", folder, *words, *said)
        rows: list[Row] = json.loads((folder / "sweep.json").read_text())
        return rows


def potstill(*words: str | Path) -> None:
    """One command line; its bars go to standard error."""
    subprocess.run([sys.executable, "-m", "potstill", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def _mean(rows: Sequence[Row], temperature: int) -> float:
    cell = [row for row in rows if row["settings"]["hinton.temperature"] == temperature]
    return mean(row["metrics"]["accuracy"] for row in cell)


def _row(what: str, found: Row) -> Row:
    return {"student": what, "seeds": found["seeds"], **{name: found[name] for name in METRICS}}


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|---" * len(rows[0]) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row.values())) + " |" for row in rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_root", type=Path)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--out", type=Path, help="a Markdown file for the tables; standard output where left out")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    told = parser.parse_args()
    potstill("run", HERE / "teacher.toml", "--data-root", told.data_root, "--folder", told.scratch / "teacher")
    parts = []
    for setting in told.settings:
        study = Study(told.data_root, told.scratch, setting)
        parts.append(f"### ({setting}) {study.title}\n\n{table(study.run())}\n")
    text = "\n".join(parts)
    told.out.write_text(text, encoding="utf-8") if told.out else print(text)


if __name__ == "__main__":
    main()
