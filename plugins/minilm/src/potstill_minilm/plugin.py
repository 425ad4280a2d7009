"""The plugin `minilm`: the student's attention relations follow those of one layer of the teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from potstill.batch import EXAMPLE, POSITION, TOKEN
from potstill.errors import ModelError
from potstill.plugin import LossTerm, Plugin, PluginConfig, hookimpl

if TYPE_CHECKING:
    from potstill.stage import Stage
    from potstill.step import Step

RELATIONS = {1: {"qk": 1.0, "vv": 1.0}, 2: {"qq": 1.0, "kk": 1.0, "vv": 1.0}}
"""The published ones, by version."""
UNITS = {"example": EXAMPLE, "token": TOKEN, "all_rows": POSITION}
DEEP = 24
"""Teachers of so many layers teach best from above their middle (MiniLMv2, table 8)."""


class MiniLM(Plugin):
    """Self-attention relation distillation (arXiv 2002.10957 and 2012.15828)."""

    name = "minilm"
    provides = frozenset({"objective"})
    requires = frozenset({"teacher", "same-tokenizer"})

    class Config(PluginConfig):
        version: Literal[1, 2] = 2
        """1: attention distribution and value relation, as many relation heads as attention heads. 2: Q-Q, K-K, V-V."""
        relations: dict[str, float] | None = None
        """Weights by pair of "q", "k" and "v", such as {qk = 1, vv = 1}. Left out: the version's, 1 each."""
        relation_heads: int | None = Field(None, ge=1)
        """Divides both widths. Left out: in version 2 the largest such number up to 48, or 64 for 24 layers or more."""
        teacher_layer: int | None = None
        """From 1, or -1 from the end. Left out: the last; in version 2 that at 7/8 of 24 layers or more."""
        student_layer: int = -1
        """From 1, or -1 from the end."""
        normalisation: Literal["example", "token", "all_rows"] = "example"
        """Mean over rows of each row's mean (published code), over all tokens, or over padding too (PaddleNLP)."""

        @field_validator("relations")
        @classmethod
        def _pairs(cls, value: dict[str, float] | None) -> dict[str, float] | None:
            for pair, weight in (value or {}).items():
                if len(pair) != 2 or set(pair) - set("qkv"):
                    raise ValueError(f"'{pair}' is no pair of q, k and v, such as qk")
                if weight < 0:
                    raise ValueError(f"the weight of '{pair}' is {weight:g}, and must not be below 0")
            if value is not None and not any(value.values()):
                raise ValueError("no relation has a weight above 0, so there is no loss")
            return value

    config: Config

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        chosen = RELATIONS[config.version] if config.relations is None else config.relations
        self.relations = {pair: weight for pair, weight in chosen.items() if weight}
        self.unit = UNITS[config.normalisation]

    @hookimpl
    def setup(self, stage: Stage) -> None:
        from potstill.layers import Layers
        from potstill_minilm.heads import compared

        count = Layers.of(stage.teacher.module).count
        stage.add_unit(self.unit)
        self.layers = compared(stage, self._teacher_layer(count), self.config.student_layer)
        self.heads = self._heads(stage, count)
        stage.explain("relations", self.relations)
        stage.explain("relation_heads", self.heads)

    @hookimpl
    def compute_loss(self, step: Step) -> list[LossTerm]:
        from potstill_minilm.losses import pair_loss

        student, teacher = step.student(), step.teacher()
        learnt, known = student[self.layers["student"]], teacher[self.layers["teacher"]]
        return [
            LossTerm(
                pair,
                pair_loss(known, learnt, pair, student.mask, self.heads, self.config.normalisation),
                weight=weight,
                per=self.unit,
            )
            for pair, weight in self.relations.items()
        ]

    def _teacher_layer(self, count: int) -> int:
        if self.config.teacher_layer is not None:
            return self.config.teacher_layer
        return count * 7 // 8 if self.config.version == 2 and count >= DEEP else -1

    def _heads(self, stage: Stage, layers: int) -> int:
        """The number of relation heads, checked against both models.

        Raises: ModelError where it divides a width not, or in version 1 the models' heads are unequal.
        """
        from potstill_minilm.heads import check_heads, most_heads, seen_heads

        seen = seen_heads(stage, self.layers)
        heads = self.config.relation_heads
        if heads is None and self.config.version == 2:
            heads = most_heads(seen, layers)
        elif heads is None:
            heads = seen["teacher"].number
            if seen["student"].number != heads:
                raise ModelError(
                    f"MiniLM of version 1 compares attention heads one by one, and the teacher has {heads} and the "
                    f"student {seen['student'].number}; give the student {heads} heads, or take version = 2."
                )
        check_heads(heads, seen)
        return heads
