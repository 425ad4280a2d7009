"""Metrics through scikit-learn and scipy, which are imported when the first score is asked for."""

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

    The macro averages run over the classes that occur in labels or predictions (scikit-learn's default), and a
    class that is never predicted has precision 0.

    Args:
        predicted: [n] classes.
        labels: [n] classes, none missing.
        classes: how many the task has.
    """
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, precision_recall_fscore_support

    precision, recall, macro_f1, _ = precision_recall_fscore_support(
        labels, predicted, average="macro", zero_division=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a single class among labels and predictions: Matthews is 0 then
        matthews = matthews_corrcoef(labels, predicted)
    scores = {
        "accuracy": accuracy_score(labels, predicted),
        "precision": precision,
        "recall": recall,
        "macro_f1": macro_f1,
        "matthews": matthews,
    }
    if classes == 2:
        scores["f1"] = f1_score(labels, predicted, labels=[0, 1], pos_label=1, zero_division=0)
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
