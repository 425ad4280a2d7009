"""Saved models put to use: on labelled rows, and on new texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from datasets import Dataset
from torch import Tensor, nn

from potstill.context import cache_folder, tokenized
from potstill.data.columns import Names
from potstill.data.examples import Examples, padded
from potstill.data.shapes import read_cell
from potstill.data.source import Source, open_source
from potstill.data.table import TokenTable, record
from potstill.errors import DataError, ModelError, UserError
from potstill.evaluate import evaluate
from potstill.models import CARD, Model, check_length, load_trained, longest_row, read_card, task_of
from potstill.onnxmodel import SUFFIX, OnnxModel
from potstill.progress import Progress
from potstill.ranks import Ranks
from potstill.tasks import Task
from potstill.tasks.columns import taken, usual
from potstill.tokenizers import load_tokenizer

_LENGTH = 128
"""Tokens a row at most where a model's folder does not say it."""


@dataclass(frozen=True)
class Saved:
    """A saved model with what it was made for."""

    model: Model
    task: Task
    max_length: int
    columns: dict[str, Names | None]

    def examples(
        self,
        spec: str,
        root: Path,
        cache: Path,
        *,
        columns: Mapping[str, Names] | None = None,
        progress: Progress | None = None,
    ) -> Examples:
        """Rows of a file, tokenized for this model; `columns` overrides what the model knows."""
        roles = taken({**self.columns, **(columns or {})}, type(self.task))
        source = open_source(spec, roles, root, None, "data", cache, self.task.shapes)
        labels = self.task.read_labels(source, (progress or Progress()).note)
        return tokenized(source, self.task, self.model.tokenizer, None, self.max_length, labels, cache, Progress())

    def asked(self, columns: dict[str, list[Any]]) -> Examples:
        """Rows without labels, tokenized for this model.

        Args:
            columns: "text" and maybe "text_pair", as their shapes read them.
        """
        encoded = self.task.encode(columns, self.model.tokenizer, self.max_length)
        table = TokenTable(pa.Table.from_batches([record(tuple(encoded), encoded)]))
        source = Source(Dataset.from_dict(columns), "", "the texts")
        labels = self.task.targets([None] * len(source), source.path)
        pad = self.model.tokenizer.pad_token_id or 0
        return Examples(table, None, labels, self.task, (pad, pad), source=source)


def open_saved(path: Path, max_length: int | None = None) -> Saved:
    """A model folder and its card; folders that potstill did not write get the task's usual columns and at most 128
    tokens.

    Args:
        path: the folder, or an .onnx file that an export wrote.

    Raises: ModelError where the model has parts without a value, or cannot read `max_length` tokens.
    """
    exported = path.suffix == SUFFIX
    folder = path.parent if exported else path
    card = read_card(folder)
    if exported:
        _check_beside(path, card)
    task = task_of(folder)
    columns = {role: card.get(role, name) for role, name in usual(type(task)).items()}
    model = _exported(path, task) if exported else load_trained(folder, task)
    length = max_length or card.get("max_length") or min(_LENGTH, longest_row(model.module) or _LENGTH)
    check_length(model.module, length, "model")
    if exported and length > card["max_length"]:
        raise ModelError(f"max_length = {length}, but {path} was exported for rows of {card['max_length']} tokens.")
    return Saved(model, task, length, columns)


def _check_beside(path: Path, card: Mapping[str, Any]) -> None:
    if not {"task", "max_length"} <= card.keys():
        raise ModelError(
            f"Beside {path} there is no {CARD} that says what it was made for; name the file in the folder that "
            "`potstill export` wrote."
        )


def _exported(path: Path, task: Task) -> Model:
    tokenizer = load_tokenizer(str(path.parent), None)
    return Model(OnnxModel(path, task, tokenizer), tokenizer)


def evaluate_folder(
    folder: Path,
    data: str,
    *,
    data_root: Path | None = None,
    progress: Progress | None = None,
    max_length: int | None = None,
    batch_size: int = 64,
    **columns: Names,
) -> dict[str, float]:
    """The scores of a saved model on a data file.

    Args:
        folder: the model's, or an .onnx file of an export.
        columns: text, text_pair, label, where they differ from the training data's; label may be a list of columns.
    """
    saved = open_saved(folder, max_length)
    rows = saved.examples(data, data_root or Path.cwd(), cache_folder(), columns=columns, progress=progress)
    if not saved.task.labelled(rows.labels):
        raise DataError(f"No row of '{data}' has a label, so there is nothing to measure the model by.")
    ranks = Ranks()
    module = saved.model.module.to(ranks.device)
    with (progress or Progress()).bar("evaluating", -(-len(rows) // batch_size)) as bar:
        return evaluate(module, rows, saved.task, ranks, batch_size=batch_size, bar=bar)


def predict(
    folder: Path, texts: Iterable[str | tuple[str, str]] | Path, *, batch_size: int = 64
) -> Iterator[dict[str, Any]]:
    """What a saved model says of texts, of pairs of them (or of the rows of a data file), in their order."""
    saved = open_saved(folder)
    module, pad = saved.model.module.eval(), saved.model.tokenizer.pad_token_id or 0
    for part in _parts(_rows(texts, saved), batch_size):
        rows = saved.asked({role: [row[role] for row in part] for role in part[0]})
        inputs = padded(rows.student, np.arange(len(rows)), pad)
        logits = np.concatenate([_logits(saved.task, module, some) for some in _shares(inputs, batch_size)])
        for row, told in zip(part, saved.task.decode(logits, inputs, saved.model.tokenizer, rows), strict=True):
            yield {**row, **told}


def _shares(inputs: Mapping[str, Tensor], size: int) -> Iterator[dict[str, Tensor]]:
    """A part's inputs again, so many rows at once: one long text may have become many."""
    for start in range(0, len(inputs["input_ids"]), size):
        yield {name: values[start : start + size] for name, values in inputs.items()}


def _logits(task: Task, module: nn.Module, inputs: Mapping[str, Tensor]) -> npt.NDArray[Any]:
    with torch.no_grad():
        return task.logits(module(**inputs)).float().numpy()


def _rows(texts: Iterable[str | tuple[str, str]] | Path, saved: Saved) -> Iterator[dict[str, Any]]:
    shapes = saved.task.shapes
    if isinstance(texts, Path):
        columns = {role: name for role, name in saved.columns.items() if role != "label"}
        dataset = open_source(str(texts), columns, Path.cwd(), None, "data", cache_folder(), shapes).dataset
        roles = [role for role in ("text", "text_pair") if role in dataset.column_names]
        yield from ({role: row[role] for role in roles} for row in dataset)
        return
    roles = ["text", "text_pair"] if saved.columns["text_pair"] else ["text"]
    for number, given in enumerate(texts, 1):
        row = dict(zip(("text", "text_pair"), (given,) if isinstance(given, str) else given, strict=False))
        if list(row) != roles:
            raise UserError(
                "The model reads pairs of texts; give the second one too (--text-pair), or a file with both columns."
                if len(roles) > 1
                else "The model reads single texts, and a second one (--text-pair) is given; leave it out."
            )
        read = {role: read_cell(row, role, shapes[role], f"text {number}") for role in roles if role in shapes}
        yield {**row, **read}


def _parts(rows: Iterator[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    while part := list(islice(rows, size)):
        yield part
