"""The hybrid of predecessor and successor: an encoder whose layers can each stand in for several of another's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from potstill.errors import PluginError

Which = bool | Tensor
"""Whether the successor stands in: for all rows, or [batch] for each."""


class Replaceable(nn.Module):
    """A layer of the hybrid: some layers of the predecessor, and the layer that learns to stand in for them.

    In training it runs the one or the other, by `replaced`; in eval mode always the successor.

    Args:
        predecessor: run one after the other.
        successor: what an encoder reads off its layers (such as their kind of attention), it reads off this one.

    Attributes:
        replaced: the draw; True at first.
        anchored: nothing below learns, and yet the loss needs something to depend on where no successor layer is run:
            the input is given a gradient that goes nowhere.
    """

    def __init__(self, predecessor: Sequence[nn.Module], successor: nn.Module) -> None:
        super().__init__()
        self.predecessor = nn.ModuleList(predecessor)
        self.successor = successor
        self.replaced: Which = True
        self.anchored = False

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "successor":
                raise
            return getattr(self.successor, name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What a layer of this encoder gives: a tensor, or a tuple that begins with one, [batch, seq, hidden]."""
        if not self.training or self.replaced is True:
            return self.successor(*args, **kwargs)
        kept = self._kept(*args, **kwargs)
        if self.replaced is False:
            return kept
        # Both over all rows: which of a layer's other arguments have rows to pick from is the encoder's secret.
        return _mixed(self.replaced, self.successor(*args, **kwargs), kept)

    def _kept(self, *args: Any, **kwargs: Any) -> Any:
        hidden, *others = args if args else (kwargs.pop("hidden_states"),)
        if self.anchored and torch.is_grad_enabled() and not hidden.requires_grad:
            hidden = hidden.detach().requires_grad_()
        output: Any = hidden
        for layer in self.predecessor:
            output = layer(_first(output), *others, **kwargs)
        return output


def move_unsampled(modules: Sequence[Replaceable], sampled: set[int]) -> None:
    """Gives a successor layer that has no gradient now, and had one before, a gradient of zero.

    So an optimizer moves it on by momentum and decay, as all did before torch 2 set gradients to None.

    Args:
        sampled: numbers of the modules that had a gradient before, from 0; those that have one now are added.
    """
    for number, module in enumerate(modules):
        parameters = list(module.successor.parameters())
        if any(value.grad is not None for value in parameters):
            sampled.add(number)
        elif number in sampled:
            for value in parameters:
                value.grad = value.new_zeros(value.shape)


def _first(output: Any) -> Tensor:
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def _mixed(replaced: Tensor, successor: Any, predecessor: Any) -> Any:
    """Rows of the one and the other, with whatever else the successor gives."""
    own, known = _first(successor), _first(predecessor)
    if len(own) != len(replaced):
        raise PluginError(
            f"theseus drew for the {len(replaced)} rows of the batch and a pass has {len(own)}; take "
            "theseus.draw = 'batch' beside a plugin that runs batches of its own."
        )
    hidden = torch.where(replaced.view(-1, *[1] * (own.dim() - 1)), own, known)
    return (hidden, *successor[1:]) if isinstance(successor, tuple) else hidden
