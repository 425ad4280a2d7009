"""The optimizer's parameters, and the core's own ways to build, clip and step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from potstill.errors import TrainingError
from potstill.recipe import StagePlan

Groups = list[dict[str, Any]]
MakeOptimizer = Callable[[Groups, StagePlan], Optimizer]
"""Slot "optimizer": parameter groups and the stage's plan -> optimizer."""
Clip = Callable[[list[Tensor]], Tensor]
"""Slot "clip": the trained parameters -> the norm of their gradients before clipping, a scalar."""


def parameter_groups(modules: Iterable[nn.Module], weight_decay: float) -> Groups:
    """The trainable parameters in two groups: with weight decay, and biases and norms without.

    What is a norm is told by the module's type, not by a parameter's name: "LayerNorm.weight" misses
    `sa_layer_norm`, `output_layer_norm` and others.
    """
    decayed: list[Tensor] = []
    plain: list[Tensor] = []
    for module, name, parameter in _own_parameters(modules):
        kept_free = name.startswith("bias") or name.endswith("bias") or _is_norm(module)
        (plain if kept_free else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


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

    A plugin that claims the slot subclasses this.
    """

    def forward(self) -> AbstractContextManager[Any]:
        """Around every forward pass of the student and every loss."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of one pass."""
        torch.autograd.backward(loss)

    def unscale(self, optimizer: Optimizer) -> None:
        """Once an update, before clipping, when all gradients are summed."""

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
