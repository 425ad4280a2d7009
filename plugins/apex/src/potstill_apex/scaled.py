"""The slot "precision" by apex.amp, which NVIDIA deleted in May 2025: for those who still have it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from potstill.errors import TrainingError
from potstill.optimizer import Precision

if TYPE_CHECKING:
    from potstill.data.examples import Examples
    from potstill.stage import Stage

FLOOR = 2.0**-10
"""A scale of the loss below this helps no gradient."""


class Scaled(Precision):
    """opt_level O1 (functions cast, weights in float32) or O2 (weights in float16, master weights in float32).

    The teacher computes in float32.
    """

    def __init__(self, amp: ModuleType, opt_level: str) -> None:
        self._amp = amp
        self._level = opt_level
        self._optimizer: Optimizer | None = None
        self._known: dict[str, Any] | None = None
        self._overflowed = False

    def prepare(self, stage: Stage, rows: Examples, optimizer: Optimizer) -> None:
        models = [stage.student.module, *stage.modules.values()]
        self._amp.initialize(models, optimizer, opt_level=self._level, verbosity=0)
        # Makes the master weights now; made by the first unscaling, they would drop the gradients that are there.
        optimizer.zero_grad()
        self._optimizer = optimizer
        self._cast(False)
        if self._known is not None:
            self._amp.load_state_dict(self._known["scaler"])
            with torch.no_grad():
                for master, value in zip(self._masters(), self._known["masters"], strict=True):
                    master.copy_(value)
        stage.exit.callback(self._leave, models)

    def _leave(self, models: Sequence[nn.Module]) -> None:
        """Gives functions and models back as they were; the weights are float32 again."""
        if self._level == "O1":
            self._amp._amp_state.handle._deactivate()
            return
        for model in models:
            model.float()
            model.__dict__.pop("forward", None)

    def forward(self) -> AbstractContextManager[Any]:
        return self._casting() if self._level == "O1" and self._optimizer is not None else nullcontext()

    def teacher(self) -> AbstractContextManager[Any]:
        return nullcontext()

    @contextmanager
    def _casting(self) -> Iterator[None]:
        self._cast(True)
        try:
            yield
        finally:
            self._cast(False)

    def _cast(self, active: bool) -> None:
        """O1 replaces torch's functions for everybody; only the student is to be cast."""
        if self._level == "O1":
            self._amp._amp_state.handle._is_active = active

    def backward(self, loss: Tensor) -> None:
        with self._amp.scale_loss(loss, self._optimizer, delay_unscale=True) as scaled:
            super().backward(scaled)

    def unscale(self, optimizer: Optimizer) -> None:
        before, nothing = self._scale, torch.zeros(())
        # apex unscales where a backward pass ends: one of nothing, after all others of the update. The first says
        # that gradients are scaled, also on a rank that had no rows and got them from the others.
        with self._amp.scale_loss(nothing, optimizer, delay_unscale=True):
            pass
        with self._amp.scale_loss(nothing, optimizer):
            pass
        self._overflowed = self._scale < before

    def clipped(self, parameters: list[Tensor]) -> list[Tensor]:
        return list(self._amp.master_params(self._optimizer)) if self._level == "O2" else parameters

    def step(self, optimizer: Optimizer, norm: float) -> bool:
        try:
            if not self._overflowed:
                return super().step(optimizer, norm)
            optimizer.step()  # apex has put a function there that does nothing, once
        finally:
            self._cast(False)  # which apex's step leaves on
        if self._scale < FLOOR:
            raise TrainingError(
                f"the gradients overflow in float16 even where the loss is scaled by {2 * self._scale:g}; leave "
                "opt_level out of [stage.apex]"
            )
        return False

    @property
    def _scale(self) -> float:
        return float(self._amp.state_dict()["loss_scaler0"]["loss_scale"])

    def _masters(self) -> list[Tensor]:
        return list(self._amp.master_params(self._optimizer)) if self._level == "O2" else []

    def state_dict(self) -> dict[str, Any]:
        # The student's weights in a checkpoint are the masters' rounded.
        return {"scaler": self._amp.state_dict(), "masters": self._masters()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._known = state  # there is no scaler before `prepare`
