"""The slot "precision": autocast around the student, a scaled loss in float16, and a converted teacher."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from potstill.checkpoint import own_random
from potstill.errors import TrainingError
from potstill.optimizer import Precision
from potstill_amp.choice import Times, fastest, measured, try_out
from potstill_amp.teacher import check, lowered, sentence

if TYPE_CHECKING:
    from potstill.data.examples import Examples
    from potstill.stage import Stage
    from potstill_amp.plugin import Amp

FLOOR = 2.0**-10
"""A scale of the loss below this helps no gradient: what overflows here is not a number in float32 either."""


class Mixed(Precision):
    """What `Amp.Config` says, on one device.

    Attributes:
        dtype: what the student computes in; "auto" until `prepare` has chosen.
        skipped: updates that overflowed in float16 and changed nothing.
    """

    def __init__(self, config: Amp.Config, device: str) -> None:
        self.config = config
        self.dtype: str = config.dtype
        self.skipped = 0
        self._device = device
        self._times: Times = {}
        self._teacher = "float32"
        self._scaler = torch.amp.GradScaler(
            device, init_scale=config.init_scale, growth_interval=config.growth_interval
        )
        self._scaled = False

    @property
    def key(self) -> str:
        return f"{self._teacher} with tf32" if self._tf32 else self._teacher

    @property
    def _tf32(self) -> bool:
        return self.config.tf32 and self._device == "cuda"

    # before the first pass

    def prepare(self, stage: Stage, rows: Examples, optimizer: Optimizer) -> None:
        if self._tf32:
            allow_tf32(stage.exit)
        with own_random(stage.seed):
            if self.dtype == "auto":
                self._choose(stage, rows)
            elif self.dtype != "float32":
                try_out(stage, rows, self.dtype)
            self._lower_teachers(stage, rows)
        told = stage.explained.setdefault("amp", {})
        told |= {"dtype": self.dtype} | ({"seconds_a_step": self._times} if self._times else {})
        if stage.looks_at_teacher:
            told["teacher_dtype"] = self._teacher
        if self.dtype == "float16":
            # A rank without rows in the first update scales nothing, and has to unscale.
            self._scaler.scale(torch.zeros((), device=self._device))
            stage.exit.callback(self._tell_skipped, stage.progress.note, stage.plan.name, told)

    def _choose(self, stage: Stage, rows: Examples) -> None:
        self._times = measured(stage, rows)
        self.dtype = fastest(self._times)
        told = ", ".join(
            f"{dtype} {'given up' if seconds is None else f'{1000 * seconds:.3g} ms'}"
            for dtype, seconds in self._times.items()
        )
        stage.progress.note(f"{stage.plan.name}: amp computes in {self.dtype} (a step of the student: {told}).")

    def _lower_teachers(self, stage: Stage, rows: Examples) -> None:
        wanted = self.dtype if self.config.teacher_dtype == "auto" else self.config.teacher_dtype
        if wanted == "float32" or not stage.looks_at_teacher:
            return
        found = lowered(stage, rows, getattr(torch, wanted))
        self._teacher = wanted
        if found is not None:
            check(found, wanted, self.config.teacher_tolerance)
            stage.progress.note(f"{stage.plan.name}: {sentence(found, wanted, self.config.teacher_tolerance)}")

    def _tell_skipped(self, note: Any, stage: str, told: dict[str, Any]) -> None:
        told["skipped_updates"] = self.skipped
        if self.skipped:
            note(
                f"{stage}: updates skipped since they overflowed in float16: {self.skipped}; the loss was scaled by "
                f"{self._scaler.get_scale():g} at the end."
            )

    # a step

    def forward(self) -> AbstractContextManager[Any]:
        if self.dtype in ("auto", "float32"):
            return nullcontext()
        return torch.autocast(self._device, getattr(torch, self.dtype))

    def teacher(self) -> AbstractContextManager[Any]:
        return nullcontext()  # its weights themselves are converted

    def backward(self, loss: Tensor) -> None:
        super().backward(self._scaler.scale(loss) if self.dtype == "float16" else loss)

    def unscale(self, optimizer: Optimizer) -> None:
        gradients = (parameter.grad for group in optimizer.param_groups for parameter in group["params"])
        self._scaled = self.dtype == "float16" and any(gradient is not None for gradient in gradients)
        if self._scaled:
            self._scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer, norm: float) -> bool:
        if not self._scaled:
            return super().step(optimizer, norm)
        before = self._scaler.get_scale()
        if math.isfinite(norm):
            self._scaler.step(optimizer)
        self._scaler.update()
        after = self._scaler.get_scale()
        if after < before:  # an overflow: nothing was stepped
            self.skipped += 1
            _check_scale(after, before)
            return False
        if not math.isfinite(norm):  # a norm that no overflow accounts for is the core's business
            return super().step(optimizer, norm)
        return True

    # checkpoints

    def state_dict(self) -> dict[str, Any]:
        return {
            "dtype": self.dtype,
            "times": self._times,
            "skipped": self.skipped,
            "scaler": self._scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.dtype, self._times, self.skipped = state["dtype"], state["times"], state["skipped"]
        self._scaler.load_state_dict(state["scaler"])


def _check_scale(scale: float, before: float) -> None:
    """Raises: TrainingError where the loss is scaled by so little that a smaller scale will not help either."""
    if scale < FLOOR:
        raise TrainingError(
            f"the gradients overflow in float16 even where the loss is scaled by {before:g}; set "
            'dtype = "bfloat16" or "float32" in [stage.amp]'
        )


def allow_tf32(until: ExitStack) -> None:
    """Lets CUDA's matrix products and convolutions use TensorFloat-32 until the stack is closed."""
    settings: Any
    for settings in (torch.backends.cuda.matmul, torch.backends.cudnn):
        until.callback(setattr, settings, "allow_tf32", settings.allow_tf32)
        settings.allow_tf32 = True
