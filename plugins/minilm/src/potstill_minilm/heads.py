"""The two layers that are compared, their attention heads, and the relation heads that both can be cut into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from potstill.errors import ModelError
from potstill.features import QKV
from potstill.layers import Layers
from potstill.observe import probe
from potstill_minilm.losses import common_heads

if TYPE_CHECKING:
    from potstill.stage import Stage


DEEP = 24
"""Teachers of so many layers are cut into more relation heads, as published."""


class Heads(NamedTuple):
    """A layer's attention heads: how many, and how wide their queries are together."""

    number: int
    width: int


def compared(stage: Stage, teacher: int, student: int) -> dict[str, QKV]:
    """Looks at queries, keys and values of one layer of each model, and says which layers these are; by side."""
    layers = {"teacher": QKV(teacher), "student": QKV(student)}
    stage.observe(teacher=[layers["teacher"]], student=[layers["student"]])
    exact = {
        side: Layers.of(module).exact(layers[side].layer, first=1, side=side)
        for side, module in (("student", stage.student.module), ("teacher", stage.teacher.module))
    }
    stage.explain("layers", "student {student} ← teacher {teacher}".format(**exact))
    return layers


def seen_heads(stage: Stage, layers: Mapping[str, QKV]) -> dict[str, Heads]:
    """The heads of one layer of the teacher and one of the student, by side, by running both models on a few tokens."""
    seen = {}
    for side, module in (("teacher", stage.teacher.module), ("student", stage.student.module)):
        query = probe(module, [layers[side]], side)[layers[side]].query
        seen[side] = Heads(query.shape[1], query.shape[1] * query.shape[3])
    return seen


def most_heads(seen: Mapping[str, Heads], layers: int) -> int:
    """The largest number of relation heads that divides both widths, up to 48, or 64 for a teacher of many layers."""
    return common_heads(seen["teacher"].width, seen["student"].width, 64 if layers >= DEEP else 48)


def check_heads(relation_heads: int, seen: Mapping[str, Heads]) -> None:
    """Raises: ModelError where `relation_heads` does not divide a side's width."""
    widths = {side: heads.width for side, heads in seen.items()}
    for side, width in widths.items():
        if width % relation_heads:
            raise ModelError(
                f"relation_heads = {relation_heads} does not divide the {side}'s width {width}; the largest number "
                f"that divides both widths is {common_heads(widths['teacher'], widths['student'], width)}."
            )
