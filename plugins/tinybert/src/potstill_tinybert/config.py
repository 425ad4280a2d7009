"""The options of the plugin `tinybert`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from potstill.layers import Strategy
from potstill.plugin import PluginConfig
from potstill_tinybert.losses import Padding, Reduction
from potstill_tinybert.projection import Sharing

Phase = Literal["general", "intermediate", "prediction"]
"""What a stage is about: raw text and inner layers, the task's text and inner layers, or the task's predictions."""


class AugmentationConfig(PluginConfig):
    """`[stage.NAME.augmentation]`: training rows with some words replaced, beside the rows themselves."""

    passes: int = Field(20, ge=1)
    """N: how often each text is gone through; as many variants a text at most."""
    candidates: int = Field(15, ge=1)
    """M: from how many words a replacement is drawn."""
    probability: float = Field(0.4, gt=0, le=1)
    """p: how likely a word is replaced in each pass."""
    masked_lm: str | None = None
    """A hub id or folder: replaces words that are one piece by what it expects there. Left out: as the other words."""
    vectors: str | None = None
    """A text file of word vectors (GloVe), for the words near the other ones. Left out: the teacher's embeddings."""


class TinyBERTConfig(PluginConfig):
    """The options of `tinybert`."""

    layers: Strategy | tuple[int, ...] = "uniform"
    """The teacher's layer for each of the student's: "uniform", "first", "last", "skip", or a list with 0 for none."""
    embedding: float = Field(1.0, ge=0)
    """Weight of the loss between embedding outputs."""
    hidden: float = Field(1.0, ge=0)
    """Weight of the loss between hidden states, summed over the layers."""
    attention: float = Field(1.0, ge=0)
    """Weight of the loss between attention scores, summed over the layers."""
    prediction: float = Field(1.0, ge=0)
    """Weight of the loss between predictions."""
    projection: Sharing | Literal["auto", "none"] = "auto"
    """Maps from the student's width to the teacher's. "auto": none where the widths are equal, else "shared"."""
    temperature: float = Field(1.0, gt=0)
    """T: divides the logits of both sides in the prediction loss."""
    padding: Padding = "excluded"
    """Whether padding counts in the losses between inner layers: "excluded", or "reference" as in the authors' code."""
    reduction: Reduction = "row"
    """The prediction loss: a mean per "row" times T², or "reference" as in the authors' code."""
    optimizer: Literal["adamw", "bertadam"] = "adamw"
    """ "bertadam": Adam without bias correction, every parameter's gradient clipped by itself, as the authors did."""
    general: dict[str, Any] | None = None
    """A first part on raw text; the table's keys are a stage's, such as `teacher`, `data` and `epochs`."""
    intermediate: dict[str, Any] | Literal[False] = Field(default_factory=dict)
    """The part on the task's text before the predictions: keys of a stage; false leaves it out."""
    augmentation: AugmentationConfig | None = None
    """Variants of the training rows, in the parts on the task's text; none where the table is left out."""
    phase: Phase | None = None
    """Which part this stage is. Left out: the stage becomes several, one a part."""

    @property
    def inner(self) -> bool:
        """Whether any loss between inner layers weighs something."""
        return self.embedding + self.hidden + self.attention > 0

    @model_validator(mode="after")
    def _something_to_learn(self) -> TinyBERTConfig:
        wanted = self.prediction > 0 if self.phase == "prediction" else self.inner
        if self.phase is None:
            wanted = self.prediction > 0 or (
                self.inner and (self.general is not None or self.intermediate is not False)
            )
        if not wanted:
            raise ValueError("the weights leave no loss at all; one of them must be above 0")
        if self.general is not None and self.phase is None and not self.inner:
            raise ValueError("general is given, and embedding, hidden and attention = 0 leave it no loss")
        return self
