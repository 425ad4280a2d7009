"""A data set ready for training: tokens of student and teacher, labels, and how rows become a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from potstill.batch import IGNORED, Batch
from potstill.data.batching import Rows, bucketed, by_files
from potstill.data.random import RowRandom
from potstill.errors import DataError, ModelError

if TYPE_CHECKING:
    from potstill.collate import Masked
    from potstill.data.source import Source
    from potstill.data.table import Tokens
    from potstill.tasks import Task

Targets = npt.NDArray[Any] | list[Any]
"""A label a row, as `Task.targets` gives them."""


class Examples:
    """Rows that student and teacher read, each through its own tokenizer.

    A row is one of the tables of tokens; where a task makes several of one row of the data, `origin` tells which.

    Args:
        student: the student's tokens.
        teacher: the teacher's tokens of the same rows; None where it shares the student's.
        labels: a label a row of the data.
        task: makes labels of the tokens' rows of them, and of these a batch's.
        pads: the id that pads the student's rows, and the teacher's.
        masking: what makes labels of the tokens when a model is measured on the rows (`Task.masking`).
        source: the rows of the data, for tasks that score with a look at them.
        files: [files + 1], where the rows of each file begin, and the end, where they are to be read file by file.
    """

    def __init__(
        self,
        student: Tokens,
        teacher: Tokens | None,
        labels: Targets,
        task: Task,
        pads: tuple[int, int],
        masking: Masked | None = None,
        source: Source | None = None,
        files: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self.targets, self.source = labels, source
        """A label a row of the data, and these rows."""
        labels = task.align(labels, student)
        _check_aligned(len(student), len(labels), "labels")
        if teacher is not None:
            _check_one_to_one(student, teacher, task)
            _check_aligned(len(student), len(teacher), "rows of the teacher")
        self.student, self.teacher, self.labels, self.task, self.pads = student, teacher, labels, task, pads
        self._masking, self._files = masking, files
        self.lengths = student.lengths if teacher is None else np.maximum(student.lengths, teacher.lengths)
        """[rows] int32, tokens a row for student or teacher, whichever has more; what bucketing sorts by."""

    def __len__(self) -> int:
        return len(self.student)

    def batches(self, size: int, *, seed: int, epoch: int) -> list[Rows]:
        """An epoch's micro-batches, every row once: of like lengths, or file by file in a new order of files."""
        if self._files is None:
            return bucketed(self.lengths, size, seed=seed, epoch=epoch)
        return by_files(self._files, size, seed=seed, epoch=epoch)

    @property
    def teacher_key(self) -> str:
        """A hash of the teacher's tokens."""
        return (self.student if self.teacher is None else self.teacher).key

    @property
    def origin(self) -> npt.NDArray[np.int64]:
        """[rows] the row of the data that each one was made of."""
        return np.arange(len(self)) if self.student.origin is None else self.student.origin

    def batch(self, indices: npt.ArrayLike) -> Batch:
        """Rows as a CPU batch of int64 tensors, padded to the longest of them; no rows make a batch of 0 rows."""
        rows = np.asarray(indices, dtype=np.int64)
        student = padded(self.student, rows, self.pads[0])
        teacher = student if self.teacher is None else padded(self.teacher, rows, self.pads[1])
        width = student["input_ids"].shape[1]
        labels = self.task.collate_labels(_taken(self.labels, rows), width)
        return Batch(student, teacher, labels, torch.from_numpy(rows), valid=self._valid(rows, width))

    def _valid(self, rows: npt.NDArray[np.int64], width: int) -> Tensor | None:
        """[rows, width], where the task's first mark is not negative; None where it keeps none."""
        if not self.task.marks:
            return None
        [values] = self.student.marks(rows, self.task.marks[0])
        return _scattered(values, np.arange(width) < self.student.lengths[rows][:, None], -1) >= 0

    def asked(self, indices: npt.ArrayLike) -> Batch:
        """Rows as a model is measured on them: where the task masks, by each row alone, every time the same."""
        batch = self.batch(indices)
        if self._masking is not None:
            self._masking(batch, RowRandom(0, 0, batch.index.numpy(), "measuring"))
        return batch


def padded(table: Tokens, rows: npt.NDArray[np.int64], pad: int) -> dict[str, Tensor]:
    """The model's inputs, each [batch, seq] int64, with the attention mask; token types are padded with 0."""
    lengths = table.lengths[rows]
    width = int(lengths.max()) if len(rows) else 0
    mask = np.arange(width) < lengths[:, None]
    inputs = {}
    for name, values in table.rows(rows).items():
        inputs[name] = _scattered(values, mask, pad if name == "input_ids" else 0)
    inputs["attention_mask"] = torch.from_numpy(mask.astype(np.int64))
    return inputs


def has_labels(labels: Targets) -> bool:
    """Whether any row's label is neither `IGNORED` nor NaN."""
    parts = [labels] if isinstance(labels, np.ndarray) else labels
    return any(bool(np.any((np.asarray(part) != IGNORED) & ~np.isnan(part))) for part in parts)


def forget_labels(labels: Targets, keep: int, origin: npt.NDArray[np.int64] | None = None) -> Targets:
    """The labels with only the first `keep` rows' left; the others count as missing. The input stays as it is.

    Args:
        origin: [rows], the row of the data that each one was made of, where that is another one.
    """
    forgotten = (np.arange(len(labels)) if origin is None else origin) >= keep
    if isinstance(labels, list):
        return [np.full_like(label, IGNORED) if gone else label for label, gone in zip(labels, forgotten, strict=True)]
    kept = labels.copy()
    kept[forgotten] = np.nan if np.issubdtype(labels.dtype, np.floating) else IGNORED
    return kept


def _scattered(values: Sequence[npt.NDArray[Any]], mask: npt.NDArray[np.bool_], fill: int) -> Tensor:
    padded_rows = np.full(mask.shape, fill, dtype=np.int64)
    if len(values):
        padded_rows[mask] = np.concatenate(values)
    return torch.from_numpy(padded_rows)


def _taken(labels: Targets, rows: npt.NDArray[np.int64]) -> Targets:
    return [labels[row] for row in rows] if isinstance(labels, list) else labels[rows]


def _check_one_to_one(student: Tokens, teacher: Tokens, task: Task) -> None:
    one, other = student.origin, teacher.origin
    if one is not None and other is not None and not np.array_equal(one, other):
        raise ModelError(
            f"The task '{task.name}' makes {len(one)} rows of the data by the student's tokenizer and {len(other)} "
            "others by the teacher's, so teacher and student must share a tokenizer, and they do not."
        )


def _check_aligned(rows: int, others: int, what: str) -> None:
    if rows != others:
        raise DataError(
            f"{rows} tokenized rows and {others} {what} do not belong together; both must be the same rows."
        )
