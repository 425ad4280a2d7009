"""NOT apex: a stand-in with the interface of NVIDIA apex, on torch, so that the wiring can be tested without a GPU.

It has apex's names, signatures and habits that a caller can trip over: `zero_grad` and `step` without arguments, casts
that are on outside the model too, steps that switch them on again, master weights that are made late and drop
gradients, gradients that a backward pass sets aside unless the one before delayed its unscaling.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType, SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LINEAR = F.linear


class FusedAdam(torch.optim.AdamW):
    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        bias_correction: bool = True,
        betas: Any = (0.9, 0.999),
        eps: float = 1e-8,
        adam_w_mode: bool = True,
        weight_decay: float = 0.0,
    ) -> None:
        assert adam_w_mode
        assert bias_correction
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def zero_grad(self) -> None:  # type: ignore[override]
        super().zero_grad()


class FusedLAMB(FusedAdam):
    """Remembers what it would clip at; steps as Adam does."""

    def __init__(self, params: Any, max_grad_norm: float = 1.0, **more: Any) -> None:
        super().__init__(params, **more)
        self.defaults["max_grad_norm"] = max_grad_norm


class FusedLayerNorm(nn.Module):
    def __init__(
        self,
        normalized_shape: Any,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        memory_efficient: bool = False,
    ) -> None:
        super().__init__()
        self.normalized_shape = torch.Size(normalized_shape)
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(self.normalized_shape)) if elementwise_affine else None
        self.bias = nn.Parameter(torch.zeros(self.normalized_shape)) if elementwise_affine else None

    def forward(self, features: Tensor) -> Tensor:
        return F.layer_norm(features, self.normalized_shape, self.weight, self.bias, self.eps)


class Handle:
    """What O1 replaced: here `F.linear` alone, which casts to float16 while the handle is active."""

    def __init__(self) -> None:
        self._is_active = True

        def linear(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
            if not self._is_active:
                return LINEAR(features, weight, bias)
            return LINEAR(features.half(), weight.half(), None if bias is None else bias.half())

        F.linear = linear  # type: ignore[assignment]

    def _deactivate(self) -> None:
        F.linear = LINEAR  # type: ignore[assignment]


class Amp(SimpleNamespace):
    """The module `apex.amp`."""

    def __init__(self) -> None:
        super().__init__(_amp_state=SimpleNamespace(handle=None, level=None))
        self._scale, self._unskipped, self.window = 2.0**16, 0, 2000

    def initialize(self, models: Any, optimizers: Any = None, opt_level: str = "O1", verbosity: int = 1) -> Any:
        assert not hasattr(optimizers, "stash"), "an optimizer is initialized once"
        self._scale, self._unskipped = 2.0**16, 0
        self._amp_state.level = opt_level
        optimizers.stash = SimpleNamespace(ready=opt_level == "O1", scaled=False, halves=[], masters=[], aside=[])
        if opt_level == "O2":
            for model in models:
                _halve(model)
            _with_masters(optimizers)
        else:
            self._amp_state.handle = Handle()
            plain = optimizers.step

            def step(optimizer: Any) -> None:
                plain()
                self._amp_state.handle._is_active = True

            optimizers.step = MethodType(step, optimizers)
        return models, optimizers

    @contextmanager
    def scale_loss(
        self, loss: Tensor, optimizers: Any, loss_id: int = 0, model: Any = None, delay_unscale: bool = False
    ) -> Iterator[Tensor]:
        stash = optimizers.stash
        if not delay_unscale and not stash.scaled:
            _make_ready(optimizers)
            stash.aside = [(one, one.grad) for one in _models_own(optimizers)]
            for one, _ in stash.aside:
                one.grad = None
        yield loss.float() * self._scale
        stash.scaled = delay_unscale
        if not delay_unscale:
            self._unscale(optimizers)

    def _unscale(self, optimizer: Any) -> None:
        stash = optimizer.stash
        _make_ready(optimizer)
        for half, master in zip(stash.halves, stash.masters, strict=True):
            master.grad = None if half.grad is None else half.grad.float()
        gradients = [one.grad for one in self.master_params(optimizer) if one.grad is not None]
        overflow = not all(bool(one.isfinite().all()) for one in gradients)
        for one in gradients:
            one.div_(self._scale)
        for one, before in stash.aside:
            if before is not None and one not in stash.halves:
                one.grad = before if one.grad is None else one.grad + before
        stash.aside = []
        self._update(optimizer, overflow)

    def _update(self, optimizer: Any, overflow: bool) -> None:
        self._unskipped = 0 if overflow else self._unskipped + 1
        if overflow:
            self._scale /= 2
            self._skip_next(optimizer)
        elif self._unskipped == self.window:
            self._scale, self._unskipped = 2 * self._scale, 0

    def _skip_next(self, optimizer: Any) -> None:
        step = optimizer.step

        def nothing(optimizer: Any) -> None:
            optimizer.step = step
            for master in optimizer.stash.masters:
                master.grad = None

        optimizer.step = MethodType(nothing, optimizer)

    def master_params(self, optimizer: Any) -> Iterator[Tensor]:
        for group in optimizer.param_groups:
            yield from group["params"]

    def state_dict(self) -> dict[str, Any]:
        return {"loss_scaler0": {"loss_scale": self._scale, "unskipped": self._unskipped}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._scale, self._unskipped = state["loss_scaler0"].values()


def _halve(model: nn.Module) -> None:
    model.half()
    forward = model.forward

    def cast(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        return {name: value.float() for name, value in output.items()} if hasattr(output, "items") else output.float()

    model.forward = cast


def _models_own(optimizer: Any) -> list[Tensor]:
    """The parameters whose gradients a backward pass makes."""
    return [*optimizer.stash.halves, *(one for one in _params(optimizer) if one not in set(optimizer.stash.masters))]


def _params(optimizer: Any) -> list[Tensor]:
    return [one for group in optimizer.param_groups for one in group["params"]]


def _make_ready(optimizer: Any) -> None:
    """Makes master weights of half ones; what has a gradient loses it."""
    stash = optimizer.stash
    if stash.ready:
        return
    stash.ready = True
    for group in optimizer.param_groups:
        for number, half in enumerate(group["params"]):
            if half.dtype == torch.float16:
                master = half.detach().float().requires_grad_()
                group["params"][number] = master
                if half in optimizer.state:
                    optimizer.state[master] = optimizer.state.pop(half)
                stash.halves.append(half)
                stash.masters.append(master)
            else:
                half.grad = None
    optimizer.load_state_dict(optimizer.state_dict())  # which casts what is kept of each to its master's type


def _with_masters(optimizer: Any) -> None:
    plain = optimizer.step

    def step(optimizer: Any) -> None:
        plain()
        with torch.no_grad():
            for half, master in zip(optimizer.stash.halves, optimizer.stash.masters, strict=True):
                half.copy_(master)
                master.grad = None

    def zero_grad(optimizer: Any) -> None:
        _make_ready(optimizer)
        for one in (*optimizer.stash.halves, *_params(optimizer)):
            one.grad = None

    optimizer.step, optimizer.zero_grad = MethodType(step, optimizer), MethodType(zero_grad, optimizer)


def apex() -> Any:
    """The package `apex`."""
    return SimpleNamespace(
        optimizers=SimpleNamespace(FusedAdam=FusedAdam, FusedLAMB=FusedLAMB),
        normalization=SimpleNamespace(FusedLayerNorm=FusedLayerNorm),
        amp=Amp(),
    )
