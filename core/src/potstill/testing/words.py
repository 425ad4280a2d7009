"""Tiny data for the tasks whose labels stand at words: tags, and answers within a text. It can be learnt."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from potstill.testing.tiny import COMMON, SUBJECTS, recipe, sentence

TAGS = ["O", *(f"{prefix}-{subject}" for subject in SUBJECTS for prefix in "BI")]
"""Of `write_tags`, in their order."""


def write_tags(folder: Path, train: int = 64, validation: int = 24, seed: int = 5) -> None:
    """Writes train-tags.jsonl and validation-tags.jsonl beside what `tiny.write_data` wrote.

    Columns: "words" and "tags", lists of one length: words of a subject are its entities, neighbours together.
    """
    draw = random.Random(seed)
    for name, rows in (("train", train), ("validation", validation)):
        lines = []
        for _ in range(rows):
            words = sentence(draw, draw.choice(list(SUBJECTS))).split()
            lines.append({"words": words, "tags": tags_of(words)})
        _write(folder / f"{name}-tags.jsonl", lines)


def tags_of(words: list[str]) -> list[str]:
    """A tag for each word of `tiny.sentence`."""
    kinds = [next((subject for subject, known in SUBJECTS.items() if word in known), "") for word in words]
    return [
        "O" if not kind else f"{'I' if before == kind else 'B'}-{kind}"
        for before, kind in zip(["", *kinds], kinds, strict=False)
    ]


def write_questions(folder: Path, train: int = 64, validation: int = 24, seed: int = 6) -> None:
    """Writes train-questions.jsonl and validation-questions.jsonl beside what `tiny.write_data` wrote.

    Columns: "question" (a subject, by its first word), "context" (common words, and one or two of a subject),
    "answers" and "answer_start" (these one or two); every fifth question is about another subject and has no answer.
    """
    draw = random.Random(seed)
    for name, rows in (("train", train), ("validation", validation)):
        _write(folder / f"{name}-questions.jsonl", [_question(draw, row % 5 != 4) for row in range(rows)])


def _question(draw: random.Random, answerable: bool) -> dict[str, Any]:
    subject, other = draw.sample(list(SUBJECTS), 2)
    before, behind = (" ".join(draw.choices(COMMON, k=draw.randint(1, 6))) for _ in range(2))
    answer = " ".join(draw.sample(SUBJECTS[subject][1:], draw.randint(1, 2)))
    return {
        "question": SUBJECTS[subject if answerable else other][0],
        "context": f"{before} {answer} {behind}",
        "answers": [answer] if answerable else [],
        "answer_start": [len(before) + 1] if answerable else [],
    }


def tagging(*plugins: str, **more: Any) -> dict[str, Any]:
    """`tiny.recipe` on words and their tags."""
    data = {"train": "train-tags.jsonl", "validation": "validation-tags.jsonl", "max_length": 16}
    return recipe(*plugins, task={"kind": "token-classification", "labels": TAGS}, data=data, **more)


def asking(*plugins: str, **more: Any) -> dict[str, Any]:
    """`tiny.recipe` on questions, some of which have no answer; long contexts become two windows."""
    data = {"train": "train-questions.jsonl", "validation": "validation-questions.jsonl", "max_length": 14}
    return recipe(*plugins, task={"kind": "question-answering", "unanswerable": True}, data=data, **more)


def _write(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
