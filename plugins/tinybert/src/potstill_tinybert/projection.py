"""Learnt maps from the student's width to the teacher's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, cast

from torch import Tensor, nn

Sharing = Literal["shared", "paper", "per_layer"]
"""Which hidden states have a map in common."""

INITIAL_STD = 0.02
"""Of a new map's weights, as of every matrix of a BERT."""


class Projection(nn.Module):
    """Linear maps student width → teacher width for hidden states, numbered from 0, the embedding output.

    - "shared": one map with a bias for all (`fit_dense` of the authors' code);
    - "paper": one without bias for the embedding output (W_e) and one for all layers (W_h), as equations 8 and 9;
    - "per_layer": one without bias for each hidden state.

    Args:
        sharing: as above.
        student, teacher: the widths.
        layers: the student's layers that are compared.
    """

    def __init__(self, sharing: Sharing, student: int, teacher: int, layers: Iterable[int]) -> None:
        super().__init__()
        self.sharing = sharing
        names = dict.fromkeys(self._name(layer) for layer in layers)
        self.maps = nn.ModuleDict({name: nn.Linear(student, teacher, bias=sharing == "shared") for name in names})
        for linear in cast(Iterable[nn.Linear], self.maps.values()):
            nn.init.normal_(linear.weight, std=INITIAL_STD)
            if sharing == "shared":
                nn.init.zeros_(linear.bias)

    def forward(self, hidden: Tensor, layer: int) -> Tensor:
        """[batch, seq, student width] → [batch, seq, teacher width], by the map of that layer."""
        return cast(Tensor, self.maps[self._name(layer)](hidden))

    def _name(self, layer: int) -> str:
        if self.sharing == "shared":
            return "all"
        if self.sharing == "paper":
            return "hidden" if layer else "embedding"
        return f"layer_{layer}"
