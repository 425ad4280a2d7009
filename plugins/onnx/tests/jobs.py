"""Small models, ragged inputs and export jobs for the tests of the plugin `onnx`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from potstill_onnx.plugin import Onnx
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

from potstill.batch import IGNORED, Batch
from potstill.export import Artifact, ExportJob
from potstill.models import Model
from potstill.progress import Progress
from potstill.recipe import TaskConfig
from potstill.tasks.classification import TextClassification
from potstill.tasks.regression import Regression

VOCABULARY, LONGEST, CLASSES = 90, 24, 3
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(VOCABULARY - 5))]
NAMES = ["input_ids", "attention_mask", "token_type_ids"]


def bert(layers: int = 2, vocabulary: int = VOCABULARY, labels: int = CLASSES, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=LONGEST,
        num_labels=labels,
        initializer_range=0.3,  # logits far apart, so that a wrong mask shows
    )
    return BertForSequenceClassification(config)


class Bag(nn.Module):
    """The mean of the tokens' vectors, and a head: the smallest model that must mind its mask."""

    def __init__(self, labels: int = CLASSES) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(VOCABULARY, 32)
        self.inner, self.dropout, self.head = nn.Linear(32, 64), nn.Dropout(0.5), nn.Linear(64, labels)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        mask = attention_mask[..., None].float()
        mean = (self.table(input_ids) * mask).sum(1) / mask.sum(1)
        return {"logits": self.head(self.dropout(self.inner(mean).relu()))}


def inputs(rows: int, length: int, vocabulary: int = VOCABULARY, seed: int = 0) -> dict[str, torch.Tensor]:
    """Ragged rows, the first one full."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, length + 1, (rows,), generator=draw)
    lengths[0] = length
    mask = (torch.arange(length)[None] < lengths[:, None]).long()
    ids = torch.randint(5, vocabulary, (rows, length), generator=draw) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}


class Told(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def task_of(kind: str = "text-classification") -> Any:
    if kind == "regression":
        return Regression(TaskConfig(kind="regression"), None)
    return TextClassification(TaskConfig(), ["arts", "science", "sports"])


def job_for(
    folder: Path, student: nn.Module, teacher: nn.Module | None = None, rows: tuple[int, ...] = (5, 4), **changes: Any
) -> ExportJob:
    """Validation batches of the given sizes; the teacher reads other ids of another length. Row 0 has no label."""
    task = changes.pop("task", None) or task_of()
    made = []
    for number, size in enumerate(rows):
        labels = torch.arange(size) % CLASSES if task.names else torch.arange(size) / 7
        if task.names and number == 0:
            labels[0] = IGNORED
        own, theirs = inputs(size, 9 + number, seed=number), inputs(size, 14, vocabulary=40, seed=number)
        made.append([Batch(read, read, labels, torch.arange(size)) for read in (own, theirs)])
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    folder.mkdir(parents=True, exist_ok=True)
    return ExportJob(
        student=Model(student, BertTokenizer(vocab=vocabulary)),
        teacher=Model(teacher, BertTokenizer(vocab=vocabulary)) if teacher else None,
        task=task,
        folder=folder,
        batches=lambda size: (own for own, _ in made),
        teacher_batches=lambda size: (theirs for _, theirs in made),
        max_length=LONGEST,
        progress=Told(),
        **changes,
    )


def export(job: ExportJob, **options: Any) -> Artifact:
    return Onnx(Onnx.Config(**{"rounds": 2, **options})).export(job)
