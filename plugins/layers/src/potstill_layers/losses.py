"""The losses by name: what each compares, what it is a mean of, and what it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from potstill.batch import EXAMPLE, PAIR, POSITION, POSITION_PAIR, TOKEN, Unit
from potstill_layers import attention, gram, hidden

FeatureName = Literal["hidden", "scores", "attention", "pooled"]
HiddenLoss = Literal["hidden_mse", "cos", "pkd", "fsp", "nst"]
AttentionLoss = Literal["attention_mse", "attention_mse_sum", "attention_ce", "attention_ce_mean"]
LossName = HiddenLoss | AttentionLoss


@dataclass(frozen=True)
class Loss:
    """A loss between two features.

    Attributes:
        function: (student, teacher, mask) to a scalar; with `reference=` where `differs`.
        features: what it compares; the first where nothing is said.
        per: what it is a mean of with a mask.
        padded: what it is a mean of without.
        pairs: whether it compares two layers of one side with two of the other.
        equal: what must be equal on both sides.
        differs: whether a reference has other numbers.
    """

    function: Callable[..., Tensor]
    features: tuple[FeatureName, ...]
    per: Unit
    padded: Unit
    pairs: bool = False
    equal: Literal["width", "heads"] | None = None
    differs: bool = False

    def unit(self, feature: FeatureName, padding: bool) -> Unit:
        """What the loss of a feature is a mean of."""
        return EXAMPLE if feature == "pooled" else self.padded if padding else self.per


_STATES: tuple[FeatureName, ...] = ("hidden", "pooled")
_MAPS: tuple[FeatureName, ...] = ("scores", "attention")

LOSSES: dict[str, Loss] = {
    "hidden_mse": Loss(hidden.hidden_mse, _STATES, TOKEN, POSITION, equal="width"),
    "cos": Loss(hidden.cos, _STATES, TOKEN, POSITION, equal="width"),
    "pkd": Loss(hidden.pkd, _STATES, EXAMPLE, EXAMPLE, equal="width"),
    "fsp": Loss(gram.fsp, ("hidden",), EXAMPLE, EXAMPLE, pairs=True, equal="width"),
    "nst": Loss(gram.nst, ("hidden",), PAIR, POSITION_PAIR, pairs=True, differs=True),
    "attention_mse": Loss(attention.attention_mse, _MAPS, PAIR, POSITION_PAIR, equal="heads", differs=True),
    "attention_mse_sum": Loss(attention.attention_mse_sum, _MAPS, PAIR, POSITION_PAIR, differs=True),
    "attention_ce": Loss(attention.attention_ce, _MAPS, TOKEN, POSITION, equal="heads", differs=True),
    "attention_ce_mean": Loss(attention.attention_ce_mean, _MAPS, TOKEN, POSITION, differs=True),
}
