"""SST-2: do layers that were swapped in one by one beat the same layers fine-tuned, with and without soft targets?

    python benchmarks/theseus.py DATA_ROOT SCRATCH TEACHER [--updates 600] [--set KEY=VALUE] [--out FILE.md]

DATA_ROOT holds sst2/{train,dev}.parquet. TEACHER is the folder of a fine-tuned all-MiniLM-L6-v2 (6 × 384), such as
benchmarks/sst2.py leaves in its scratch folder as teacher/model. Every student has 3 layers that start as the
teacher's first three.

1. The three layers, fine-tuned on the labels, try three learning rates, three seeds each; the rate with the best mean
   on the validation rows is kept.
2. Every method: three seeds, equally many updates over the same rows in the same order.

Theseus replaces with a rate that rises from 0.3 to 1 over 70 % of the updates, or with a constant one of 0.5 for half
of them. Everything goes through `potstill sweep`; the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from study import Row, arguments, as_folder, best, line, summary, swept, table, tell

RECIPE = Path(__file__).parent / "sst2/student.toml"
RATE = "stage.student.learning_rate"
RATES = (5e-5, 1e-4, 2e-4)
BOTTOM = "student.layers=[1, 2, 3]"
HINTON = "hinton:temperature=2,alpha=0.9"
LINEAR = "theseus:layers=3"
CONSTANT = 'theseus:layers=3,schedule="constant",full_after=0.5'
METHODS: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "bottom 3 + hinton": ((BOTTOM,), (HINTON,)),
    "theseus, linear": ((), (LINEAR,)),
    "theseus, linear + hinton": ((), (LINEAR, HINTON)),
    "theseus, constant": ((), (CONSTANT,)),
    "theseus, constant + hinton": ((), (CONSTANT, HINTON)),
}
"""Changes to the recipe, and its plugins."""
METRICS = ("accuracy", "loss")


class Study:
    """The sweeps over one teacher."""

    def __init__(self, told: argparse.Namespace) -> None:
        self.data, self.scratch = told.data_root, told.scratch
        sizes = (f"stage.student.updates={told.updates}", f"stage.student.evaluate_every={max(1, told.updates // 6)}")
        self.changes = (f"teacher.model={told.teacher.resolve()}", *sizes, *told.set)

    def run(self, methods: Sequence[str]) -> list[Row]:
        """Rows of the table."""
        alone = ((BOTTOM,), ())
        tuned = self.sweep("bottom-3", *alone, RATES)
        rate = best(tuned, RATE)
        rows = [line(f"bottom 3 fine-tuned, learning rate {found[RATE]:g}", found, METRICS) for found in summary(tuned)]
        for method in methods:
            runs = self.sweep(as_folder(method), *METHODS[method], [rate])
            rows += [line(method, found, METRICS) for found in summary(runs)]
        return rows

    def sweep(self, name: str, changes: Sequence[str], plugins: Sequence[str], rates: Sequence[float]) -> list[Row]:
        """One sweep, in a folder of its own."""
        folder, changes = self.scratch / name, (*self.changes, *changes)
        return swept(RECIPE, self.data, folder, (RATE, rates), plugins=plugins, changes=changes)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("--updates", type=int, default=600)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="changes the recipe; repeatable"
    )
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    told = parser.parse_args()
    tell(table(Study(told).run(told.methods)) + "\n", told.out)


if __name__ == "__main__":
    main()
