"""What the tests of corpora share: texts, a tokenizer, preparing them, and the sequences that come out."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np

from potstill.corpus.running import Prepared, open_running
from potstill.progress import Progress
from potstill.settings import CorpusConfig
from potstill.testing.tiny import COMMON, SUBJECTS, bert, sentence, write_data
from potstill.tokenizers import load_tokenizer

LENGTH = 16


def texts(count: int, seed: int = 0, words: int = 40) -> list[str]:
    """Documents of up to so many words, now and then with one that the vocabulary lacks."""
    draw = random.Random(seed)
    known = [*COMMON, *(word for part in SUBJECTS.values() for word in part)]
    return [" ".join(draw.choice([*known, "zzz"]) for _ in range(draw.randint(1, words))) for _ in range(count)]


def write_text(path: Path, lines: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def write_corpus(folder: Path, files: int = 3, rows: int = 30) -> Path:
    """train.csv and so on beside a folder "books" of so many files, with sentences of the tiny vocabulary."""
    write_data(folder)
    draw = random.Random(5)
    for number in range(files):
        lines = [sentence(draw, draw.choice(list(SUBJECTS))) for _ in range(rows + number)]
        write_text(folder / f"books/{number}.txt", lines)
    write_text(folder / "held-out.txt", [sentence(draw, "sea") for _ in range(12)])
    return folder


def prepared(
    spec: Any,
    root: Path,
    *,
    rows: int | None = None,
    length: int = LENGTH,
    progress: Progress | None = None,
    tokenizer: Any = None,
    cache: Path | None = None,
    **settings: Any,
) -> Prepared:
    """A corpus below `root`, whose vocabulary is in vocab.txt, with the cache beside it."""
    if tokenizer is None:
        write_data(root)
        tokenizer = load_tokenizer(str(root / "vocab.txt"), None)
    config = CorpusConfig(**{"min_tokens": 3, "max_unknown": 1.0, **settings})
    text = open_running(spec, "text", config, rows, root, "data.train", cache or root / "cache")
    return text.prepared(tokenizer, length, progress or Progress())


def sequences(done: Prepared) -> list[list[int]]:
    """All of them, in order."""
    return [row.tolist() for row in done.table.rows(np.arange(len(done.table)))["input_ids"]]


def language(stage: dict[str, Any], **corpus: Any) -> dict[str, Any]:
    """A recipe that trains a masked language model on the folder "books" of `write_corpus`."""
    length = {} if stage.keys() & {"updates", "epochs"} else {"epochs": 2}
    calm = bert(1, 16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return {
        "name": "corpus",
        "task": {"kind": "masked-lm"},
        "data": {
            "train": "books",
            "validation": "held-out.txt",
            "max_length": LENGTH,
            "corpus": {"min_tokens": 4, **corpus},
        },
        "student": {"config": calm, "tokenizer": "vocab.txt"},
        "stage": [{"name": "mlm", **length, "batch_size": 5, "learning_rate": 1e-3, "log_every": 1, **stage}],
    }


class Notes(Progress):
    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)


def made(cache: Path) -> dict[str, int]:
    """When each finished shard was written, by its name."""
    return {path.parent.name: path.stat().st_mtime_ns for path in cache.glob("corpus/shards/*/tokens.arrow")}
