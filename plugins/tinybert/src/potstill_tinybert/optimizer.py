"""BertAdam, the optimizer of the first BERT code, to repeat what was trained with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class BertAdam(Optimizer):
    """Adam without bias correction; the weight decay is part of the update that the learning rate scales.

    p ← p − lr · (m / (√v + ε) + decay · p), with m ← β₁m + (1 − β₁)g and v ← β₂v + (1 − β₂)g². The first updates
    are larger than AdamW's by up to (1 − β₁) / √(1 − β₂) = 3.2, which is why it was used with a warm-up.

    Args:
        params: parameters, or groups with a `weight_decay` each.
        lr: the learning rate.
        betas: β₁ and β₂.
        eps: ε.
        weight_decay: of groups that name none.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update; parameters without a gradient stay as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        first, second = group["betas"]
        mean = state["mean"].lerp_(gradient, 1 - first)
        square = state["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        if group["weight_decay"]:
            # Before the step, so that it decays what the gradient was taken at.
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.addcdiv_(mean, square.sqrt().add_(group["eps"]), value=-group["lr"])


def clip_each(limit: float | None) -> Callable[[list[Tensor]], Tensor]:
    """Scales each parameter's gradient by itself to a norm of at most `limit`; None and 0 only measure.

    Returns: a function of the trained parameters that clips and gives the norm of all gradients together before.
    """

    def clip(parameters: list[Tensor]) -> Tensor:
        norms = []
        for parameter in parameters:
            if parameter.grad is not None:
                norm = nn.utils.get_total_norm([parameter.grad])
                norms.append(norm)
                if limit:
                    nn.utils.clip_grads_with_norm_([parameter], limit, norm)
        return torch.stack(norms).norm() if norms else torch.zeros(())

    return clip
