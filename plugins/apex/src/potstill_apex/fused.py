"""apex's fused optimizers and layer norms in the place of torch's."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer

if TYPE_CHECKING:
    from potstill.optimizer import Groups
    from potstill.recipe import StagePlan

NO_CLIP = 1e30
"""A norm that no gradient has: the engine has clipped already when LAMB would."""


def maker(apex: ModuleType, kind: str) -> Callable[[Groups, StagePlan], Optimizer]:
    """A maker of "adam" (FusedAdam, decoupled weight decay) or "lamb" (FusedLAMB) for the slot "optimizer"."""

    def make(groups: Groups, plan: StagePlan) -> Optimizer:
        numbers: dict[str, Any] = {"lr": plan.learning_rate, "betas": plan.betas, "eps": plan.epsilon}
        made: Optimizer = (
            apex.optimizers.FusedAdam(groups, adam_w_mode=True, **numbers)
            if kind == "adam"
            else apex.optimizers.FusedLAMB(groups, adam_w_mode=True, max_grad_norm=NO_CLIP, **numbers)
        )
        return made

    return make


def exchange(module: nn.Module, old: type[nn.Module], new: Callable[..., nn.Module]) -> int:
    """Puts layer norms of another kind, with the very same parameters, where those of exactly the type `old` are.

    One with a weight and no bias stays, since apex's has both or none.

    Returns: how many were exchanged.
    """
    found = [
        (parent, name, norm)
        for parent in module.modules()
        for name, norm in parent.named_children()
        if type(norm) is old and (norm.weight is None) == (norm.bias is None)
    ]
    for parent, name, norm in found:
        other = new(norm.normalized_shape, eps=norm.eps, elementwise_affine=norm.weight is not None)
        other.weight, other.bias = norm.weight, norm.bias
        setattr(parent, name, other.train(norm.training))
    return len(found)
