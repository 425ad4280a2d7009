"""Running a model over labelled rows, and its scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from potstill.batch import TARGET, Batch
from potstill.data.batching import in_order
from potstill.data.examples import Examples
from potstill.details import Details
from potstill.progress import Bar
from potstill.ranks import Ranks
from potstill.tasks import Task


@dataclass(frozen=True)
class Measured:
    """What a model answered on some rows.

    Attributes:
        outcomes, labels: as `Task.outcome` gives them, in the order of the rows.
        loss: the mean per target; None without any.
    """

    task: Task
    examples: Examples
    outcomes: Any
    labels: Any
    loss: float | None

    @property
    def scores(self) -> dict[str, float]:
        """The task's scores, and the loss as "loss"; {} where no row has a label."""
        return {
            **self.task.score(self.outcomes, self.labels, self.examples),
            **({} if self.loss is None else {"loss": self.loss}),
        }

    @property
    def details(self) -> Details:
        """The task's tables of where the model errs."""
        return self.task.details(self.outcomes, self.labels, self.examples.student.lengths, self.examples)

    @property
    def kept(self) -> tuple[Any, Any] | None:
        """What the task needs to score any draw of the rows again."""
        return self.task.kept(self.outcomes, self.labels, self.examples)


def evaluate(
    module: nn.Module,
    examples: Examples,
    task: Task,
    ranks: Ranks,
    *,
    batch_size: int = 64,
    teacher_inputs: bool = False,
    check: Callable[[], None] = lambda: None,
    bar: Bar | None = None,
) -> dict[str, float]:
    """The task's scores of a model, and its mean loss per target as "loss"; {} where no row has a label.

    Args: as `measure`.
    """
    return measure(
        module, examples, task, ranks, batch_size=batch_size, teacher_inputs=teacher_inputs, check=check, bar=bar
    ).scores


def measure(module: nn.Module, examples: Examples, task: Task, ranks: Ranks, **options: Any) -> Measured:
    """What the scores and the details of a model come from.

    Args:
        module: left in the mode it was in, part by part.
        examples: rows, of which each rank runs its share.
        options: of `predict`.
    """
    return Measured(task, examples, *predict(module, examples, task, ranks, **options))


def measure_logits(logits: Tensor, examples: Examples, task: Task) -> Measured:
    """`measure` of logits that are known already, [rows, classes] in the order of the rows; one row has a label."""
    labels = task.collate_labels(examples.labels, 0)
    batch = Batch({}, {}, labels, torch.arange(len(labels)))
    return Measured(task, examples, *task.outcome(logits, batch), float(task.loss(logits, batch)))


def predict(
    module: nn.Module,
    examples: Examples,
    task: Task,
    ranks: Ranks,
    *,
    batch_size: int = 64,
    teacher_inputs: bool = False,
    check: Callable[[], None] = lambda: None,
    bar: Bar | None = None,
) -> tuple[Any, Any, float | None]:
    """What the task keeps of every row's logits and labels (`Task.outcome`), in the order of the rows.

    Behind them the mean loss per target, None without any.

    Args:
        teacher_inputs: feed the batches' `teacher` inputs instead of the `student` ones.
        check: called between batches; may raise to stop.
    """
    # Part by part, since a plugin may keep some of a model in eval mode while it trains.
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    rows: list[tuple[int, Any, Any]] = []
    total, targets = 0.0, 0
    try:
        with torch.no_grad():
            for indices in in_order(examples.lengths, batch_size):
                check()
                mine = indices[ranks.rank :: ranks.world]
                if not len(mine):
                    continue
                batch = examples.asked(mine).to(ranks.device)
                logits = task.logits(module(**(batch.teacher if teacher_inputs else batch.student)))
                count = TARGET.count(batch)
                if count:
                    total += float(task.loss(logits, batch)) * count
                    targets += count
                outcomes, labels = task.outcome(logits, batch)
                rows.extend((int(row), outcomes[i], labels[i]) for i, row in enumerate(mine))
                if bar is not None:
                    bar.advance()
    finally:
        for part, training in modes:
            part.training = training
    shares = ranks.gather((rows, total, targets))
    everything = sorted((row for share in shares for row in share[0]), key=lambda row: row[0])
    everywhere = sum(share[2] for share in shares)
    loss = sum(share[1] for share in shares) / everywhere if everywhere else None
    return _stacked([row[1] for row in everything]), _stacked([row[2] for row in everything]), loss


def _stacked(rows: list[Any]) -> Any:
    """One array where all rows have one shape; else a list of arrays of one row each."""
    if len({np.shape(row) for row in rows}) <= 1:
        return np.asarray(rows)
    return [np.asarray(row)[None] for row in rows]
