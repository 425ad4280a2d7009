"""Saved models put to use: on labelled rows, and on new texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers import PreTrainedTokenizerBase

from potstill.context import cache_folder, tokenized
from potstill.data.examples import Examples, padded
from potstill.data.source import open_source
from potstill.data.table import TokenTable, record
from potstill.errors import DataError, ModelError, UserError
from potstill.evaluate import evaluate
from potstill.models import Model, check_length, load_model, longest_row, read_card, task_of
from potstill.progress import Progress
from potstill.ranks import Ranks
from potstill.tasks import Task

_LENGTH = 128
"""Tokens a row at most where a model's folder does not say it."""


@dataclass(frozen=True)
class Saved:
    """A saved model with what it was made for."""

    model: Model
    task: Task
    max_length: int
    columns: dict[str, str | None]

    def examples(
        self,
        spec: str,
        root: Path,
        cache: Path,
        *,
        teacher: PreTrainedTokenizerBase | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> Examples:
        """Rows of a file, tokenized for this model (and a teacher); `columns` overrides what the model knows."""
        roles = {**self.columns, **(columns or {})}
        if not self.task.label_column:
            roles["label"] = None
        source = open_source(spec, roles, root, None, "data", cache)
        labels = self.task.targets(source.labels(), source.path)
        return tokenized(source, self.task, self.model.tokenizer, teacher, self.max_length, labels, cache, Progress())


def open_saved(folder: Path, max_length: int | None = None) -> Saved:
    """A model folder and its card; folders that potstill did not write get text, label and at most 128 tokens.

    Raises: ModelError where the model has parts without a value, or cannot read `max_length` tokens.
    """
    card = read_card(folder)
    task = task_of(folder)
    columns = {
        role: card.get(role, default) for role, default in (("text", "text"), ("text_pair", None), ("label", "label"))
    }
    model = load_model(folder, task)
    if model.fresh:
        raise ModelError(
            f"The model in {folder} is not trained for this: no checkpoint gave its {model.fresh[-1]} a value."
        )
    length = max_length or card.get("max_length") or min(_LENGTH, longest_row(model.module) or _LENGTH)
    check_length(model.module, length, "model")
    return Saved(model, task, length, columns)


def evaluate_folder(
    folder: Path,
    data: str,
    *,
    data_root: Path | None = None,
    progress: Progress | None = None,
    max_length: int | None = None,
    batch_size: int = 64,
    **columns: str,
) -> dict[str, float]:
    """The scores of a saved model on a data file.

    Args:
        columns: text, text_pair, label, where they differ from the training data's.
    """
    saved = open_saved(folder, max_length)
    rows = saved.examples(data, data_root or Path.cwd(), cache_folder(), columns=columns)
    if not saved.task.labelled(rows.labels):
        raise DataError(f"No row of '{data}' has a label, so there is nothing to measure the model by.")
    ranks = Ranks()
    module = saved.model.module.to(ranks.device)
    with (progress or Progress()).bar("evaluating", -(-len(rows) // batch_size)) as bar:
        return evaluate(module, rows, saved.task, ranks, batch_size=batch_size, bar=bar)


def predict(folder: Path, texts: Iterable[str] | Path, *, batch_size: int = 64) -> Iterator[dict[str, Any]]:
    """What a saved model says of texts (or of the rows of a data file), in their order."""
    saved = open_saved(folder)
    module = saved.model.module.eval()
    for part in _parts(_rows(texts, saved), batch_size):
        columns = {role: [row[role] for row in part] for role in part[0]}
        encoded = saved.task.encode(columns, saved.model.tokenizer, saved.max_length)
        table = TokenTable(pa.Table.from_batches([record(tuple(encoded), encoded)]))
        inputs = padded(table, np.arange(len(part)), saved.model.tokenizer.pad_token_id or 0)
        with torch.no_grad():
            logits = saved.task.logits(module(**inputs)).float().numpy()
        for row, told in zip(part, saved.task.decode(logits, inputs, saved.model.tokenizer), strict=True):
            yield {**row, **told}


def _rows(texts: Iterable[str] | Path, saved: Saved) -> Iterator[dict[str, str]]:
    if isinstance(texts, Path):
        columns = {role: name for role, name in saved.columns.items() if role != "label"}
        dataset = open_source(str(texts), columns, Path.cwd(), None, "data", cache_folder()).dataset
        roles = [role for role in ("text", "text_pair") if role in dataset.column_names]
        return ({role: row[role] for role in roles} for row in dataset)
    if saved.columns["text_pair"]:
        raise UserError("The model reads pairs of texts; name a data file with both columns.")
    return ({"text": text} for text in texts)


def _parts(rows: Iterator[dict[str, str]], size: int) -> Iterator[list[dict[str, str]]]:
    while part := list(islice(rows, size)):
        yield part
