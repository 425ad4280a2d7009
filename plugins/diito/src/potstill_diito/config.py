"""The options of the plugin `diito`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from potstill.plugin import PluginConfig
from potstill_diito.mapping import Read
from potstill_diito.mapping_files import AlignmentTable


class DiitoConfig(PluginConfig):
    """The options of `diito`."""

    mapping: str | tuple[AlignmentTable, ...] = "full"
    """ "full", "middle", "late", a file (`.nm` of the authors, or `.toml`), or a list of tables: teacher, student."""
    read: Read = "aligned"
    """Where a source's activation is read: where it is written, or ("released") a layer below, as the authors did."""
    draw: Literal["update", "micro_batch"] = "update"
    """An entry of the mapping is drawn for each update, or (as published) for each micro-batch of it."""
    positions: Literal["consecutive", "random", "masked"] = "consecutive"
    """Which tokens are swapped: a run of them, any, or (in the base) those that the masked LM predicts."""
    interchange_prop: float = Field(0.3, gt=0, le=1)
    """The share of the shorter row's tokens that is swapped, rounded down. Not of masked positions: all of them are."""
    max_tokens: int | None = Field(None, ge=1)
    """At most so many tokens of a row."""
    padding: Literal["excluded", "reference"] = "excluded"
    """ "reference": sources are cut to the base's width, and random positions may be padding, as the authors did."""
    pairs: Literal["epoch", "once", "batch"] = "epoch"
    """Sources: a permutation of the corpus for each epoch, one for all (as published), or one of the micro-batch."""
    causal_ce: float = Field(1.0, ge=0)
    """Weight of the KL between counterfactual predictions."""
    causal_cos: float = Field(0.0, ge=0)
    """Weight of the cosine distance between counterfactual last hidden states, which must be equally wide."""
    temperature: float = Field(2.0, gt=0)
    """T: divides the logits of both sides."""
    reduction: Literal["sum", "mean"] = "sum"
    """The KL is a sum over classes, or ("mean", as in DIITO-XXS) a mean over them, which is as many times weaker."""
    data_augment: bool = False
    """Put the source's tokens into the base's text, in the place of swapping activations; no mapping is used."""

    @model_validator(mode="after")
    def _something_to_learn(self) -> DiitoConfig:
        if self.causal_ce == self.causal_cos == 0:
            raise ValueError("causal_ce = 0 and causal_cos = 0 leave no loss at all; one of them must be above 0")
        if self.mapping == ():
            raise ValueError("mapping = [] aligns nothing; name 'full', 'middle', 'late' or a file, or give entries")
        return self
