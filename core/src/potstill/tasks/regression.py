"""One number a text or pair of texts, such as how alike two sentences are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from potstill import details
from potstill.batch import EXAMPLE
from potstill.errors import DataError
from potstill.tasks import Prediction, Task, full_precision, scores

if TYPE_CHECKING:
    from torch import Tensor

    from potstill.batch import Batch
    from potstill.data.examples import Examples


class Regression(Task):
    """Single sentences or pairs onto a number, by mean squared error."""

    name = "regression"
    default_metric = "pearson"
    metrics: ClassVar[tuple[str, ...]] = ("pearson", "spearman", "mse")

    def head(self) -> dict[str, Any]:
        return {"num_labels": 1, "id2label": {0: "value"}, "label2id": {"value": 0}, "problem_type": "regression"}

    def targets(self, values: list[Any], where: str) -> npt.NDArray[np.float32]:
        """[rows] values; text is read as a number, missing ones are NaN."""
        return np.array([_number(value, row, where) for row, value in enumerate(values)], dtype=np.float32)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Mean squared error of [batch, 1]."""
        kept = ~batch.labels.isnan()
        # Missing values are replaced before the subtraction: NaN * 0 is NaN, in the gradient too.
        error = (full_precision(logits).squeeze(-1) - batch.labels.nan_to_num()) * kept
        return error.square().sum() / kept.sum().clamp(min=1)

    def predictions(self, logits: Tensor, batch: Batch) -> list[Prediction]:
        return [Prediction("value", logits, "value", EXAMPLE)]

    def score(
        self, logits: npt.NDArray[Any] | list[npt.NDArray[Any]], labels: Any, rows: Examples | None = None
    ) -> dict[str, float]:
        predicted, labels, _ = _labelled(logits, labels)
        return scores.regression(predicted, labels) if len(labels) else {}

    def details(
        self, outcomes: Any, labels: Any, lengths: npt.NDArray[Any], rows: Examples | None = None
    ) -> details.Details:
        """Predictions beside the truth, the error by length, a bootstrap interval of Pearson's correlation, and the
        error of the mean value."""
        predicted, labels, kept = _labelled(outcomes, labels)
        if not len(labels):
            return {}
        predicted, labels = predicted.astype(np.float64), labels.astype(np.float64)
        whole = scores.regression(predicted, labels)["pearson"]

        def error(rows: npt.NDArray[Any]) -> dict[str, float]:
            found = scores.regression(predicted[rows], labels[rows])
            return {"mse": found["mse"], "pearson": found["pearson"]}

        def pearson(rows: npt.NDArray[Any]) -> float:
            with np.errstate(all="ignore"):  # a sample of one value has no correlation
                return float(np.corrcoef(predicted[rows], labels[rows])[0, 1])

        ends = details.bootstrap(pearson, len(labels))
        return {
            "points": details.points(predicted, labels),
            "lengths": details.by_length(lengths[kept], error),
            "intervals": details.interval("pearson", whole, ends, len(labels), "bootstrap over rows, 95 %"),
            "constant": details.constant(scores.regression(np.full_like(labels, labels.mean()), labels)),
        }

    def decode(
        self,
        logits: npt.NDArray[np.floating[Any]],
        inputs: Mapping[str, Tensor],
        tokenizer: Any,
        rows: Examples | None = None,
    ) -> list[dict[str, Any]]:
        """{"value": number} of each row of [rows, 1]."""
        return [{"value": float(value)} for value in np.reshape(logits, -1)]


def _labelled(logits: Any, labels: Any) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """The predicted value and the label of each row that has one, and which rows [rows] these are."""
    labels = np.asarray(labels)
    kept = ~np.isnan(labels)
    rows = np.concatenate(logits) if isinstance(logits, list) else logits
    return rows.reshape(len(labels))[kept], labels[kept], kept


def _number(value: Any, row: int, where: str) -> float:
    if value is None or (isinstance(value, str) and not value.strip()):
        return math.nan
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise DataError(f"{where}, row {row + 1}: the label {value!r} is not a number; regression needs one.") from None
    if math.isinf(number):
        raise DataError(f"{where}, row {row + 1}: the label {value!r} is not finite; regression needs a finite number.")
    return number
