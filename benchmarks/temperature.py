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

from collections.abc import Mapping, Sequence
from pathlib import Path

from study import SEEDS, Row, arguments, best, line, potstill, summary, swept, table, tell

HERE = Path(__file__).parent / "temperature"
RATE = "stage.student.learning_rate"
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


class Study:
    """The sweeps of one setting."""

    def __init__(self, data: Path, scratch: Path, setting: str) -> None:
        self.data, self.scratch, self.setting = data, scratch, setting
        self.title, self.alone_changes, self.taught_changes = SETTINGS[setting]

    def run(self) -> list[Row]:
        """Rows of the table: what, and mean ± deviation of each metric."""
        rates = self.alone(RATES, "1")
        rate = best(rates, RATE)
        taught = self.taught("taught", rate, TEMPERATURES)
        warmth = best(taught, "hinton.temperature")
        rows = [_line(f"no teacher, learning rate {row[RATE]:g}, one seed", row) for row in summary(rates)]
        rows += [_line("no teacher", row) for row in summary(self.alone([rate], SEEDS))]
        rows += [_line(f"T = {row['hinton.temperature']}", row) for row in summary(taught)]
        summed = self.taught("accumulated", rate, [warmth], "accumulate:batches=4", updates=352)
        return rows + [_line(f"T = {warmth}, accumulating 4 × 64 rows", row) for row in summary(summed)]

    def alone(self, rates: Sequence[float], seeds: str) -> list[Row]:
        return self._sweep("alone", (RATE, rates), seeds, changes=self.alone_changes)

    def taught(self, name: str, rate: float, temperatures: Sequence[int], *more: str, updates: int = 1408) -> list[Row]:
        changes = [*self.taught_changes, f"{RATE}={rate}", f"stage.student.updates={updates}"]
        changes += [f"stage.student.evaluate_every={updates // 4}"]
        changes += [f"teacher.model={self.scratch.resolve() / 'teacher/model'}"]
        plugins = [f"hinton:alpha={ALPHA}", *more]
        return self._sweep(name, ("hinton.temperature", temperatures), SEEDS, plugins, changes)

    def _sweep(
        self,
        name: str,
        grid: tuple[str, Sequence[float]],
        seeds: str,
        plugins: Sequence[str] = (),
        changes: Sequence[str] = (),
    ) -> list[Row]:
        folder = self.scratch / f"{self.setting}-{name}"
        return swept(HERE / "student.toml", self.data, folder, grid, seeds=seeds, plugins=plugins, changes=changes)


def _line(what: str, found: Row) -> Row:
    return line(what, found, METRICS)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    told = parser.parse_args()
    potstill("run", HERE / "teacher.toml", "--data-root", told.data_root, "--folder", told.scratch / "teacher")
    parts = []
    for setting in told.settings:
        study = Study(told.data_root, told.scratch, setting)
        parts.append(f"### ({setting}) {study.title}\n\n{table(study.run())}\n")
    tell("\n".join(parts), told.out)


if __name__ == "__main__":
    main()
