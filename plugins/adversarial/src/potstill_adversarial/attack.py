"""The two ways to move word vectors for the time of a pass, and to learn the gradient there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from potstill.errors import PluginError
from potstill_adversarial.perturbation import EXAMPLE, TABLE, ascended

S = TypeVar("S")
Places = list[Tensor | None]
"""A tensor for each place where word vectors are moved; None where there is none."""


class Attack(ABC, Generic[S]):
    """Moves word vectors by a shift S, for the time of a pass."""

    _hooks: tuple[RemovableHandle, ...] = ()

    @abstractmethod
    def passing(self, shift: S | None = None) -> AbstractContextManager[Places]:
        """Around one pass: inside, word vectors are moved by the shift; afterwards they are as before, come what may.

        Yields: a list that holds the gradients of all places when the block is over.
        """

    @abstractmethod
    def ascended(self, shift: S | None, gradients: Places, size: float, epsilon: float) -> S | None:
        """The shift one step of length `size` further up the gradients, of a norm of at most epsilon."""

    def close(self) -> None:
        """Takes off what was put on the model."""
        for hook in self._hooks:
            hook.remove()


@dataclass(frozen=True)
class Rows:
    """A shift of some rows of a table; the others stay.

    Attributes:
        numbers: [rows], ascending.
        values: [rows, width].
    """

    numbers: Tensor
    values: Tensor

    def among(self, numbers: Tensor) -> Tensor:
        """The values of the rows `numbers`, ascending, which hold these rows too: 0 for the new ones."""
        values = self.values.new_zeros(len(numbers), self.values.shape[1])
        return values.index_copy_(0, torch.searchsorted(numbers, self.numbers), self.values)


class TableAttack(Attack[Rows]):
    """Moves an embedding table as a whole: one shift for all rows of a micro-batch, of one norm.

    The gradient is the parameter's `.grad`, so nothing else may be in there when the pass begins.
    """

    def __init__(self, table: Tensor) -> None:
        self._table = table

    @contextmanager
    def passing(self, shift: Rows | None = None) -> Iterator[Places]:
        gradients: Places = []
        table = self._table.detach()
        clean = None if shift is None else table[shift.numbers]
        try:
            if shift is not None:
                table.index_add_(0, shift.numbers, shift.values)
            yield gradients
        finally:
            if shift is not None and clean is not None:  # in place: others hold this storage
                table.index_copy_(0, shift.numbers, clean)
        gradients.append(self._table.grad)

    def ascended(self, shift: Rows | None, gradients: Places, size: float, epsilon: float) -> Rows | None:
        (gradient,) = gradients
        if gradient is None:
            return shift
        numbers = _touched(gradient, shift)
        before = None if shift is None else shift.among(numbers)
        return Rows(numbers, ascended(before, gradient[numbers], size, epsilon, TABLE))


def _touched(gradient: Tensor, shift: Rows | None) -> Tensor:
    """The numbers of the rows to move, ascending.

    On a CPU those with a gradient, a thousand words of a batch in a table of twenty thousand; elsewhere all, since
    asking which these are would wait for the device.
    """
    if gradient.device.type != "cpu":
        return torch.arange(len(gradient), device=gradient.device)
    # A row whose squares are all 0 has no part in the table's norm either; NaN and inf are not 0.
    chosen = torch.linalg.vector_norm(gradient, dim=1) != 0
    if shift is not None:
        chosen[shift.numbers] = True
    return chosen.nonzero()[:, 0]


class OutputAttack(Attack[Places]):
    """Moves an embedding's output: every row of a micro-batch by a shift of its own, padding not at all.

    The places are the embedding's calls in a pass, in order. Hooks stay on the model until `close`, and do nothing
    outside of `passing`, nor in a forward pass that makes no gradient.
    """

    def __init__(self, model: nn.Module, embedding: nn.Embedding) -> None:
        self._under_way: list[tuple[Tensor, Tensor]] | None = None
        self._shifts: Places | None = None
        self._mask: Tensor | None = None
        self._hooks = (
            model.register_forward_pre_hook(self._enter, with_kwargs=True),
            embedding.register_forward_hook(self._move),
        )

    @contextmanager
    def passing(self, shift: Places | None = None) -> Iterator[Places]:
        gradients: Places = []
        calls = self._under_way = []
        self._shifts = shift
        try:
            yield gradients
        finally:
            self._under_way, self._shifts, self._mask = None, None, None
        gradients += [None if out.grad is None else torch.where(mask, out.grad, 0.0) for out, mask in calls]

    def ascended(self, shift: Places | None, gradients: Places, size: float, epsilon: float) -> Places:
        return [
            before if gradient is None else ascended(before, gradient, size, epsilon, EXAMPLE)
            for before, gradient in zip_longest(shift or (), gradients)
        ]

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
        shift = self._shift_of(output)
        moved = output if shift is None else output + shift
        if not moved.requires_grad:  # a frozen table
            moved.requires_grad_()
        moved.retain_grad()
        self._under_way.append((moved, self._mask[..., None] != 0))
        return moved

    def _shift_of(self, output: Tensor) -> Tensor | None:
        """The shift of the call that is next."""
        assert self._under_way is not None
        if self._shifts is None:
            return None
        number = len(self._under_way)
        shift = self._shifts[number] if number < len(self._shifts) else None
        if number >= len(self._shifts) or (shift is not None and shift.shape != output.shape):
            raise PluginError(
                f"The adversarial pass makes call {number + 1} of the embedding, of shape {list(output.shape)}, which "
                "the clean pass did not make; a row's shift cannot be told."
            )
        return shift
