"""The optimizer's parameters, and the core's own ways to build, clip and step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from potstill.errors import TrainingError
from potstill.recipe import StagePlan

if TYPE_CHECKING:
    from potstill.data.examples import Examples
    from potstill.stage import Stage

Groups = list[dict[str, Any]]
MakeOptimizer = Callable[[Groups, StagePlan], Optimizer]
"""Slot "optimizer": parameter groups and the stage's plan -> optimizer."""
Clip = Callable[[list[Tensor]], Tensor]
"""Slot "clip": the trained parameters -> the norm of their gradients before clipping, a scalar."""


def parameter_groups(modules: Iterable[nn.Module], plan: StagePlan, rates: Mapping[Tensor, float]) -> Groups:
    """The trainable parameters in groups: with weight decay, and biases and norms without.

    What is a norm is told by the module's type, not by a parameter's name: "LayerNorm.weight" misses
    `sa_layer_norm`, `output_layer_norm` and others.

    Args:
        plan: of the stage; its learning rate and weight decay.
        rates: factors of the learning rate of some parameters, in groups of their own behind the others. One that
            is 0 leaves the parameter as it is, decay included.
    """
    found: dict[tuple[float, bool], list[Tensor]] = {(1.0, True): [], (1.0, False): []}
    for module, name, parameter in _own_parameters(modules):
        kept_free = name.startswith("bias") or name.endswith("bias") or _is_norm(module)
        rate = rates.get(parameter, 1.0)
        found.setdefault((rate, not kept_free and rate > 0), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": plan.weight_decay if decayed else 0.0,
            **({} if rate == 1 else {"lr": plan.learning_rate * rate}),
        }
        for (rate, decayed), parameters in found.items()
        if parameters
    ]


def _own_parameters(modules: Iterable[nn.Module]) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    seen: set[nn.Parameter] = set()
    for root in modules:
        for module in root.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.requires_grad and parameter not in seen:
                    seen.add(parameter)
                    yield module, name, parameter


def _is_norm(module: nn.Module) -> bool:
    known = nn.LayerNorm | nn.GroupNorm | nn.RMSNorm | nn.modules.batchnorm._NormBase
    return isinstance(module, known) or type(module).__name__.endswith("Norm")


def adamw(groups: Groups, plan: StagePlan) -> Optimizer:
    """AdamW in its fused form, the core's optimizer."""
    return AdamW(groups, lr=plan.learning_rate, betas=plan.betas, eps=plan.epsilon, fused=True)


def clip_norm(limit: float | None) -> Clip:
    """Scales the gradients so that their global norm is at most `limit`; None and 0 only measure it."""

    def clip(parameters: list[Tensor]) -> Tensor:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if limit:
            nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        return norm

    return clip


class Precision:
    """Slot "precision": in what numbers to compute, and how to step. This one is full precision.

    A plugin that claims the slot subclasses this. Models run inside `forward` and `teacher`; losses do not: what a
    model gives in half precision is widened to float32 before any plugin sees it.
    """

    @property
    def key(self) -> str:
        """In what numbers teachers compute, for what is kept of their answers."""
        return "float32"

    def prepare(self, stage: Stage, rows: Examples, optimizer: Optimizer) -> None:
        """Once, before the first pass, after `load_state_dict` where the stage goes on from a checkpoint.

        Also where that is its last one: what is left then is to score.

        Args:
            rows: the training rows.
        """

    def forward(self) -> AbstractContextManager[Any]:
        """Around every forward pass of the student."""
        return nullcontext()

    def teacher(self) -> AbstractContextManager[Any]:
        """Around every forward pass of a teacher."""
        return self.forward()

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of one pass."""
        torch.autograd.backward(loss)

    def unscale(self, optimizer: Optimizer) -> None:
        """Once an update, before clipping, when all gradients are summed."""

    def clipped(self, parameters: list[Tensor]) -> list[Tensor]:
        """The tensors whose gradients are clipped, where they are others than the trained parameters."""
        return parameters

    def step(self, optimizer: Optimizer, norm: float) -> bool:
        """Steps, and says whether the weights were changed.

        Args:
            norm: of the gradients before clipping.

        Raises:
            TrainingError: the gradients are not finite.
        """
        if not math.isfinite(norm):
            raise TrainingError(f"the norm of the gradients is {norm}, although every loss term is finite")
        optimizer.step()
        return True

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
