"""Whether an exported model answers as the one in torch does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from potstill_onnx.inputs import input_names, made_up
from potstill_onnx.session import Session

if TYPE_CHECKING:
    from potstill.data.examples import Examples
    from potstill.tasks import Task

Logits = npt.NDArray[Any]


@dataclass(frozen=True)
class Agreement:
    """How near one model's logits are to another's.

    Attributes:
        rows: compared.
        max_difference: the largest absolute difference of two logits; NaN where one of them is NaN.
        equal_predictions: the share of arg-maxes that are equal; None where there is a single logit.
    """

    rows: int
    max_difference: float
    equal_predictions: float | None


def torch_logits(module: nn.Module, task: Task, inputs: Mapping[str, Tensor]) -> Logits:
    """What the model in torch answers; the module stays in the mode it is in."""
    with torch.no_grad():
        output = module(**{name: inputs[name] for name in input_names(module, inputs)})
        return task.logits(output).float().cpu().numpy()


def agreement(answers: Iterable[tuple[Logits, Logits]], axis: int = -1) -> Agreement:
    """Compares logits batch by batch; each [rows, ..., classes]. No more than a batch of them is held.

    Args:
        answers: of each batch, those of the one model and of the other.
        axis: that of the classes (`Task.choice_axis`).
    """
    rows = equal = count = 0
    worst, single = 0.0, False
    for one, other in answers:
        rows += len(one)
        worst = float(np.maximum(worst, _largest(one, other)))  # NaN wins
        if one.ndim < 2 or one.shape[axis] < 2:
            single = True
        else:
            same = one.argmax(axis) == other.argmax(axis)
            equal, count = equal + int(same.sum()), count + same.size
    return Agreement(rows, worst, None if single else equal / count if count else 1.0)


def grid(
    module: nn.Module, task: Task, session: Session, inputs: Mapping[str, Tensor], max_length: int, vocabulary: int
) -> list[dict[str, Any]]:
    """Torch against ONNX on shapes that exports get wrong: one row, one token, padding or none, the longest row.

    Args:
        inputs: a batch's, for the names and types.
        max_length: of the longest row.
        vocabulary: token ids are drawn below it.

    Returns: {"case", "batch", "length", "max_difference"} for each case.
    """
    results = []
    for case, batch, length, ragged in _cases(max_length):
        made = made_up(inputs, batch, length, ragged=ragged, vocabulary=vocabulary)
        found = agreement([(torch_logits(module, task, made), session.logits(made))])
        results.append({"case": case, "batch": batch, "length": length, "max_difference": found.max_difference})
    return results


def collect(parts: Iterable[Logits]) -> Logits | list[Logits]:
    """The logits of all batches as one array; a list of one array a batch where their widths differ."""
    parts = list(parts)
    same = len({part.shape[1:] for part in parts}) == 1
    return np.concatenate(parts) if same else parts


def scores(task: Task, outcomes: Sequence[tuple[Logits, Logits]], rows: Examples | None = None) -> dict[str, float]:
    """The task's metrics of all batches together, of what it kept of each; {} where there are no rows."""
    logits, labels = [one for one, _ in outcomes], [kept for _, kept in outcomes]
    return task.score(collect(logits), collect(labels), rows) if outcomes else {}


def _largest(a: Logits, b: Logits) -> float:
    return float(np.abs(a - b).max()) if a.size else 0.0


def _cases(max_length: int) -> Iterator[tuple[str, int, int, bool]]:
    middle = max(1, max_length // 2)
    yield "one row", 1, middle, False
    yield "one token", 2, 1, False
    yield "one row of one token", 1, 1, False
    yield "full mask", 4, middle, False
    yield "ragged mask", 5, middle, True
    yield "longest rows", 2, max_length, True
