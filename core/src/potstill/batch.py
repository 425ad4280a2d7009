"""One batch, and the units that losses are means of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

IGNORED = -100
"""The integer label of what has no label; a float label that is missing is NaN."""


@dataclass
class Batch:
    """Rows of a data set, padded to the longest one.

    Attributes:
        student: the student's inputs by name (`input_ids`, `attention_mask`, ...), each [batch, seq].
        teacher: the teacher's inputs. The same object as `student` where both share a tokenizer.
        labels: [batch] classes or values, [batch, seq] token labels, [batch, 2] spans. Missing ones are
            `IGNORED` (integers) or NaN (floats).
        index: [batch], the rows in the data set.
        companions: named batches that travel with this one, row by row (interchange sources).
        notes: what `collate` hooks leave for `compute_loss`, by name.
        valid: [batch, seq] bool, the student's tokens that a task's predictions are about, labels or no labels: the
            first ones of words, those of a context. None where these are all tokens, or rows.
    """

    student: dict[str, Tensor]
    teacher: dict[str, Tensor]
    labels: Tensor
    index: Tensor
    companions: dict[str, Batch] = field(default_factory=dict)
    notes: dict[str, Tensor] = field(default_factory=dict)
    valid: Tensor | None = None
    _places: tuple[Tensor, Tensor, Tensor] | None = field(default=None, init=False)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def shared(self) -> bool:
        """Whether teacher and student read the same tensors."""
        return self.teacher is self.student

    @property
    def attended(self) -> Tensor:
        """[n] int64, the student's tokens that are no padding, as numbers in the flattened [batch * seq]."""
        if self._places is not None:
            return self._places[0]
        mask = self.student.get("attention_mask")
        return places(self.student["input_ids"] >= 0 if mask is None else mask)

    @property
    def labelled(self) -> Tensor:
        """[n] int64, the labels that are there, as numbers in the flattened labels."""
        return places(has_label(self.labels)) if self._places is None else self._places[1]

    @property
    def predicted(self) -> Tensor:
        """[n] int64, the `valid` tokens, as numbers in the flattened [batch * seq]; all attended ones without it."""
        if self._places is not None:
            return self._places[2]
        return self.attended if self.valid is None else places(self.valid)

    def to(self, device: torch.device) -> Batch:
        """This batch on a device; itself where it is there already.

        What is attended, labelled and predicted is found before, since finding it there would wait for the device.
        """
        if self.index.device == device:
            return self
        student = _moved(self.student, device)
        moved = replace(
            self,
            student=student,
            teacher=student if self.shared else _moved(self.teacher, device),
            labels=self.labels.to(device, non_blocking=True),
            index=self.index.to(device, non_blocking=True),
            companions={name: part.to(device) for name, part in self.companions.items()},
            notes=_moved(self.notes, device),
            valid=None if self.valid is None else self.valid.to(device, non_blocking=True),
        )
        moved._places = (
            self.attended.to(device, non_blocking=True),
            self.labelled.to(device, non_blocking=True),
            self.predicted.to(device, non_blocking=True),
        )
        return moved

    def take(self, rows: Tensor) -> Batch:
        """Some rows of this batch, as wide as it is, companions with them.

        Args:
            rows: [n] int64, numbers of rows of this batch. Notes with a number a row lose the others'; notes of
                another length stay whole.
        """
        student = _taken(self.student, rows)
        return replace(
            self,
            student=student,
            teacher=student if self.shared else _taken(self.teacher, rows),
            labels=self.labels[rows],
            index=self.index[rows],
            companions={name: part.take(rows) for name, part in self.companions.items()},
            notes={
                name: value[rows] if value.dim() and len(value) == len(self) else value
                for name, value in self.notes.items()
            },
            valid=None if self.valid is None else self.valid[rows],
        )


def _moved(inputs: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device, non_blocking=True) for name, value in inputs.items()}


def _taken(inputs: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    return {name: value[rows] for name, value in inputs.items()}


def places(chosen: Tensor) -> Tensor:
    """[n] int64, where a tensor is not 0, as numbers in the flattened tensor."""
    return chosen.flatten().nonzero().flatten()


def has_label(labels: Tensor) -> Tensor:
    """True where a label is there: not `IGNORED` (integers), not NaN (floats). Same shape as `labels`."""
    return ~labels.isnan() if labels.is_floating_point() else labels != IGNORED


@dataclass(frozen=True)
class Unit:
    """What a loss is a mean of. The count follows from the batch alone, before any forward pass.

    Accumulation and data parallelism weigh a micro-batch's mean with its share of the unit's count
    in the whole update, so that an update over many micro-batches equals one over a single large batch.
    """

    name: str
    count: Callable[[Batch], int] = field(compare=False)


def _tokens(batch: Batch) -> int:
    mask = batch.student.get("attention_mask")
    return int(mask.sum()) if mask is not None else batch.student["input_ids"].numel()


EXAMPLE = Unit("example", len)
"""Rows."""
TOKEN = Unit("token", _tokens)
"""Ones in the student's attention mask."""
TARGET = Unit("target", lambda batch: int(has_label(batch.labels).sum()))
"""Labels that are there: rows with a label, tokens with a label, two for a span."""
PREDICTED = Unit("predicted", lambda batch: _tokens(batch) if batch.valid is None else int(batch.valid.sum()))
"""Tokens that the task's predictions are about, labels or no labels: of words the first ones. A unit of such tasks."""
BATCH = Unit("batch", lambda batch: int(len(batch) > 0))
"""Micro-batches, for terms across samples; such a term changes under accumulation and ranks."""

UNITS = (EXAMPLE, TOKEN, TARGET, BATCH)
"""Known in every stage."""


def _pairs(batch: Batch) -> int:
    mask = batch.student.get("attention_mask")
    rows, width = batch.student["input_ids"].shape
    return int(mask.sum(1).square().sum()) if mask is not None else rows * width * width


PAIR = Unit("pair", _pairs)
"""Pairs of tokens of one row, a token with itself included: the sum of squared lengths."""
POSITION = Unit("position", lambda batch: batch.student["input_ids"].numel())
"""Tokens and padding, to repeat references that average over both; depends on how rows are padded together."""
POSITION_PAIR = Unit("position_pair", lambda batch: len(batch) * batch.student["input_ids"].shape[1] ** 2)
"""Pairs of positions of one row, padding included."""
