"""The attention heads of the two layers that are compared, and the relation heads that both can be cut into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from potstill.errors import ModelError
from potstill.features import QKV
from potstill.observe import probe
from potstill_minilm.losses import common_heads

if TYPE_CHECKING:
    from potstill.stage import Stage


class Heads(NamedTuple):
    """A layer's attention heads: how many, and how wide their queries are together."""

    number: int
    width: int


def seen_heads(stage: Stage, layers: Mapping[str, QKV]) -> dict[str, Heads]:
    """The heads of one layer of the teacher and one of the student, by side, by running both models on a few tokens."""
    seen = {}
    for side, module in (("teacher", stage.teacher.module), ("student", stage.student.module)):
        query = probe(module, [layers[side]], side)[layers[side]].query
        seen[side] = Heads(query.shape[1], query.shape[1] * query.shape[3])
    return seen


def check_heads(relation_heads: int, seen: Mapping[str, Heads]) -> None:
    """Raises: ModelError where `relation_heads` does not divide a side's width."""
    widths = {side: heads.width for side, heads in seen.items()}
    for side, width in widths.items():
        if width % relation_heads:
            raise ModelError(
                f"relation_heads = {relation_heads} does not divide the {side}'s width {width}; the largest number "
                f"that divides both widths is {common_heads(widths['teacher'], widths['student'], width)}."
            )
