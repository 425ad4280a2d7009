"""A learnt projection of the student's hidden states to the teacher's width."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

Activation = Literal["linear", "relu", "tanh"]
_ACTIVATIONS = {"linear": nn.Identity, "relu": nn.ReLU, "tanh": nn.Tanh}


class Projection(nn.Module):
    """A linear layer, and an activation after it: [..., student width] to [..., teacher width], as TextBrewer's.

    Weights start from N(0, 0.02), the bias from 0.
    """

    def __init__(self, kind: Activation, student: int, teacher: int) -> None:
        super().__init__()
        self.kind = kind
        self.linear = nn.Linear(student, teacher)
        self.activation = _ACTIVATIONS[kind]()
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    @property
    def told(self) -> str:
        """In words, such as "tanh 312 -> 768"."""
        return f"{self.kind} {self.linear.in_features} -> {self.linear.out_features}"

    def forward(self, states: Tensor) -> Tensor:
        projected: Tensor = self.activation(self.linear(states))
        return projected
