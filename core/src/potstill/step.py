"""One micro-batch: what plugins see of it, and its gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from potstill.batch import TARGET, Batch, Unit
from potstill.errors import ModelError, PluginError, TrainingError
from potstill.features import LOGITS
from potstill.observe import Outputs
from potstill.patches import Patch
from potstill.plugin import LossTerm
from potstill.references import teacher_side
from potstill.shares import Shares

if TYPE_CHECKING:
    from potstill.stage import Stage


Run = tuple[int, tuple[Patch, ...], int | None]
"""What tells one forward pass of a model from another: the batch (its id), the patches and where it ends."""


class Weighed(NamedTuple):
    """A loss term of one pass: its value, detached, and the factor (weight * share) it was summed with."""

    value: Tensor
    factor: float
    per: Unit


@dataclass(frozen=True)
class Pass:
    """The loss terms of one pass.

    Attributes:
        tag: names the pass; "clean" is the ordinary one.
        terms: by name.
        counted: names of the terms that count somewhere in the update, maybe in other micro-batches only.
    """

    tag: str
    terms: dict[str, Weighed]
    counted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Update:
    """What `on_update` is told: one optimizer update is over.

    Attributes:
        number: updates tried so far, this one included.
        applied: whether the weights were changed (a precision plugin may skip an update that overflowed).
        applied_updates: updates that changed the weights so far.
        total: updates of the whole stage.
    """

    stage: Stage
    number: int
    applied: bool
    applied_updates: int
    total: int


@dataclass
class Isolated:
    """Gradients made inside `Step.isolated`: `grads` when the block is over, added only after `commit()`.

    The passes of a block that is not committed are not in the log either.
    """

    grads: list[Tensor | None]
    committed: bool = False

    def commit(self) -> None:
        """Adds these gradients to the accumulated ones when the block ends."""
        self.committed = True


class Step:
    """One micro-batch on its way through models, losses and gradients.

    Attributes:
        stage: the stage.
        batch: the batch of the pass under way, on the device.
        update: number of the update this belongs to, from 0.
        micro: number of the micro-batch in the update, from 0.
    """

    def __init__(self, stage: Stage, batch: Batch, shares: Shares, update: int, micro: int) -> None:
        self.stage = stage
        self.batch = batch
        self.update = update
        self.micro = micro
        self.passes: list[Pass] = []
        self._shares = shares
        self._own = batch
        # A batch is kept beside its outputs, so that no other one takes its id.
        self._teacher: dict[tuple[Run, str], tuple[Batch, Outputs]] = {}
        self._student: dict[Run, tuple[Batch, Outputs]] = {}

    def teacher(
        self,
        batch: Batch | None = None,
        of: str | None = None,
        patches: Sequence[Patch] = (),
        until: int | None = None,
    ) -> Outputs:
        """A teacher's outputs for a batch (this step's by default), without gradient.

        Computed once for each batch, patches and end in a step, over all passes; logits that are all anybody looks
        at, once a row (`Stage.ask_teacher`).

        Args:
            of: the teacher's name; left out, the only one, or the mean of all teachers' logits.
            patches: what is written over parts of layers' outputs.
            until: the run ends after this layer; nothing above it is computed.

        Raises:
            ModelError: patches or an end for several teachers at once, or a layer that is not there.
            ShapeError: a patch that does not fit.
        """
        batch = self.batch if batch is None else batch
        whole = not patches and until is None
        names = (of,) if of is not None else self.stage.teacher_names
        if len(names) > 1 and not whole:
            raise ModelError(
                f"The stage '{self.stage.plan.name}' has the teachers {', '.join(names)}; say with of= which one is "
                "patched or ends early."
            )
        side = teacher_side(names[0] if len(names) == 1 else "")
        run = (id(batch), tuple(patches), until)
        if (run, side) not in self._teacher:
            outputs = self._mean_of_teachers(batch) if len(names) > 1 else self._ask_teacher(batch, side, run)
            self._teacher[run, side] = (batch, outputs)
        return self._teacher[run, side][1]

    def _mean_of_teachers(self, batch: Batch) -> Outputs:
        every = [self.teacher(batch, name) for name in self.stage.teacher_names]
        return every[0].with_logits(torch.stack([outputs.logits for outputs in every]).mean(0))

    def _ask_teacher(self, batch: Batch, side: str, run: Run) -> Outputs:
        _, patches, until = run
        whole = not patches and until is None
        known = self.stage.known_outputs(batch) if batch is self._own and side == "teacher" and whole else None
        if known is not None:
            return known
        with torch.no_grad(), self.stage.precision.teacher():
            raw, outputs = self.stage.observer(side)(batch.teacher, patches, until)
        return self.stage.with_logits(raw, outputs)

    def student(self, batch: Batch | None = None, patches: Sequence[Patch] = (), until: int | None = None) -> Outputs:
        """The student's outputs for a batch (this step's by default), with gradient.

        Computed once for each batch, patches and end in a pass. Patches that hold an earlier run's outputs lead the
        gradient into that run too.

        Args:
            patches: what is written over parts of layers' outputs.
            until: the run ends after this layer; nothing above it is computed.

        Raises:
            ModelError: a layer that is not there.
            ShapeError: a patch that does not fit.
        """
        batch = self.batch if batch is None else batch
        run = (id(batch), tuple(patches), until)
        if run not in self._student:
            with self.stage.precision.forward():
                raw, outputs = self.stage.observer("student")(batch.student, patches, until)
            self._student[run] = (batch, self.stage.with_logits(raw, outputs))
        return self._student[run][1]

    def supervised(self) -> LossTerm:
        """The task's own loss on the labels that are there, a mean per target."""
        return LossTerm("supervised", self.stage.task.loss(self.student()[LOGITS], self.batch), per=TARGET)

    def gradients(self, tag: str = "clean", batch: Batch | None = None) -> Pass:
        """One pass: forward, every plugin's terms, their weighted sum, backward. Adds to `.grad`.

        Args:
            tag: names the pass in the log; "clean" for the ordinary one.
            batch: another batch for this pass.
        """
        before, self.batch = self.batch, self.batch if batch is None else batch
        self._student.clear()
        try:
            terms = self.terms()
            factors = {name: term.weight * self._shares.share(term.per, self.micro) for name, term in terms.items()}
            loss = _weighted_sum(terms, factors)
            if loss is not None:
                self.stage.precision.backward(loss)
        finally:
            self.batch = before
            self._student.clear()
        done = Pass(
            tag,
            {name: Weighed(term.value.detach(), factors[name], term.per) for name, term in terms.items()},
            tuple(name for name, term in terms.items() if term.weight and self._shares.totals[term.per.name]),
        )
        self.passes.append(done)
        return done

    def release(self) -> None:
        """Drops the models' outputs, which nobody needs when the micro-batch is done; its passes stay."""
        self._teacher.clear()
        self._student.clear()

    @contextmanager
    def isolated(self) -> Iterator[Isolated]:
        """Sets the accumulated gradients aside, so that `.grad` inside holds only what is made inside."""
        parameters = self.stage.parameters
        aside = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        handle, before = Isolated([]), len(self.passes)
        try:
            yield handle
        finally:
            if not handle.committed:
                del self.passes[before:]
            handle.grads = [parameter.grad for parameter in parameters]
            for parameter, old, new in zip(parameters, aside, handle.grads, strict=True):
                keep = new if handle.committed else None
                parameter.grad = old if keep is None else keep if old is None else old.add_(keep)

    def terms(self) -> dict[str, LossTerm]:
        """Every plugin's loss terms for the batch, by name.

        Raises:
            PluginError: a term that is no scalar, or a mean of an unknown unit.
        """
        terms: dict[str, LossTerm] = {}
        for returned in self.stage.hook.compute_loss(step=self):
            for term in returned or ():
                if term.per not in self.stage.units:
                    raise PluginError(
                        f"The loss term '{term.name}' is a mean per '{term.per.name}', which is not known here; "
                        "call stage.add_unit(unit) in setup."
                    )
                if not isinstance(term.value, Tensor) or term.value.dim():
                    shape = list(term.value.shape) if isinstance(term.value, Tensor) else type(term.value).__name__
                    raise PluginError(f"The value of the loss term '{term.name}' must be a scalar tensor, not {shape}.")
                terms[term.name] = term
        return terms


def _weighted_sum(terms: dict[str, LossTerm], factors: dict[str, float]) -> Tensor | None:
    """The sum of the terms that count here; a term without an element is left out, so that its NaN is too."""
    loss: Tensor | None = None
    for name, factor in factors.items():
        if factor:
            value = terms[name].value
            loss = value * factor if loss is None else torch.add(loss, value, alpha=factor)
    if loss is not None and not loss.requires_grad:
        raise TrainingError(f"The loss ({', '.join(terms)}) does not depend on what is trained: it has no gradient.")
    return loss
