"""The layers of an encoder: finding them, counting them, and choosing some of them for a student."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from torch import nn

from potstill.errors import ModelError

Strategy = Literal["uniform", "first", "last", "skip"]
"""How a student's layers are laid on a teacher's."""


def layer_pairs(strategy: Strategy, student: int, teacher: int) -> tuple[tuple[int, int], ...]:
    """Which layer of the teacher each layer of the student learns from: pairs (student layer, teacher layer), from 1.

    With M layers in the student and N in the teacher, layer m of the student learns from

    - "uniform": N * m / M, rounded where M does not divide N;
    - "first": m;
    - "last": N - M + m;
    - "skip": as "uniform", and the last layer from none, since the last layers meet in the logits.

    Args:
        student, teacher: how many layers they have.

    Raises:
        ModelError: an unknown strategy, or a student with more layers than the teacher.
    """
    if strategy not in get_args(Strategy):
        raise ModelError(f"The strategy '{strategy}' is none of {', '.join(get_args(Strategy))}.")
    if student > teacher:
        raise ModelError(
            f"The student has {student} layers and the teacher {teacher}, so they cannot be laid on each other; name "
            "the pairs of layers one by one."
        )
    own = range(1, student + (strategy != "skip"))
    if strategy == "first":
        return tuple((layer, layer) for layer in own)
    if strategy == "last":
        return tuple((layer, teacher - student + layer) for layer in own)
    return tuple((layer, (2 * teacher * layer + student) // (2 * student)) for layer in own)


@dataclass(frozen=True)
class Layers:
    """An encoder's layers. They count from 1; 0 stands for the embedding output.

    Attributes:
        count: how many layers a forward pass goes through.
        name: the path of the module list inside the model.
        modules: the modules of that list. Fewer than `count` where layers share one module (ALBERT).
    """

    count: int
    name: str
    modules: tuple[nn.Module, ...]

    @classmethod
    def of(cls, module: nn.Module) -> Layers:
        """Finds the layers of a transformers model; none (count 0) where it has no list of layers."""
        config = getattr(module, "config", None)
        count = getattr(config, "num_hidden_layers", 0)
        # The outermost list: ALBERT's groups hold a list of their own, MobileBERT's layers too.
        lengths = {count, getattr(config, "num_hidden_groups", count)} - {0}
        for name, part in module.named_modules():
            if isinstance(part, nn.ModuleList) and len(part) in lengths:
                return cls(count, name, tuple(part))
        return cls(0, "", ())

    def exact(self, layer: int, *, first: int, side: str) -> int:
        """A layer's number from the front; -1 is the last.

        Raises:
            ModelError: the model has no such layer.
        """
        exact = self.count + 1 + layer if layer < 0 else layer
        if not self.count:
            raise ModelError(f"Layer {layer} of the {side} is asked for, but this model has no list of layers.")
        if not first <= exact <= self.count:
            raise ModelError(f"Layer {layer} of the {side} is asked for, but it has layers {first} to {self.count}.")
        return exact

    @property
    def shared(self) -> bool:
        """Whether one module serves several layers."""
        return len(self.modules) < self.count

    def modules_for(self, numbers: Iterable[int]) -> list[nn.Module]:
        """The modules to hook so that the layers `numbers` can be seen. Number 0 is seen on entering layer 1."""
        if self.shared:
            return list(dict.fromkeys(self.modules)) if set(numbers) else []
        return [self.modules[number - 1] for number in sorted({max(1, number) for number in numbers})]

    def number(self, module: nn.Module, before: int) -> int:
        """The number of the layer that `module` is now entered as; `before` is the layer entered last."""
        if self.shared:
            return before + 1
        return next(i for i, layer in enumerate(self.modules, start=1) if layer is module)
