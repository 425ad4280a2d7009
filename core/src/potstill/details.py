"""Where a model errs, and how sure its score is: plain tables for `Task.details`, ready for JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Rows = list[dict[str, Any]]
Details = dict[str, Rows]
"""Tables by name. The report draws these, and shows others as they are:

"classes"    class, precision, recall, f1, support; worst first (`by_class`)
"mistakes"   label, predicted, count; most frequent first (`mistakes`)
"lengths"    from, to (tokens), rows, then a metric or several and, of the first, low and high (`by_length`)
"points"     label, predicted; two numbers (`points`)
"intervals"  metric, value, low, high, rows, how (`interval`)
"constant"   metric, value: what one answer for all rows scores (`constant`)
"""

_BUCKETS = 6
_CELLS = 2000  # of a confusion matrix that a table keeps; all there are of 45 classes
_POINTS = 1000
_DRAWS = 1000
_Z = 1.959963984540054  # of 95 %


def by_class(predicted: npt.NDArray[Any], labels: npt.NDArray[Any], names: Sequence[str]) -> Rows:
    """Precision, recall, F1 and support (rows of it) of each class that occurs, worst F1 first, then the largest.

    A class that is never predicted has precision 0, one without a row recall 0.

    Args:
        predicted, labels: [n] classes, none missing.
    """
    count = len(names)
    right = np.bincount(labels[predicted == labels], minlength=count)
    return by_count(np.bincount(labels, minlength=count), np.bincount(predicted, minlength=count), right, names)


def by_count(support: npt.NDArray[Any], told: npt.NDArray[Any], right: npt.NDArray[Any], names: Sequence[str]) -> Rows:
    """`by_class`, of how often each class is there, is told, and both; [classes] each."""
    rows = [
        {
            "class": names[number],
            "precision": _share(right[number], told[number]),
            "recall": _share(right[number], support[number]),
            "f1": _share(2 * right[number], told[number] + support[number]),
            "support": int(support[number]),
        }
        for number in map(int, np.flatnonzero(support + told))
    ]
    return sorted(rows, key=lambda row: (row["f1"], -row["support"]))


def mistakes(predicted: npt.NDArray[Any], labels: npt.NDArray[Any], names: Sequence[str]) -> Rows:
    """How often which class was taken for which, most frequent first; the cells of a confusion matrix off its diagonal.

    The 2000 largest cells at most. Args: as `by_class`.
    """
    wrong = predicted != labels
    cells, counts = np.unique(labels[wrong] * len(names) + predicted[wrong], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_CELLS]
    return [
        {"label": names[cell // len(names)], "predicted": names[cell % len(names)], "count": int(count)}
        for cell, count in zip(cells[order], counts[order], strict=True)
    ]


def by_length(lengths: npt.ArrayLike, score: Callable[[npt.NDArray[Any]], Mapping[str, float]]) -> Rows:
    """Scores by length of the text, in at most 6 buckets of about as many rows each.

    Args:
        lengths: [n] tokens.
        score: from row numbers to metrics; one that is not finite becomes None.
    """
    lengths = np.asarray(lengths)
    if not len(lengths):
        return []
    tops = np.unique(np.quantile(lengths, np.arange(1, _BUCKETS + 1) / _BUCKETS, method="inverted_cdf"))
    bucket = np.searchsorted(tops, lengths)  # the first top that is no shorter
    table = []
    for number in range(len(tops)):
        rows = np.flatnonzero(bucket == number)
        metrics = {name: _finite(value) for name, value in score(rows).items()}
        ends = {"from": int(lengths[rows].min()), "to": int(lengths[rows].max())}
        table.append({**ends, "rows": len(rows), **metrics})
    return table


def points(predicted: npt.NDArray[Any], values: npt.NDArray[Any]) -> Rows:
    """Predictions beside the truth, for a scatter plot; every n-th row, so that there are 1000 at most."""
    chosen = np.unique(np.linspace(0, len(values) - 1, min(len(values), _POINTS)).astype(int))
    return [{"label": _finite(values[row]), "predicted": _finite(predicted[row])} for row in chosen]


def share(right: npt.NDArray[np.bool_]) -> dict[str, float]:
    """The share of rows that are right, with the 95 % interval of Wilson."""
    low, high = wilson(int(right.sum()), len(right))
    return {"accuracy": float(right.mean()), "low": low, "high": high}


def wilson(right: float, count: int) -> tuple[float, float]:
    """The score interval of a share, 95 % (Wilson 1927); (0, 1) of nothing."""
    if not count:
        return 0.0, 1.0
    rate, more = right / count, _Z**2 / count
    middle = (rate + more / 2) / (1 + more)
    half = _Z * math.sqrt(rate * (1 - rate) / count + more / (4 * count)) / (1 + more)
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap(measure: Callable[[npt.NDArray[Any]], float], rows: int) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles of a metric over 1000 samples of the rows, drawn with replacement from seed 0.

    Args:
        measure: from row numbers [rows] to the metric; samples where it is not finite do not count.

    Returns: (NaN, NaN) where none counts.
    """
    random = np.random.default_rng(0)
    values = np.array([measure(random.integers(0, rows, rows)) for _ in range(_DRAWS)])
    values = values[np.isfinite(values)]
    low, high = np.percentile(values, [2.5, 97.5]) if len(values) else (math.nan, math.nan)
    return float(low), float(high)


def interval(metric: str, value: float, ends: tuple[float, float], rows: int, how: str) -> Rows:
    """One line of "intervals"; none where an end is not a number.

    Args:
        rows: that the value is of.
        how: the ends were found, for the reader.
    """
    if not all(math.isfinite(number) for number in (value, *ends)):
        return []
    return [{"metric": metric, "value": float(value), "low": ends[0], "high": ends[1], "rows": rows, "how": how}]


def constant(scores: Mapping[str, float]) -> Rows:
    """What the best answer that is the same for every row scores: a model that scores no more has learnt nothing.

    Args:
        scores: by metric; those that are not finite are left out.
    """
    return [{"metric": name, "value": float(value)} for name, value in scores.items() if math.isfinite(value)]


def _share(part: int, whole: int) -> float:
    return float(part / whole) if whole else 0.0


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
