"""Any number of classes a text or pair of texts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field
from torch.nn import functional as F

from potstill import details
from potstill.batch import EXAMPLE, IGNORED
from potstill.data.shapes import LABELS
from potstill.errors import DataError
from potstill.settings import Settings
from potstill.tasks import Prediction, Task, full_precision, scores
from potstill.tasks.classification import TextClassification, class_of

if TYPE_CHECKING:
    from torch import Tensor

    from potstill.batch import Batch
    from potstill.data.examples import Examples
    from potstill.data.source import Source


class MultiLabel(TextClassification):
    """Single sentences or pairs into any number of classes, by a yes or no for each.

    A row's label is a list of names or numbers, or a text such as "a|b" (`task.separator`). An empty list, and the
    separator alone, is a row of no class at all; a missing label (None, "", NaN) is none known. Or each class has a
    column of 0 and 1, of which none or all are missing in a row.
    """

    name = "multi-label"
    default_metric = "micro_f1"
    metrics: ClassVar[tuple[str, ...]] = ("micro_f1", "macro_f1", "subset_accuracy", "average_precision")

    label_columns = True
    shapes: ClassVar = {"label": LABELS}

    class Options(Settings):
        separator: str = Field(default="|", min_length=1)
        """What stands between the labels of a row that are one text."""

    options: Options

    def checked_metric(self, metric: str) -> str:
        return Task.checked_metric(self, metric)  # two classes have no F1 of the second one here

    def head(self) -> dict[str, Any]:
        return {**super().head(), "problem_type": "multi_label_classification"}

    def targets(self, values: list[Any], where: str) -> npt.NDArray[Any]:
        """[rows, classes] float32: 1 for a class that a row has, 0 for the others; NaN for all where it is missing."""
        found = np.zeros((len(values), len(self.names)), dtype=np.float32)
        by_name = {name: number for number, name in enumerate(self.names)}
        for row, value in enumerate(values):
            parts = _parts(value, self.options.separator)
            if parts is None:
                found[row] = np.nan
                continue
            for part in parts:
                number = self._number(part, by_name, row, where)
                if found[row, number]:
                    raise DataError(f"{where}, row {row + 1}: the label {part!r} stands there twice; name it once.")
                found[row, number] = 1
        return found

    def read_labels(self, source: Source, note: Callable[[str], None]) -> npt.NDArray[Any]:
        """As `targets`; where classes have columns, each has one.

        Raises: DataError where a class has none, or a column is that of no class.
        """
        if source.label_columns:
            self._check_columns(source.label_names or (), source.path)
        return self.targets(source.labels(), source.path)

    def _check_columns(self, columns: Sequence[str], where: str) -> None:
        without = [name for name in self.names if name not in columns]
        if without:
            raise DataError(
                f"{where}: the class '{without[0]}' has no column, for data.label names {', '.join(columns)}; name one "
                f"for each of the {len(self.names)} classes."
            )
        stranger = next((name for name in columns if name not in self.names), None)
        if stranger is not None:
            raise DataError(
                f"{where}: the column '{stranger}' of data.label is none of the {len(self.names)} classes "
                f"{', '.join(self.names)}; leave it out, or name it in task.labels too."
            )

    def _number(self, part: Any, by_name: dict[str, int], row: int, where: str) -> int:
        if isinstance(part, str) and part in by_name:  # a column's name may begin or end with a space
            return by_name[part]
        number = None if isinstance(part, list | dict) else class_of(part, by_name)
        if number is None:
            raise self.unknown(part, row, where)
        if number == IGNORED:
            raise DataError(
                f"{where}, row {row + 1}: {part!r} among the row's labels names no class; a row without any is an "
                f"empty list, or '{self.options.separator}' alone."
            )
        return number

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Binary cross-entropy of [batch, classes] in nats, a mean per yes or no that is known.

        Rows without a label count for nothing, and so a target is one of (rows with a label) x classes: many
        micro-batches weigh as one batch does, however the labels fall.
        """
        known = ~batch.labels.isnan()
        # Missing labels are replaced before the loss: NaN * 0 is NaN, in the gradient too.
        each = F.binary_cross_entropy_with_logits(
            full_precision(logits), batch.labels.nan_to_num().to(full_precision(logits).dtype), reduction="none"
        )
        return (each * known).sum() / known.sum().clamp(min=1)

    def predictions(self, logits: Tensor, batch: Batch) -> list[Prediction]:
        return [Prediction("classes", logits, "bernoulli", EXAMPLE)]

    def score(
        self, logits: npt.NDArray[Any] | list[npt.NDArray[Any]], labels: Any, rows: Examples | None = None
    ) -> dict[str, float]:
        labels = np.asarray(labels)
        kept = ~np.isnan(labels).any(-1)
        if not kept.any():
            return {}
        predicted = np.concatenate(logits) if isinstance(logits, list) else logits
        return scores.multi_label(predicted[kept], labels[kept].astype(np.int64))

    def details(
        self, outcomes: Any, labels: Any, lengths: npt.NDArray[Any], rows: Examples | None = None
    ) -> details.Details:
        """By class, by length, Wilson's interval of the share of rows that are right in every class, and what the same
        classes for all rows score: those that more than half of them have."""
        labels = np.asarray(labels)
        kept = ~np.isnan(labels).any(-1)
        if not kept.any():
            return {}
        logits = np.concatenate(outcomes) if isinstance(outcomes, list) else outcomes
        told, there = logits[kept] > 0, labels[kept] > 0
        right = (told == there).all(-1)
        whole = details.share(right)
        how = "Wilson, 95 %"
        return {
            "classes": details.by_count(there.sum(0), told.sum(0), (told & there).sum(0), self.names),
            "lengths": details.by_length(lengths[kept], lambda rows: _subset(right[rows])),
            "intervals": details.interval(
                "subset_accuracy", whole["accuracy"], (whole["low"], whole["high"]), len(right), how
            ),
            "constant": details.constant(scores.multi_label(np.tile(there.mean(0) - 0.5, (len(there), 1)), there)),
        }

    def decode(
        self,
        logits: npt.NDArray[np.floating[Any]],
        inputs: Mapping[str, Tensor],
        tokenizer: Any,
        rows: Examples | None = None,
    ) -> list[dict[str, Any]]:
        """{"labels": names of the classes above one half, "scores": their probabilities}, most probable first."""
        told = []
        for row in logits.astype(np.float64):
            order = [number for number in np.argsort(-row, kind="stable") if row[number] > 0]
            told.append(
                {
                    "labels": [self.names[number] for number in order],
                    "scores": [float(1 / (1 + np.exp(-row[number]))) for number in order],
                }
            )
        return told

    @staticmethod
    def names_from(values: Iterable[Any], options: Any = None) -> list[str]:
        """Every label that occurs in a row, as text: numbers in their order, else by the alphabet. -1 is no label."""
        separator = (options or MultiLabel.Options()).separator
        parts = (part for value in values for part in _parts(value, separator) or ())
        return [name for name in TextClassification.names_from(parts) if name != "-1"]


def _subset(right: npt.NDArray[np.bool_]) -> dict[str, float]:
    found = details.share(right)
    return {"subset_accuracy": found.pop("accuracy"), **found}


def _parts(value: Any, separator: str) -> list[Any] | None:
    """The labels of a row; None where its label is missing. An array is a list, and one number is a list of one.

    Args:
        value: as a caller has it, or as `LABELS` reads it.
    """
    if isinstance(value, dict) and value.keys() == {"text", "names"}:
        value = value["text"] if value["names"] is None else value["names"]
    if value is None or (isinstance(value, float | np.floating) and math.isnan(value)):
        return None
    if isinstance(value, str):
        text = value.strip()
        if text in ("", separator.strip()):
            return [] if text else None
        return [part.strip() for part in text.split(separator)]
    return list(value) if isinstance(value, list | tuple | np.ndarray) else [value]
