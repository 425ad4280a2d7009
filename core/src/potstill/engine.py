"""The training loop. The engine alone calls backward (through the precision), unscales, clips, steps and zeroes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from potstill import checkpoint
from potstill.batch import Batch
from potstill.data.examples import Examples
from potstill.data.random import RowRandom
from potstill.errors import DataError, PluginError, RecipeError, TrainingError
from potstill.evaluate import evaluate
from potstill.files import new_folder
from potstill.progress import Bar
from potstill.records import JsonLines, Sums
from potstill.schedule import warmup_updates
from potstill.shares import Shares, shares
from potstill.stage import Stage
from potstill.step import Step, Update
from potstill.tasks import better

Group = Sequence[np.ndarray]


@dataclass
class Position:
    """Where a stage stands; all of it is in every checkpoint."""

    epoch: int = 0
    group: int = 0
    update: int = 0
    applied: int = 0
    best: float | None = None
    best_update: int = 0
    worse: int = 0
    finished: bool = False
    seconds: float = 0.0


class Engine:
    """Trains one stage in its folder, from where the newest checkpoint there left off."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self.stage = stage
        self.folder = folder
        self.context = stage.context
        self.ranks = stage.context.ranks
        self.train_rows = self._rows("train")
        self.validation = stage.examples("validation")
        self.parameters = stage.parameters
        self.optimizer = stage.make_optimizer()
        self._peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.at = Position()
        self.sums = Sums()
        self.log = JsonLines(folder / "metrics.jsonl", active=self.ranks.main)
        self._counted: dict[str, int] = {}
        self._groups = stage.batches(self.train_rows.lengths, 0)
        stage.total_updates = stage.plan.updates or math.ceil((stage.plan.epochs or 0) * len(self._groups))
        if warmup_updates(stage.plan.warmup, stage.total_updates) > stage.total_updates:
            raise RecipeError(
                f"The stage '{stage.plan.name}' has {stage.total_updates} updates and a warm-up of {stage.plan.warmup}."
            )
        self._metric = stage.plan.metric or stage.task.metric
        stage.task.checked_metric(self._metric)

    def train(self) -> Position:
        """Runs the stage to its end; weights of the best evaluation are then in `best_weights`.

        Raises:
            TrainingError: a loss that is not finite; the last good checkpoint stays.
            Interrupted: the run was asked to stop, after a checkpoint.
        """
        self._resume()
        with self.context.progress.bar(self.stage.plan.name, self.stage.total_updates, done=self.at.update) as bar:
            while not self.at.finished:
                self._epoch(bar)
        return self.at

    @property
    def best_weights(self) -> Path:
        """The weights of the best evaluation so far."""
        return self.folder / "best-weights"

    def load_best(self) -> None:
        """Puts the best evaluation's weights into the model, where the stage keeps the best."""
        if self.stage.plan.keep == "best" and self.at.best is not None:
            self.stage.student.module.load_state_dict(load_file(self.best_weights / "weights.safetensors"))

    # one epoch, one update

    def _epoch(self, bar: Bar) -> None:
        self._groups = self.stage.batches(self.train_rows.lengths, self.at.epoch)
        started = perf_counter()
        while self.at.group < len(self._groups) and not self.at.finished:
            means = self._update(self._groups[self.at.group])
            self.at.group += 1
            last = self.at.group == len(self._groups)
            self.at.seconds += perf_counter() - started
            started = perf_counter()
            self._after_update(means, end_of_epoch=last, bar=bar)
        if not self.at.finished:
            self.at.epoch, self.at.group = self.at.epoch + 1, 0

    def _update(self, group: Group) -> dict[str, float]:
        batches = [batch for rows in group if len(batch := self._batch(rows))]
        portions = shares(batches, self.stage.units, self._sum_over_ranks)
        steps = []
        for micro, batch in enumerate(batches):
            step = Step(self.stage, batch.to(self.ranks.device), portions, self.at.update, micro)
            self.stage.hook.on_step(step=step)
            steps.append(step)
        self.ranks.sum_gradients(self.parameters)
        self.stage.precision.unscale(self.optimizer)
        norm = self.stage.clip(self.parameters)
        means, grad_norm = self._means(steps, norm)
        self._check_first(means)
        self._step(grad_norm)
        self._count(steps, portions)
        return {**means, "": grad_norm}

    def _batch(self, rows: np.ndarray) -> Batch:
        mine = rows[self.ranks.rank :: self.ranks.world]
        batch = self.train_rows.batch(mine)
        if len(mine):
            self.stage.hook.collate(batch=batch, rng=RowRandom(self.stage.seed, self.at.epoch, mine))
        return batch

    def _sum_over_ranks(self, counts: list[int]) -> list[int]:
        # The wish to stop travels with the counts, so that all ranks stop after the same update.
        *totals, stop = self.ranks.sum_ints([*counts, int(self.context.stop.requested)])
        self.context.stop.requested = self.context.stop.requested or stop > 0
        return totals

    def _means(self, steps: list[Step], norm: torch.Tensor) -> tuple[dict[str, float], float]:
        """Each term's mean over the update on this rank, and the gradients' norm: the one wait for the device."""
        names, values, owners = [], [norm.detach().float()], []
        for step in steps:
            for done in step.passes:
                for name, (value, factor) in done.terms.items():
                    if factor:
                        names.append((name if done.tag == "clean" else f"{name}[{done.tag}]", factor))
                        values.append(value.float())
                        owners.append(step)
        grad_norm, *numbers = torch.stack(values).tolist()
        means: dict[str, float] = {}
        for (name, factor), number, step in zip(names, numbers, owners, strict=True):
            if not math.isfinite(number):
                raise TrainingError(self._not_finite(name, number, step))
            means[name] = means.get(name, 0.0) + number * factor
        return means, grad_norm

    def _not_finite(self, name: str, number: float, step: Step) -> str:
        rows = step.batch.index.tolist()
        shown = ", ".join(map(str, rows[:8])) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
        return (
            f"The loss term '{name}' became {number} in update {self.at.update + 1} of the stage "
            f"'{self.stage.plan.name}' (rows {shown} of the training data); the last checkpoint is kept."
        )

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
        self.optimizer.zero_grad(set_to_none=True)
        self.at.update += 1
        self.at.applied += int(applied)
        update = Update(self.stage, self.at.update, applied, self.at.applied, self.stage.total_updates)
        self.stage.hook.on_update(update=update)

    # nothing is silently zero

    def _check_first(self, means: dict[str, float]) -> None:
        if self.at.update or (self.ranks.world > 1 and not means):
            return
        for plugin in self.stage.plugins:
            if "objective" in plugin.provides and not any(name.startswith(f"{plugin.name}.") for name in means):
                raise PluginError(
                    f"The plugin '{plugin.name}' declares an objective but returned no loss term that counts in the "
                    f"first update of the stage '{self.stage.plan.name}'."
                )
        if not means:
            raise PluginError(
                f"No plugin returned a loss term in the first update of the stage '{self.stage.plan.name}'."
            )

    def _count(self, steps: list[Step], portions: Shares) -> None:
        """Counts each term's elements over the epoch; at its end none may have had none."""
        for step in steps:
            for done in step.passes:
                for name, (_, factor) in done.terms.items():
                    self._counted[name] = self._counted.get(name, 0) + int(factor != 0)

    def _check_epoch(self) -> None:
        weighted = {name for parts in self.ranks.gather(self._counted) for name, count in parts.items() if count}
        silent = sorted(set(self._counted) - weighted)
        self._counted = {}
        if silent:
            raise DataError(
                f"The loss term '{silent[0]}' had no element, or the weight 0, in all of epoch {self.at.epoch + 1} "
                f"of the stage '{self.stage.plan.name}'; is any row labelled?"
            )

    # what is due after an update

    def _after_update(self, means: dict[str, float], *, end_of_epoch: bool, bar: Bar) -> None:
        plan, at = self.stage.plan, self.at
        grad_norm = means.pop("")
        self.sums.add(means)
        bar.advance(loss=sum(means.values()))
        at.finished = at.update >= self.stage.total_updates
        if end_of_epoch:
            self._check_epoch()
        if at.update % plan.log_every == 0 or at.finished:
            self._write_line(grad_norm)
        every = plan.evaluate_every
        if (at.update % every == 0 if every else end_of_epoch) or at.finished:
            self._evaluate()
        if at.update % plan.checkpoint_every == 0 or end_of_epoch or at.finished or self.context.stop.requested:
            self._save()
            self.context.stop.check()

    def _write_line(self, grad_norm: float) -> None:
        terms: dict[str, float] = {}
        for part in self.ranks.gather(self.sums.take()):
            for name, value in part.items():
                terms[name] = terms.get(name, 0.0) + value
        self.log.add(
            {
                "update": self.at.update,
                "epoch": self.at.epoch,
                "loss": sum(terms.values()),
                "terms": terms,
                "learning_rate": self.optimizer.param_groups[0]["lr"],
                "grad_norm": grad_norm,
            }
        )

    def _evaluate(self) -> None:
        if self.validation is None:
            return
        size = self.stage.plan.eval_batch_size
        with self.context.progress.bar("evaluating", math.ceil(len(self.validation) / size)) as bar:
            scores = evaluate(
                self.stage.student.module,
                self.validation,
                self.stage.task,
                self.ranks,
                batch_size=size,
                check=self.context.stop.check,
                bar=bar,
            )
        self.log.add({"update": self.at.update, "epoch": self.at.epoch, "evaluation": scores})
        score = scores[self._metric]
        if self.at.best is None or better(self._metric, score, self.at.best):
            self.at.best, self.at.best_update, self.at.worse = score, self.at.update, 0
            self._keep_weights()
        else:
            self.at.worse += 1
            self.at.finished |= (
                self.stage.plan.early_stopping is not None and self.at.worse >= self.stage.plan.early_stopping
            )

    def _keep_weights(self) -> None:
        if self.ranks.main and self.stage.plan.keep == "best":
            weights = {
                name: value.detach().cpu().clone().contiguous()
                for name, value in self.stage.student.module.state_dict().items()
            }
            with new_folder(self.best_weights) as draft:
                save_file(weights, draft / "weights.safetensors")

    # checkpoints

    def _save(self) -> None:
        if self.ranks.main:
            state = {
                "position": {field.name: getattr(self.at, field.name) for field in fields(Position)},
                "stage": self.stage.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "sums": self.sums.state_dict(),
                "counted": dict(self._counted),
                "log": self.log.size,
                "random": checkpoint.random_state(),
            }
            checkpoint.save(self.folder / "checkpoints", self.at.update, state)
        self.ranks.wait()

    def _resume(self) -> None:
        state = checkpoint.load_newest(self.folder / "checkpoints", self.context.progress.note)
        if state is None:
            self.log.cut(0)
            return
        self.at = Position(**state["position"])
        self.stage.load_state_dict(state["stage"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.sums.load_state_dict(state["sums"])
        self._counted = state["counted"]
        self.log.cut(state["log"])
        checkpoint.set_random_state(state["random"])

    def _rows(self, split: str) -> Examples:
        rows = self.stage.examples(split)
        if rows is None:
            raise DataError(f"The stage '{self.stage.plan.name}' trains, and the recipe names no data.{split}.")
        return rows
