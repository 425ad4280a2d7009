"""Metrics of classes and values; scikit-learn and scipy are imported when a score first needs them."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

LOWER_IS_BETTER = frozenset({"loss", "mse", "perplexity"})
"""Metrics where less is better; for all others more is."""


def better(metric: str, new: float, old: float | None) -> bool:
    """Whether `new` beats `old`. Anything beats None and NaN; NaN beats nothing; a tie does not beat."""
    if math.isnan(new):
        return False
    if old is None or math.isnan(old):
        return True
    return new < old if metric in LOWER_IS_BETTER else new > old


def classification(predicted: npt.NDArray[Any], labels: npt.NDArray[Any], classes: int) -> dict[str, float]:
    """Accuracy, macro-averaged precision, recall and F1, Matthews; with two classes also F1 of class 1.

    All of them are scikit-learn's, from one table of counts: the tests of a verdict score the same rows a thousand
    times. The macro averages run over the classes that occur in labels or predictions, a class that is never
    predicted has precision 0, and Matthews is 0 where labels or predictions hold one class only.

    Args:
        predicted: [n] classes.
        labels: [n] classes, none missing.
        classes: how many the task has.
    """
    table = np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)
    right, there, told = np.diag(table), table.sum(1), table.sum(0)
    occurs = (there + told) > 0
    precision, recall = right / np.maximum(told, 1), right / np.maximum(there, 1)
    f1 = 2 * right / np.maximum(there + told, 1)
    scores = {
        "accuracy": right.sum() / table.sum(),
        "precision": precision[occurs].mean(),
        "recall": recall[occurs].mean(),
        "macro_f1": f1[occurs].mean(),
        "matthews": _matthews(right.sum(), there.astype(float), told.astype(float)),
    }
    if classes == 2:
        scores["f1"] = f1[1]
    return {name: float(value) for name, value in scores.items()}


def _matthews(right: float, there: npt.NDArray[Any], told: npt.NDArray[Any]) -> float:
    """Matthews' correlation of several classes (Gorodkin 2004, eq. 8), from the counts by class."""
    rows = there.sum()
    spread = (rows**2 - told @ told) * (rows**2 - there @ there)
    return float((right * rows - told @ there) / math.sqrt(spread)) if spread > 0 else 0.0


def multi_label(logits: npt.NDArray[Any], labels: npt.NDArray[Any]) -> dict[str, float]:
    """F1 over all yes and no (micro) and as a mean over classes (macro), rows that are right in every class, precision.

    A logit above 0 is a yes. As in scikit-learn, a class that neither occurs nor is predicted has F1 0. The average
    precision is the mean over the classes that some row has, NaN where there is none; it goes by the order of the
    logits alone.

    Args:
        logits: [n, classes].
        labels: [n, classes], 0 or 1.
    """
    from sklearn.metrics import accuracy_score, average_precision_score, f1_score

    predicted, occurs = (logits > 0).astype(np.int64), labels.any(0)
    precision = average_precision_score(labels[:, occurs], logits[:, occurs]) if occurs.any() else math.nan
    scores = {
        "micro_f1": f1_score(labels, predicted, average="micro", zero_division=0),
        "macro_f1": f1_score(labels, predicted, average="macro", zero_division=0),
        "subset_accuracy": accuracy_score(labels, predicted),
        "average_precision": precision,
    }
    return {name: float(value) for name, value in scores.items()}


def regression(predicted: npt.NDArray[Any], values: npt.NDArray[Any]) -> dict[str, float]:
    """Pearson and Spearman correlation (NaN below two rows, and where one side is constant) and mean squared error.

    Args:
        predicted: [n].
        values: [n], none missing.
    """
    from scipy.stats import pearsonr, spearmanr

    # In float64: in float32 numbers that are nearly alike lose their spread, and large ones overflow.
    predicted, values = predicted.astype(np.float64), values.astype(np.float64)
    mse = float(np.mean((predicted - values) ** 2))
    if len(values) < 2 or np.ptp(values) == 0 or np.ptp(predicted) == 0:
        return {"pearson": math.nan, "spearman": math.nan, "mse": mse}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # predictions that are nearly alike, or not finite: the numbers say so
        pearson, spearman = pearsonr(predicted, values).statistic, spearmanr(predicted, values).statistic
    return {"pearson": float(pearson), "spearman": float(spearman), "mse": mse}
