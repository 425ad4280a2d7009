"""The books of a stage's loss terms: their means for the log; none not finite, none silently zero."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import torch
from torch import Tensor

from potstill.batch import BATCH
from potstill.errors import DataError, PluginError, TrainingError
from potstill.records import Sums, means_over_ranks
from potstill.stage import Stage
from potstill.step import Pass, Step


class TermBook:
    """What became of every loss term, over one update, one log line and one epoch."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._name = stage.plan.name
        self._ranks = stage.context.ranks
        self._sums = Sums()
        self._counted: Counter[str] = Counter()

    def read(self, steps: list[Step], norm: Tensor, update: int) -> tuple[dict[str, float], float]:
        """Each term's mean over an update on this rank, and the gradients' norm: the one wait for the device.

        Args:
            steps: the update's micro-batches.
            norm: of the gradients, a scalar on the device.
            update: its number, from 0.

        Raises:
            TrainingError: a term that is not finite.
        """
        names, values, owners = [], [norm.detach().float()], []
        for step in steps:
            for done in step.passes:
                for name, term in done.terms.items():
                    if term.factor:
                        names.append((_told(name, done), term.factor))
                        values.append(term.value.float())
                        owners.append(step)
        grad_norm, *numbers = torch.stack(values).tolist()
        # A term that has its elements on other ranks only is there too, with 0, so that every rank knows of it.
        means = {_told(name, done): 0.0 for step in steps for done in step.passes for name in done.counted}
        faults = []
        for (name, factor), number, step in zip(names, numbers, owners, strict=True):
            if not math.isfinite(number):
                faults.append(self._not_finite(name, number, step, update))
            means[name] += number * factor
        if not math.isfinite(grad_norm):  # so it is on every rank, while the term at fault may be another rank's
            faults = [fault for part in self._ranks.gather(faults) for fault in part]
        if faults:
            raise TrainingError(faults[0])
        if update == 0:
            self._check_first(steps)
        self._count(steps)
        self._sums.add(means)
        return means, grad_norm

    def line(self) -> dict[str, float]:
        """Each term's mean since the last line, weighted, over all ranks."""
        return means_over_ranks(self._ranks.gather(self._sums.take()))

    def close_epoch(self, epoch: int) -> None:
        """Checks that every term had an element in the epoch, on some rank.

        Raises:
            DataError: one had none.
        """
        parts = self._ranks.gather(self._counted)
        self._counted = Counter()
        silent = sorted(name for name in set().union(*parts) if not any(part[name] for part in parts))
        if silent:
            raise DataError(
                f"The loss term '{silent[0]}' had no element, or the weight 0, in all of epoch {epoch + 1} "
                f"of the stage '{self._name}'; is any row labelled?"
            )

    def state_dict(self) -> dict[str, Any]:
        """The books of all ranks as one, which the first rank goes on with."""
        sums, counted = Sums(), Counter[str]()
        for number, (part, count) in enumerate(self._ranks.gather((self._sums, self._counted))):
            if number == 0:
                sums.updates = dict(part.updates)
            for name, value in part.values.items():
                sums.values[name] = sums.values.get(name, 0.0) + value
            # not `counted + count`, which forgets the names that stand at 0
            counted.update(count)
        return {"sums": sums.state_dict(), "counted": dict(counted)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        if self._ranks.main:
            self._sums.load_state_dict(state["sums"])
            self._counted = Counter(state["counted"])

    def _count(self, steps: list[Step]) -> None:
        """In how many passes each term counted."""
        for step in steps:
            for done in step.passes:
                for name in done.terms:
                    self._counted[name] += int(name in done.counted)

    def _check_first(self, steps: list[Step]) -> None:
        # A term whose unit this one update has none of is no fault: a batch without labelled rows is ordinary.
        here = {name for step in steps for done in step.passes for name in done.terms}
        names = {name for part in self._ranks.gather(here) for name in part}
        for plugin in self._stage.plugins:
            if "objective" in plugin.provides and not any(name.startswith(f"{plugin.name}.") for name in names):
                raise PluginError(
                    f"The plugin '{plugin.name}' declares an objective but returned no loss term in the first update "
                    f"of the stage '{self._name}'."
                )
        if not names:
            raise PluginError(f"No plugin returned a loss term in the first update of the stage '{self._name}'.")
        self._warn_of_cuts(steps)

    def _warn_of_cuts(self, steps: list[Step]) -> None:
        terms = {name: term for step in steps for done in step.passes for name, term in done.terms.items()}
        across = sorted(name for name, term in terms.items() if term.per == BATCH)
        if across and (len(steps) > 1 or self._ranks.world > 1):
            self._stage.progress.note(
                f"{self._name}: the loss term '{across[0]}' compares the rows of a micro-batch with each other, so it "
                "changes where an update is cut into micro-batches or spread over processes; no weighing undoes that."
            )

    def _not_finite(self, name: str, number: float, step: Step, update: int) -> str:
        rows = step.batch.index.tolist()
        shown = ", ".join(map(str, rows[:8])) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
        return (
            f"The loss term '{name}' became {number} in update {update + 1} of the stage '{self._name}' "
            f"(rows {shown} of the training data); the last checkpoint is kept."
        )


def _told(name: str, done: Pass) -> str:
    """A term's name in the log: other passes than the clean one are told apart by their tag."""
    return name if done.tag == "clean" else f"{name}[{done.tag}]"
