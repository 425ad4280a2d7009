"""One class a text or pair of texts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
from torch.nn import functional as F

from potstill import details
from potstill.batch import EXAMPLE, IGNORED
from potstill.errors import DataError, RecipeError, did_you_mean
from potstill.tasks import Prediction, Task, full_precision, scores

if TYPE_CHECKING:
    from torch import Tensor

    from potstill.batch import Batch
    from potstill.data.examples import Examples
    from potstill.recipe import TaskConfig

_FEW = 12  # so many labels an error lists


class TextClassification(Task):
    """Single sentences or pairs into classes, by cross-entropy."""

    name = "text-classification"
    named = True
    default_metric = "accuracy"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "precision", "recall", "macro_f1", "f1", "matthews")

    def __init__(self, config: TaskConfig, names: list[str] | None) -> None:
        given = names if names is not None else config.labels if isinstance(config.labels, list) else []
        if len(given) < 2:
            raise DataError(
                f"Classification needs at least 2 classes and has {given}; name them in task.labels, or check that "
                "the training data's label column holds more than one label (-1 and empty mean 'no label')."
            )
        self.names: list[str] = list(given)
        super().__init__(config, self.names)

    def checked_metric(self, metric: str) -> str:
        if metric == "f1" and len(self.names) != 2:
            raise RecipeError(
                f"The metric 'f1' is that of the second of 2 classes, and there are {len(self.names)}; take 'macro_f1'."
            )
        return super().checked_metric(metric)

    def head(self) -> dict[str, Any]:
        return {
            "num_labels": len(self.names),
            "id2label": dict(enumerate(self.names)),
            "label2id": {name: number for number, name in enumerate(self.names)},
            "problem_type": "single_label_classification",
        }

    def targets(self, values: list[Any], where: str) -> npt.NDArray[Any]:
        """[rows] classes: a value is a class's name, or else its number; -1 is no label unless a class is named so."""
        known: dict[Any, int] = {}
        numbers = np.empty(len(values), dtype=np.int64)
        by_name = {name: number for number, name in enumerate(self.names)}
        for row, value in enumerate(values):
            hashable = not isinstance(value, list | dict)
            number = known.get(value) if hashable else None
            if number is None:
                number = class_of(value, by_name) if hashable else None
                if number is None:
                    raise self.unknown(value, row, where)
                known[value] = number
            numbers[row] = number
        return numbers

    def unknown(self, value: Any, row: int, where: str) -> DataError:
        """The error for a label that is none of the classes."""
        listed = ", ".join(f"'{name}'" for name in self.names[:_FEW]) + (", …" if len(self.names) > _FEW else "")
        return DataError(
            f"{where}, row {row + 1}: the label {value!r} is none of the {len(self.names)} labels {listed}."
            f"{did_you_mean(str(value), self.names)} Correct the row or name all labels in task.labels."
        )

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy of [batch, classes] in nats."""
        kept = batch.labels != IGNORED
        total = F.cross_entropy(full_precision(logits), batch.labels, ignore_index=IGNORED, reduction="sum")
        return total / kept.sum().clamp(min=1)

    def predictions(self, logits: Tensor, batch: Batch) -> list[Prediction]:
        return [Prediction("class", logits, "categorical", EXAMPLE)]

    def score(
        self, logits: npt.NDArray[Any] | list[npt.NDArray[Any]], labels: Any, rows: Examples | None = None
    ) -> dict[str, float]:
        predicted, labels, _ = _labelled(logits, labels)
        return scores.classification(predicted, labels, len(self.names)) if len(labels) else {}

    def details(
        self, outcomes: Any, labels: Any, lengths: npt.NDArray[Any], rows: Examples | None = None
    ) -> details.Details:
        """By class, who was taken for whom, by length, Wilson's interval of the accuracy, and the largest class."""
        predicted, labels, kept = _labelled(outcomes, labels)
        if not len(labels):
            return {}
        right = predicted == labels
        whole = details.share(right)
        most = np.bincount(labels).argmax()
        return {
            "classes": details.by_class(predicted, labels, self.names),
            "mistakes": details.mistakes(predicted, labels, self.names),
            "lengths": details.by_length(lengths[kept], lambda rows: details.share(right[rows])),
            "intervals": details.interval(
                "accuracy", whole["accuracy"], (whole["low"], whole["high"]), len(right), "Wilson, 95 %"
            ),
            "constant": details.constant(scores.classification(np.full_like(labels, most), labels, len(self.names))),
        }

    def decode(
        self,
        logits: npt.NDArray[np.floating[Any]],
        inputs: Mapping[str, Tensor],
        tokenizer: Any,
        rows: Examples | None = None,
    ) -> list[dict[str, Any]]:
        """{"label": name, "score": its probability} of each row of [rows, classes]."""
        shifted = np.exp(logits - logits.max(-1, keepdims=True))
        best = logits.argmax(-1)
        probabilities = shifted[np.arange(len(best)), best] / shifted.sum(-1)
        return [
            {"label": self.names[number], "score": float(probability)}
            for number, probability in zip(best.tolist(), probabilities, strict=True)
        ]

    @staticmethod
    def names_from(values: Iterable[Any], options: Any = None) -> list[str]:
        """Every label that occurs, as text: numbers in their order, else by the alphabet. -1 is no label."""
        found = {name for name in map(_one_name, values) if name}
        if all(_integer(name) is not None for name in found):
            return sorted(found - {"-1"}, key=int)
        return sorted(found)


def _labelled(logits: Any, labels: Any) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """The predicted class and the label of each row that has one, and which rows [rows] these are."""
    labels = np.asarray(labels)
    kept = labels != IGNORED
    rows = np.concatenate(logits) if isinstance(logits, list) else logits
    return rows[kept].argmax(-1), labels[kept], kept


def class_of(value: Any, by_name: dict[str, int]) -> int | None:
    """The class that a raw value stands for, `IGNORED` for a missing one, None where it stands for none."""
    name = _name(value)
    if not name:
        return IGNORED
    if name in by_name:
        return by_name[name]
    number = int(value) if isinstance(value, bool | np.bool_) else _integer(name)
    if number == -1:
        return IGNORED
    return number if number is not None and 0 <= number < len(by_name) else None


def _one_name(value: Any) -> str:
    if isinstance(value, list):
        raise DataError(
            f"A row's label is the list {value!r:.60}; text-classification takes one label a row, and the task "
            "'multi-label' any number."
        )
    return _name(value)


def _name(value: Any) -> str:
    """A raw value as text, "" where it is missing; 3.0 is "3", as columns of integers with gaps become floats."""
    if value is None or (isinstance(value, float | np.floating) and math.isnan(value)):
        return ""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()


def _integer(name: str) -> int | None:
    digits = name.removeprefix("-")
    return int(name) if digits.isascii() and digits.isdigit() else None
