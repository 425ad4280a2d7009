"""Evaluation during a stage: scores, the best weights so far, early stopping."""

from __future__ import annotations

import math
from pathlib import Path

from potstill import checkpoint
from potstill.data.examples import Examples
from potstill.errors import FileError, RecipeError
from potstill.evaluate import evaluate
from potstill.files import new_folder
from potstill.position import Position
from potstill.stage import Stage
from potstill.tasks import better


class Judge:
    """Scores the student on the validation rows and keeps the weights of the best evaluation.

    Raises:
        RecipeError: a metric that the task has not, or early stopping without rows to judge by.
    """

    def __init__(self, stage: Stage, folder: Path) -> None:
        self._stage = stage
        self._metric = stage.plan.metric or stage.task.metric
        stage.task.checked_metric(self._metric)
        self.rows = stage.examples("validation")
        self.weights = folder / "best-weights"
        if self.rows is None and stage.plan.early_stopping is not None:
            raise RecipeError(
                f"The stage '{stage.plan.name}' has early_stopping, and no data.validation is named to judge by."
            )

    def scores(self, rows: Examples) -> dict[str, float]:
        """The student's scores on some rows.

        Raises:
            Interrupted: the run was asked to stop.
        """
        context, size = self._stage.context, self._stage.plan.eval_batch_size
        with context.progress.bar("evaluating", math.ceil(len(rows) / size)) as bar:
            return evaluate(
                self._stage.student.module,
                rows,
                self._stage.task,
                context.ranks,
                batch_size=size,
                check=context.check_stop,
                bar=bar,
            )

    def judge(self, scores: dict[str, float], at: Position) -> None:
        """Notes in `at` whether these scores are the best so far, and whether it is time to stop.

        Raises:
            RecipeError: the metric to judge by is not among them.
        """
        if self._metric not in scores:
            raise RecipeError(
                f"The stage '{self._stage.plan.name}' is judged by '{self._metric}', which these validation rows do "
                f"not give; they give {', '.join(scores) or 'nothing, since none has a label'}."
            )
        score = scores[self._metric]
        if at.best is None or better(self._metric, score, at.best):
            at.best, at.best_update, at.worse = score, at.update, 0
            self._keep()
        else:
            patience = self._stage.plan.early_stopping
            at.worse += 1
            at.finished |= patience is not None and at.worse >= patience

    def load_best(self, at: Position) -> None:
        """Puts the best evaluation's weights back, where the stage keeps the best.

        Raises: FileError where their files are damaged.
        """
        if self._stage.plan.keep != "best" or at.best is None:
            return
        problem = checkpoint.damage(self.weights)
        if problem is not None:
            raise FileError(
                f"{self.weights}, the best weights of the stage, cannot be read ({problem}); "
                f"remove {self.weights.parent} to train the stage again."
            )
        self._stage.load_weights(checkpoint.read_tree(self.weights))

    def _keep(self) -> None:
        if not self._stage.context.ranks.main or self._stage.plan.keep != "best":
            return
        with new_folder(self.weights) as draft:
            checkpoint.write_tree(draft, self._stage.weights())
