"""The training loop. The engine alone calls backward (through the precision), unscales, clips, steps and zeroes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from potstill import checkpoint
from potstill.collate import Collation
from potstill.errors import DataError, Interrupted, PluginError, TrainingError
from potstill.judge import Judge
from potstill.position import Position
from potstill.progress import Bar
from potstill.records import JsonLines
from potstill.shares import shares
from potstill.stage import Stage
from potstill.step import Step, Update
from potstill.terms import TermBook

Group = Sequence[np.ndarray]


class Engine:
    """Trains one stage in its folder, from where the newest checkpoint there left off."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self.stage = stage
        self.checkpoints = folder / "checkpoints"
        self.context = stage.context
        self.ranks = stage.context.ranks
        rows = stage.examples("train")
        if rows is None:
            raise DataError(f"The stage '{stage.plan.name}' trains, and the recipe names no data.train.")
        self.train_rows = rows
        if not stage.task.labelled(rows.labels):
            self.context.progress.note(
                f"{stage.plan.name}: no row of the training data has a label, so loss terms on labels stay empty."
            )
        self.collation = Collation(stage, rows)
        self.judge = Judge(stage, folder)
        self.parameters = stage.parameters
        self.optimizer = stage.make_optimizer()
        self._peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.at = Position()
        self.terms = TermBook(stage)
        self.log = JsonLines(folder / "metrics.jsonl", active=self.ranks.main)
        self.curves = stage.context.tracking.curves(stage.plan.name, self.log.path)
        self._agreed_to_stop = False
        stage.count_updates(rows)

    def train(self) -> Position:
        """Runs the stage to its end; `judge.load_best` then puts back the best evaluation's weights.

        Raises:
            TrainingError: a loss that is not finite; the last good checkpoint stays.
            Interrupted: the run was asked to stop, after a checkpoint.
        """
        self._resume()
        self.stage.exit.callback(self.curves.close)
        self.curves.catch_up()
        # Also where no update is left: what is scored at the end is computed in these numbers.
        self.stage.precision.prepare(self.stage, self.train_rows, self.optimizer)
        if not self.at.finished:
            self.stage.ask_teacher(self.train_rows)
        with self.context.progress.bar(self.stage.plan.name, self.stage.total_updates, done=self.at.update) as bar:
            if self.at.due:
                self._evaluate()
            while not self.at.finished:
                self._epoch(bar)
        return self.at

    # one epoch, one update

    def _epoch(self, bar: Bar) -> None:
        groups = self.stage.batches(self.train_rows, self.at.epoch)
        if not groups:
            raise PluginError(f"The stage '{self.stage.plan.name}' was given no batch for epoch {self.at.epoch + 1}.")
        while self.at.group < len(groups) and not self.at.finished:
            group, started = groups[self.at.group], perf_counter()
            means, grad_norm = self._update(group)
            seconds = perf_counter() - started
            self.at.seconds += seconds
            self.curves.count(sum(map(len, group)), seconds)
            self.at.group += 1
            # This rank's share of the rows stands for all of them; the log has the sum.
            bar.advance(loss=sum(means.values()) * self.ranks.world)
            self._after_update(grad_norm, end_of_epoch=self.at.group == len(groups))
        if not self.at.finished:
            self.at.epoch, self.at.group = self.at.epoch + 1, 0

    def _update(self, group: Group) -> tuple[dict[str, float], float]:
        batches = [self.collation.batch(rows, self.at.epoch) for rows in group]
        portions = shares(batches, self.stage.units, self._sum_over_ranks)
        steps = []
        for micro, batch in enumerate(batches):
            if not len(batch):  # its rows are other ranks'; the number stays theirs
                continue
            step = Step(self.stage, batch.to(self.ranks.device), portions, self.at.update, micro)
            self.stage.hook.on_step(step=step)
            step.release()
            steps.append(step)
        self.ranks.sum_gradients(self.parameters)
        self.stage.precision.unscale(self.optimizer)
        norm = self.stage.clip(self.stage.precision.clipped(self.parameters))
        means, grad_norm = self.terms.read(steps, norm, self.at.update)
        self._step(grad_norm)
        return means, grad_norm

    def _sum_over_ranks(self, counts: list[int]) -> list[int]:
        # The wish to stop travels with the counts, so that all ranks stop after the same update.
        *totals, stop = self.ranks.sum_ints([*counts, int(self.context.stop.requested)])
        self._agreed_to_stop = stop > 0
        return totals

    def _step(self, grad_norm: float) -> None:
        factor = self.stage.learning_rate_factor(self.at.applied)
        for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        try:
            applied = self.stage.precision.step(self.optimizer, grad_norm)
        except TrainingError as error:
            raise TrainingError(
                f"In update {self.at.update + 1} of the stage '{self.stage.plan.name}' {error}."
            ) from error
        self.optimizer.zero_grad()  # to None; not every optimizer takes an argument
        self.at.update += 1
        self.at.applied += int(applied)
        update = Update(self.stage, self.at.update, applied, self.at.applied, self.stage.total_updates)
        self.stage.hook.on_update(update=update)

    # what is due after an update

    def _after_update(self, grad_norm: float, *, end_of_epoch: bool) -> None:
        plan, at = self.stage.plan, self.at
        at.finished = at.update >= self.stage.total_updates
        if end_of_epoch or (at.finished and at.epoch == 0):
            self.terms.close_epoch(at.epoch)
        if at.update % plan.log_every == 0 or at.finished:
            self._write_line(grad_norm)
        every = plan.evaluate_every
        at.due = (at.update % every == 0 if every else end_of_epoch) or at.finished
        if at.due and not self._stopping:
            self._evaluate()
        if at.update % plan.checkpoint_every == 0 or end_of_epoch or at.finished or self._stopping:
            self._save()
        if self._stopping:
            self.context.stop.requested = True
            self.context.stop.check()

    @property
    def _stopping(self) -> bool:
        """Whether to stop after this update. A signal that came since the ranks agreed waits for the next one."""
        return self._agreed_to_stop or (self.ranks.world == 1 and self.context.stop.requested)

    def _write_line(self, grad_norm: float) -> None:
        terms = self.terms.line()
        self._log_line(
            loss=sum(terms.values()),
            terms=terms,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            grad_norm=grad_norm if math.isfinite(grad_norm) else None,  # of an update that was skipped
        )

    def _log_line(self, **facts: Any) -> None:
        record = {"update": self.at.update, "epoch": self.at.epoch, **facts}
        self.log.add(record)
        self.curves.send(record)

    def _evaluate(self) -> None:
        """Scores the validation rows. A wish to stop while it is at it leaves a checkpoint that says so."""
        if self.judge.rows is not None:
            try:
                scores = self.judge.scores(self.judge.rows)
            except Interrupted:
                self._save()
                raise
            self._log_line(evaluation=scores)
            self.judge.judge(scores, self.at)
        self.at.due = False

    # checkpoints

    def _save(self) -> None:
        state: dict[str, Any] = {
            "terms": self.terms.state_dict(),
            "random": self.ranks.gather(checkpoint.random_state()),
        }
        if self.ranks.main:
            state |= {
                "position": asdict(self.at),
                "stage": self.stage.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "log": self.log.size,
            }
            checkpoint.save(self.checkpoints, self.at.update, state)
        self.ranks.wait()

    def _resume(self) -> None:
        state = checkpoint.load_newest(self.checkpoints, self.context.progress.note)
        if state is None:
            self.log.cut(0)
            return
        self.at = Position(**state["position"])
        self.stage.load_state_dict(state["stage"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.terms.load_state_dict(state["terms"])
        self.log.cut(state["log"])
        if len(state["random"]) != self.ranks.world:
            self.context.progress.note(
                f"{self.stage.plan.name}: begun by {len(state['random'])} processes, going on with {self.ranks.world}; "
                "the rows go on exactly, the dropout does not."
            )
        if self.ranks.rank < len(state["random"]):
            checkpoint.set_random_state(state["random"][self.ranks.rank])
        else:
            checkpoint.seed_everything(self.stage.seed + self.ranks.rank + self.at.update)
