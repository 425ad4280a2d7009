"""The plugin's options: what is matched, and the loss of the logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from potstill.layers import Strategy
from potstill.plugin import PluginConfig
from potstill_layers.losses import LOSSES, AttentionLoss, FeatureName, HiddenLoss, LossName
from potstill_layers.masked import Reference
from potstill_layers.projection import Activation
from potstill_layers.schedules import TemperatureSchedule, WeightSchedule

LayerNumbers = int | tuple[int, int]


def _weighed(value: Any) -> Any:
    """A loss's name alone stands for that loss with the weight 1."""
    return {value: 1.0} if isinstance(value, str) else value


class Match(PluginConfig):
    """One feature of the teacher against one of the student."""

    loss: LossName
    """What compares them."""
    teacher: LayerNumbers | None = None
    """The teacher's layer: 0 is the embedding output, -1 the last layer. Two for fsp and nst; none for "pooled"."""
    student: LayerNumbers | None = None
    """The student's layer, in the same way."""
    feature: FeatureName | None = None
    """What of the layer: "hidden", attention "scores" or "attention" probabilities; "pooled" is the whole model's.
    Left out: "hidden" or "scores", as the loss needs."""
    weight: float = Field(1.0, gt=0)
    """Factor in the sum."""
    projection: Activation | Literal["none"] | None = None
    """Of the student's hidden states to the teacher's width, learnt; as the plugin's `projection`, if left out."""
    of: str | None = None
    """Which teacher, where there are several; the plugin's `of`, if left out."""

    @property
    def what(self) -> FeatureName:
        """The feature that is compared."""
        return LOSSES[self.loss].features[0] if self.feature is None else self.feature

    @model_validator(mode="after")
    def _fits(self) -> Self:
        loss, feature = LOSSES[self.loss], self.what
        if feature not in loss.features:
            raise ValueError(f"loss '{self.loss}' compares {' or '.join(loss.features)}, not {feature}")
        if self.projection not in (None, "none") and not {feature} & {"hidden", "pooled"}:
            raise ValueError(
                f"projection = '{self.projection}' is for hidden states, and '{self.loss}' compares scores"
            )
        for side in ("teacher", "student"):
            self._check_layers(side, getattr(self, side), loss.pairs)
        return self

    def _check_layers(self, side: str, layers: LayerNumbers | None, pairs: bool) -> None:
        if self.what == "pooled":
            if layers is not None:
                raise ValueError(
                    f"{side} = {_told(layers)} is a layer, and 'pooled' is of the whole model; leave it out"
                )
        elif layers is None:
            raise ValueError(f"'{side}' is missing: the layer whose {self.what} is compared")
        elif pairs and isinstance(layers, int):
            raise ValueError(
                f"{side} = {layers} is one layer, and '{self.loss}' compares products of two; write "
                f"[{layers}, {layers}] for the layer with itself"
            )
        elif not pairs and not isinstance(layers, int):
            raise ValueError(f"{side} = {_told(layers)} is two layers, and '{self.loss}' compares one")


class Options(PluginConfig):
    """Left empty: hidden_mse of evenly spaced layers and the embeddings, and soft targets."""

    matches: tuple[Match, ...] | None = None
    """What is matched, one by one; beside what `hidden` and `attention` match."""
    map: Strategy | tuple[int, ...] = "uniform"
    """The layers that `hidden` and `attention` match: a strategy, or the teacher's layer for each of the student's."""
    hidden: Annotated[dict[HiddenLoss, float] | None, BeforeValidator(_weighed)] = None
    """Losses of hidden states on all layers of the map, with weights. Left out: "hidden_mse", where nothing else
    is matched and `matches` is not given."""
    attention: Annotated[dict[AttentionLoss, float] | None, BeforeValidator(_weighed)] = None
    """Losses of attention scores on all layers of the map, with weights."""
    embeddings: bool | None = None
    """Whether `hidden` matches the embedding outputs too. Left out: yes, but not by pkd, whose [CLS] is one for all."""
    projection: Activation | Literal["none"] | None = None
    """Learnt projection of the student's hidden states. Left out: "linear" where widths differ and the loss minds."""
    of: str | None = None
    """The teacher whose layers are matched, where there are several."""
    padding: bool = False
    """Whether padding counts like tokens, as in TextBrewer where no inputs_mask is given."""
    reference: Reference | None = None
    """Give the numbers of TextBrewer's release ("textbrewer") or repository ("textbrewer-head") where they differ."""
    kd: Literal["ce", "mse", "none"] = "ce"
    """The loss of the logits: soft cross-entropy, mean squared error, or none."""
    kd_weight: float = Field(1.0, gt=0)
    """Weight of the loss of the logits."""
    temperature: float = Field(4.0, gt=0)
    """T: divides the logits of both sides."""
    t_squared: bool | None = None
    """Whether the loss of the logits is multiplied by T². Left out: for ce, but not with `reference`."""
    temperature_schedule: TemperatureSchedule = "constant"
    """A temperature for every row: lower where the student is far from the teacher (flsw), or unsure (cwsm)."""
    beta: float = Field(1.0, ge=0)
    """How far flsw and cwsm move the temperature."""
    gamma: float = Field(2.0, gt=0)
    """The power of flsw's distance."""
    kd_weight_schedule: WeightSchedule = "constant"
    """How the weight of the logits' loss changes over the stage: to 0 (linear_decay) or from 0 (linear_growth)."""
    probability_shift: bool = False
    """Exchange the teacher's largest logit with the label's, where there is a label."""
    hard_weight: float = Field(0.0, ge=0)
    """Weight of the task's own loss on the labels."""
    hard_weight_schedule: WeightSchedule = "constant"
    """How that weight changes."""

    @property
    def on_map(self) -> Mapping[str, float]:
        """The losses on all layers of the map, with weights."""
        if self.matches is None and self.hidden is None and self.attention is None:
            return {"hidden_mse": 1.0}
        return dict((*(self.hidden or {}).items(), *(self.attention or {}).items()))

    @property
    def scales(self) -> bool:
        """Whether the loss of the logits has the factor T²."""
        return (self.kd == "ce" and self.reference is None) if self.t_squared is None else self.t_squared

    @model_validator(mode="after")
    def _make_sense(self) -> Self:
        if self.kd == "none" and not self.hard_weight and not self.on_map and not self.matches:
            raise ValueError("nothing is matched, kd = 'none' and hard_weight = 0, so there is no loss at all")
        for loss, weight in self.on_map.items():
            if weight <= 0:
                raise ValueError(
                    f"{loss} = {weight:g} is its weight on the map, which must be above 0; or leave it out"
                )
        for match in self.matches or ():
            if match.what == "attention" and match.loss.startswith("attention_ce") and self.reference is None:
                raise ValueError(
                    f"loss '{match.loss}' makes probabilities of what it is given, and feature = 'attention' is "
                    "probabilities already; leave the feature out, or give the reference that does so"
                )
        return self


def _told(layers: LayerNumbers) -> str:
    return str(layers) if isinstance(layers, int) else f"[{layers[0]}, {layers[1]}]"
