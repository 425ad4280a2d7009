"""PP-MiniLM's three relations (PaddleNLP's calc_multi_relation_loss), on queries, keys and values alone.

Shapes: B rows, L positions with padding, H attention heads, D their width, R relation heads of width d = H * D / R.
Both models read the same tokens. There is no gradient in the teacher. Everything is MiniLM's `relation_kl` over
vectors that are arranged in another order: what is related to each other stands in the last but one dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from potstill_minilm.losses import relation_heads_of
from potstill_minilm.relations import Related, relation_kl
from torch import Tensor

from potstill.features import Projections

Relation = Literal["token", "head", "sample"]
"""What is related: tokens of a row, heads of a token, or the rows of a micro-batch at one position."""
Mode = Literal["corrected", "reference"]


def relation_loss(
    teacher: Projections, student: Projections, relation: Relation, mask: Tensor, relation_heads: int, mode: Mode
) -> Tensor:
    """`vectors_loss` of queries, keys and values, summed."""
    return torch.stack(
        [
            vectors_loss(known, learnt, relation, mask, relation_heads, mode)
            for known, learnt in zip(teacher, student, strict=True)
        ]
    ).sum()


def vectors_loss(
    teacher: Tensor, student: Tensor, relation: Relation, mask: Tensor, relation_heads: int, mode: Mode
) -> Tensor:
    """KL(teacher || student) of one kind of relation among a layer's queries, keys or values.

    With x as [B, R, L, d], a relation is softmax(x x^T / sqrt(d)) over

    - "token": the tokens of the row, for each row and head;
    - "head": the heads of the token, for each row and position;
    - "sample": the rows of the batch at that position, for each position and head.

    Args:
        teacher, student: each [B, H, L, D]; heads and widths may differ.
        mask: [B, L], 1 for tokens.
        relation_heads: R, divides both models' H * D.
        mode: "corrected": padding is related to nothing, and the loss is the mean over heads and tokens.
            "reference": the sum over all positions / (R * L * B); padding is no key among tokens, but its queries
            count, and among heads and samples the mask does nothing at all.

    Returns: nats, a scalar.
    Raises: ShapeError where R does not divide a width.
    """
    if mode not in get_args(Mode):
        raise ValueError(f"mode = '{mode}' is none of {', '.join(get_args(Mode))}")
    arrange, lay, masks_keys = ARRANGEMENTS[relation]
    seen = mask.bool()
    counted = seen.double() if mode == "corrected" else torch.ones_like(seen, dtype=torch.float64)
    weights = lay(counted / counted.sum().clamp(min=1) / relation_heads, relation_heads)
    keys = lay(seen, relation_heads) if masks_keys[mode] else None
    known, learnt = (
        Related(arrange(relation_heads_of(heads, relation_heads, side)))
        for heads, side in ((teacher, "teacher"), (student, "student"))
    )
    return relation_kl(known, learnt, weights, keys)


def _tokens(heads: Tensor) -> Tensor:
    return heads


def _heads(heads: Tensor) -> Tensor:
    """[B * L, 1, R, d]: every position is a set of heads by itself, so that each has a weight of its own."""
    return heads.transpose(1, 2).flatten(0, 1).unsqueeze(1)


def _samples(heads: Tensor) -> Tensor:
    """[L, R, B, d]"""
    return heads.permute(2, 1, 0, 3)


def _by_row(positions: Tensor, relation_heads: int) -> Tensor:
    return positions


def _by_head(positions: Tensor, relation_heads: int) -> Tensor:
    return positions.reshape(-1, 1).expand(-1, relation_heads)


def _by_position(positions: Tensor, relation_heads: int) -> Tensor:
    return positions.T


ARRANGEMENTS: dict[Relation, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, int], Tensor], dict[Mode, bool]]] = {
    "token": (_tokens, _by_row, {"corrected": True, "reference": True}),
    "head": (_heads, _by_head, {"corrected": False, "reference": False}),
    "sample": (_samples, _by_position, {"corrected": True, "reference": False}),
}
"""How a relation's vectors are arranged, how [B, L] is laid on them, and whether padding is left out of its keys.

All heads of one token are there or none is, so that the heads have no key to leave out.
"""
