"""Tiny data that can be learnt, and a recipe over it that runs in about a second."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

SUBJECTS = {
    "sea": "wave tide harbour anchor sail gull reef storm deck keel".split(),
    "wood": "oak pine moss fern bark trail owl deer root leaf".split(),
    "town": "street tram square shop clock bridge lamp crowd tower roof".split(),
}
COMMON = "the a of and in near under old new long small grey".split()


def sentence(draw: random.Random, subject: str) -> str:
    """3 to 14 words, about half of them of the subject."""
    words = [draw.choice(SUBJECTS[subject] if draw.random() < 0.5 else COMMON) for _ in range(draw.randint(3, 14))]
    return " ".join(words)


def write_data(folder: Path, train: int = 96, validation: int = 40, seed: int = 7) -> Path:
    """Writes train.csv, validation.csv and vocab.txt, and returns the folder.

    Columns: "text", "label" (its subject; every tenth training row has none), "other" (a second sentence),
    "score" (from 0 to 1, how much of `other` is of the same subject).
    """
    draw = random.Random(seed)
    for name, rows in (("train", train), ("validation", validation)):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label", "other", "score"])
            for row in range(rows):
                subject = draw.choice(list(SUBJECTS))
                label = "" if name == "train" and row % 10 == 9 else subject
                other = sentence(draw, draw.choice(list(SUBJECTS)))
                same = [word in SUBJECTS[subject] for word in other.split()]
                writer.writerow([sentence(draw, subject), label, other, sum(same) / len(same)])
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *COMMON,
        *(word for part in SUBJECTS.values() for word in part),
    ]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return folder


def bert(layers: int = 1, hidden: int = 32, **more: Any) -> dict[str, Any]:
    """The config of a small BERT."""
    return {
        "model_type": "bert",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "intermediate_size": 2 * hidden,
        "max_position_embeddings": 32,
        **more,
    }


def recipe(*plugins: str, **more: Any) -> dict[str, Any]:
    """A stage that trains a 2-layer teacher, and one that trains a 1-layer student with `plugins`.

    Args:
        plugins: of the student's stage "distil"; their options are added to `tables["stage"][1]`.
        more: tables that replace these.
    """
    return {
        "name": "tiny",
        "seed": 3,
        "data": {"train": "train.csv", "validation": "validation.csv", "max_length": 16},
        "task": {"labels": ["sea", "town", "wood"]},
        "teacher": {"config": bert(2), "tokenizer": "vocab.txt"},
        "student": {"config": bert(1)},
        "stage": [
            {
                "name": "teacher",
                "trains": "teacher",
                "epochs": 2,
                "learning_rate": 2e-3,
                "batch_size": 8,
                "log_every": 5,
            },
            {
                "name": "distil",
                "plugins": list(plugins),
                "epochs": 2,
                "learning_rate": 2e-3,
                "batch_size": 8,
                "log_every": 5,
            },
        ],
        **more,
    }


def student_only(**stage: Any) -> dict[str, Any]:
    """One supervised stage without dropout, for exact comparisons."""
    calm = bert(1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    tables = recipe(student={"config": calm, "tokenizer": "vocab.txt"})
    del tables["teacher"]
    return {**tables, "stage": [{"name": "plain", "epochs": 1, "batch_size": 8, "learning_rate": 1e-3, **stage}]}
