"""What the tests of wrong input are wrong with: data files, and models to damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

import potstill.cli
from potstill.models import from_config
from potstill.recipe import TaskConfig
from potstill.tasks import load_task
from potstill.testing.tiny import bert
from potstill.tokenizers import load_tokenizer

JARGON = ("Traceback", "potstill broke", "pyarrow", "Arrow", "torch.", "pydantic", "size of tensor")

Run = Callable[..., tuple[int, str]]


LABELS = ["sea", "town", "wood"]
ROWS = "text,label\nwave tide,sea\noak pine,wood\ntram shop,town\n"


def write_tables(root: Path) -> None:
    """Files of rows, most of which cannot be used, and a folder of splits."""
    tables: dict[str, str | bytes] = {
        "empty.csv": "",
        "header.csv": "text,label\n",
        "binary.csv": bytes(range(256)),
        "utf16.csv": ROWS.encode("utf-16"),
        "bom.csv": b"\xef\xbb\xbf" + ROWS.encode(),
        "columns.csv": "sentence,klass\na,sea\n",
        "twice.csv": "text,text,label\na,b,sea\n",
        "ragged.csv": "text,label\na,sea\nb,c,wood\n",
        "quote.csv": 'text,label\n"a,sea\n',
        "outside.csv": ROWS + "blue,sky\n",
        "unlabelled.csv": "text,label\nwave,\noak,\n",
        "one-class.csv": "text,label\nwave,sea\ntide,sea\n",
        "words.csv": "text,label\nwave,much\n",
        "numbers.csv": "text,label\nwave,1\noak,2\ntram,4\n",
        "constant.csv": "text,label\nwave,3\noak,3\n",
        "odd.csv": ROWS + "😀 שלום a\x00b,sea\n,wood\n" + "wave " * 20_000 + ",sea\n",
        "broken.jsonl": '{"text": "a", "label": "sea"}\n{"text":}\n',
        "null.jsonl": '{"text": null, "label": "sea"}\n',
        "mixed.jsonl": '{"text": "a", "label": "sea"}\n{"text": 5, "label": "sea"}\n',
        "false.parquet": "no Parquet",
        "table.xlsx": "PK",
        "plain.txt": "wave\noak\n",
        "list.json": "[]",
    }
    for name, content in tables.items():
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (root / "nothing").mkdir()
    (root / "mine" / "model").mkdir(parents=True)
    rows = Dataset.from_dict({"text": ["wave tide", "oak pine", "tram shop"], "label": LABELS})
    DatasetDict({"train": rows, "test": rows}).save_to_disk(root / "splits")


def save_model(folder: Path, labels: list[str]) -> None:
    """A small model with untrained weights; with one label it is one of regression."""
    kind = "regression" if len(labels) == 1 else "text-classification"
    task = load_task(TaskConfig(kind=kind), labels)
    made = from_config(bert(2), load_tokenizer("vocab.txt", folder.parent), task)
    made.module.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)


def caller(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs command lines in `place`, "{tmp}" being `tmp_path`: the exit code and what was said on standard error."""

    def call(*words: str) -> tuple[int, str]:
        monkeypatch.chdir(place)
        capsys.readouterr()
        code = potstill.cli.main([word.replace("{tmp}", str(tmp_path)) for word in words])
        return code, capsys.readouterr().err.strip()

    return call


def told(run: Run, *words: str) -> str:
    """The one sentence of a command line that is wrong."""
    code, said = run(*words)
    assert code == 2, said
    assert not any(word in said for word in JARGON), said
    assert len(said.splitlines()) == 1, said
    return said


def composed(*words: str, **changes: str) -> list[str]:
    """A run from options that is right, but for `changes` of options and the words behind."""
    options = {
        "teacher": "teacher",
        "student-layers": "1",
        "train": "train.csv",
        "validation": "validation.csv",
        "max-length": "16",
        "folder": "{tmp}/run",
        **{key.replace("_", "-"): value for key, value in changes.items()},
    }
    said = [word for key, value in options.items() for word in (f"--{key}", value)]
    return ["run", "--quiet", *said, "-p", "hinton", *words]
