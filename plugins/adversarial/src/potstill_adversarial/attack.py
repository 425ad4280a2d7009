"""The two ways to move word vectors for the time of a pass, and to learn the gradient there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from potstill.errors import PluginError
from potstill_adversarial.perturbation import EXAMPLE, TABLE, ascended

Shifts = list[Tensor | None]
"""By how much each place is moved, or the gradient there; None where there is none."""


class Attack(ABC):
    """Moves word vectors in one or several places."""

    over: ClassVar[tuple[int, int]]
    """What one norm is taken over, in each place."""
    _hooks: Sequence[RemovableHandle] = ()

    @abstractmethod
    def passing(self, shifts: Sequence[Tensor | None] = ()) -> AbstractContextManager[Shifts]:
        """Around one pass: every place is moved by its shift inside, and is as it was afterwards, whatever happens.

        Yields: a list that holds the gradients of all places when the block is over.
        """

    def ascended(self, shifts: Sequence[Tensor | None], gradients: Shifts, size: float, epsilon: float) -> Shifts:
        """The shifts one step further up the gradients; a place without a gradient keeps its shift."""
        so_far = shifts or [None] * len(gradients)
        return [
            shift if gradient is None else ascended(shift, gradient, size, epsilon, self.over)
            for shift, gradient in zip(so_far, gradients, strict=True)
        ]

    def close(self) -> None:
        """Takes off what was put on the model."""
        for hook in self._hooks:
            hook.remove()


class TableAttack(Attack):
    """Moves an embedding table as a whole: one shift for all rows of a micro-batch, of one norm.

    The gradient is the parameter's `.grad`, so nothing else may be in there when the pass begins.
    """

    over = TABLE

    def __init__(self, table: Tensor) -> None:
        self._table = table

    @contextmanager
    def passing(self, shifts: Sequence[Tensor | None] = ()) -> Iterator[Shifts]:
        gradients: Shifts = []
        shift = shifts[0] if shifts else None
        clean = None if shift is None else self._table.detach().clone()
        try:
            if shift is not None:
                self._table.detach().add_(shift)
            yield gradients
        finally:
            if clean is not None:  # in place: others hold this storage
                self._table.detach().copy_(clean)
        gradients.append(self._table.grad)


class OutputAttack(Attack):
    """Moves an embedding's output: every row of a micro-batch by a shift of its own, padding not at all.

    The places are the embedding's calls in a pass, in order. Hooks stay on the model until `close`, and do nothing
    outside of `passing`, nor in a forward pass that makes no gradient.
    """

    over = EXAMPLE

    def __init__(self, model: nn.Module, embedding: nn.Embedding) -> None:
        self._under_way: list[tuple[Tensor, Tensor]] | None = None
        self._shifts: Sequence[Tensor | None] = ()
        self._mask: Tensor | None = None
        self._hooks = [
            model.register_forward_pre_hook(self._enter, with_kwargs=True),
            embedding.register_forward_hook(self._move),
        ]

    @contextmanager
    def passing(self, shifts: Sequence[Tensor | None] = ()) -> Iterator[Shifts]:
        gradients: Shifts = []
        calls = self._under_way = []
        self._shifts = shifts
        try:
            yield gradients
        finally:
            self._under_way, self._shifts, self._mask = None, (), None
        gradients += [None if out.grad is None else torch.where(mask, out.grad, 0.0) for out, mask in calls]

    def _enter(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if self._under_way is not None:
            mask = kwargs.get("attention_mask")
            self._mask = torch.ones_like(kwargs["input_ids"]) if mask is None else mask

    def _move(self, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        if self._under_way is None or self._mask is None or not torch.is_grad_enabled():
            return None
        if output.shape[:-1] != self._mask.shape:
            raise PluginError(
                f'attack = "output" moves an embedding that gives [batch, seq, width] for a mask '
                f"{list(self._mask.shape)}, and this one gives {list(output.shape)}; name another table, or take "
                'attack = "table".'
            )
        moved = output + shift if (shift := self._shift_of(output)) is not None else output
        if not moved.requires_grad:  # a frozen table
            moved.requires_grad_()
        moved.retain_grad()
        self._under_way.append((moved, self._mask[..., None] != 0))
        return moved

    def _shift_of(self, output: Tensor) -> Tensor | None:
        """The shift of the call that is next."""
        assert self._under_way is not None
        if not self._shifts:
            return None
        number = len(self._under_way)
        shift = self._shifts[number] if number < len(self._shifts) else None
        if number >= len(self._shifts) or (shift is not None and shift.shape != output.shape):
            raise PluginError(
                f"The adversarial pass makes call {number + 1} of the embedding, of shape {list(output.shape)}, which "
                "the clean pass did not make; a row's shift cannot be told."
            )
        return shift
