"""The plugin `pp_minilm`: relations among a layer's tokens, heads and samples follow the teacher's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from potstill.batch import BATCH, POSITION, TOKEN
from potstill.plugin import LossTerm, Plugin, PluginConfig, hookimpl

if TYPE_CHECKING:
    from potstill.batch import Batch
    from potstill.data.random import RowRandom
    from potstill.stage import Stage
    from potstill.step import Step
    from potstill_pp_minilm.losses import Relation

DEEP = 24
"""Teachers of so many layers are looked at below their end: the published layer is the 20th of 24."""
EXACT = 1e-9
"""A weight of the token relation below this is a rounding error of 1 - alpha - beta, and means 0."""


class PPMiniLM(Plugin):
    """PP-MiniLM: multi-relation distillation without labels (PaddleNLP, examples/model_compression/pp-minilm)."""

    name = "pp_minilm"
    provides = frozenset({"objective"})
    requires = frozenset({"teacher", "same-tokenizer"})

    class Config(PluginConfig):
        alpha: float = Field(0.0, ge=0, le=1)
        """Weight of the relations among the heads of a token."""
        beta: float = Field(0.0, ge=0, le=1)
        """Weight of the relations among a batch's tokens at one position. What alpha and beta leave of 1 is the
        weight of the relations among the tokens of a row."""
        relation_heads: int | None = Field(None, ge=1)
        """Divides both widths. Left out: the largest such number up to 48, or 64 for 24 layers or more."""
        teacher_layer: int | None = None
        """From 1, or -1 from the end. Left out: the last; of 24 layers or more that at 5/6, the 20th of 24."""
        student_layer: int = -1
        """From 1, or -1 from the end."""
        mode: Literal["corrected", "reference"] = "corrected"
        """Padding is left out everywhere; or as published, where it takes part."""

        @model_validator(mode="after")
        def _weights(self) -> Self:
            if self.alpha + self.beta > 1 + EXACT:
                raise ValueError(
                    f"alpha = {self.alpha:g} and beta = {self.beta:g} are more than 1 together, so the relations of "
                    "tokens would have a weight below 0"
                )
            return self

    config: Config

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        left = 1.0 - config.alpha - config.beta
        weights: dict[Relation, float] = {"token": left, "head": config.alpha, "sample": config.beta}
        self.weights = {relation: weight for relation, weight in weights.items() if weight > EXACT}
        unit = TOKEN if config.mode == "corrected" else POSITION
        self.units = {"token": unit, "head": unit, "sample": BATCH}

    @hookimpl
    def setup(self, stage: Stage) -> None:
        from potstill_minilm.heads import check_heads, compared, most_heads, seen_heads

        from potstill.layers import Layers

        count = Layers.of(stage.teacher.module).count
        for unit in self.units.values():
            stage.add_unit(unit)
        self.layers = compared(stage, self._teacher_layer(count), self.config.student_layer)
        if stage.task.name == "masked-lm":  # relations are those of whole texts
            stage.claim("masking", _unmasked)
        seen = seen_heads(stage, self.layers)
        self.heads = self.config.relation_heads or most_heads(seen, count)
        check_heads(self.heads, seen)
        stage.explain("relations", self.weights)
        stage.explain("relation_heads", self.heads)
        stage.explain("mode", self.config.mode)

    @hookimpl
    def compute_loss(self, step: Step) -> list[LossTerm]:
        from potstill_pp_minilm.losses import relation_loss

        student, teacher = step.student(), step.teacher()
        learnt, known = student[self.layers["student"]], teacher[self.layers["teacher"]]
        return [
            LossTerm(
                relation,
                relation_loss(known, learnt, relation, student.mask, self.heads, self.config.mode),
                weight=weight,
                per=self.units[relation],
            )
            for relation, weight in self.weights.items()
        ]

    def _teacher_layer(self, count: int) -> int:
        if self.config.teacher_layer is not None:
            return self.config.teacher_layer
        return count * 5 // 6 if count >= DEEP else -1


def _unmasked(batch: Batch, rng: RowRandom) -> None:
    """The slot "masking": every token stays, and none is to be predicted."""
