"""MiniLM's losses (arXiv 2002.10957) and MiniLMv2's (arXiv 2012.15828), on queries, keys and values alone.

Shapes: B rows, L tokens with padding, H attention heads, D their width, R relation heads. Both models read the same
tokens. There is no gradient in the teacher.
"""

from __future__ import annotations

from math import gcd
from typing import Literal, get_args

import torch
from torch import Tensor

from potstill.errors import ShapeError
from potstill.features import Projections
from potstill_minilm.relations import Related, relation_kl

Normalisation = Literal["example", "token", "all_rows"]
"""What the loss is a mean of: see `pair_loss`."""
Letter = Literal["q", "k", "v"]


def pair_loss(
    teacher: Projections,
    student: Projections,
    pair: str,
    mask: Tensor,
    relation_heads: int,
    normalisation: Normalisation = "example",
) -> Tensor:
    """KL(teacher || student) of one relation: softmax(X Y^T / sqrt(d_r)) over a row's tokens, in relation heads.

    MiniLMv2, eq. 5: X and Y are split into R relation heads of width d_r = H * D / R, contiguous slices of the joined
    heads; X = Y for "qq", "kk" and "vv". With R = H, "qk" is the attention distribution and "vv" the value relation
    of MiniLM (eqs. 6 to 9). Each model divides by the root of its own d_r.

    Args:
        teacher, student: each [B, H, L, D]; heads and widths may differ.
        pair: two of "q", "k", "v", such as "qk".
        mask: [B, L], 1 for tokens; padding is never a key.
        relation_heads: R, divides both models' H * D.
        normalisation: "example": a row's sum over heads and its own tokens / (R * its tokens), the mean over rows
            (bloomberg/minilmv2.bb); "token": the mean over heads and all tokens; "all_rows": queries of padding
            count too, in sum and mean (PaddleNLP's calc_minilm_loss / (R * L * B)).

    Returns: nats, a scalar: a mean per EXAMPLE, TOKEN or POSITION; 0 where there is no token.
    Raises: ShapeError where R does not divide a width, or the two sides of a pair have different widths.
    """
    known = related(teacher, pair, relation_heads, "teacher")
    learnt = related(student, pair, relation_heads, "student")
    weights = row_weights(mask, normalisation).to(learnt.left.device) / relation_heads
    return relation_kl(known, learnt, weights, mask)


def row_weights(mask: Tensor, normalisation: Normalisation) -> Tensor:
    """[B, L] float64, what each query row counts, so that the weights sum to 1 (to the share of rows with a token)."""
    if normalisation not in get_args(Normalisation):
        raise ValueError(f"normalisation = '{normalisation}' is none of {', '.join(get_args(Normalisation))}")
    exact = mask.double()
    if normalisation == "all_rows":
        return torch.full_like(exact, 1 / max(1, exact.numel()))
    if normalisation == "token":
        return exact / exact.sum().clamp(min=1)
    return exact / exact.sum(1, keepdim=True).clamp(min=1) / max(1, len(exact))


def related(projections: Projections, pair: str, relation_heads: int, who: str) -> Related:
    """The two sides of a pair as [B, R, L, d_r]; one where it relates something to itself.

    Raises: ShapeError where R does not divide a width, or the two sides have different ones.
    """
    named = dict(zip("qkv", projections, strict=True))
    left = relation_heads_of(named[pair[0]], relation_heads, who)
    if pair[0] == pair[1]:
        return Related(left)
    right = relation_heads_of(named[pair[1]], relation_heads, who)
    if left.shape != right.shape:
        raise ShapeError(
            f"The relation '{pair}' needs queries, keys and values of one width; the {who}'s heads are "
            f"{list(named[pair[0]].shape)} and {list(named[pair[1]].shape)}."
        )
    return Related(left, right)


def relation_heads_of(heads: Tensor, relation_heads: int, who: str) -> Tensor:
    """Attention heads [B, H, L, D] as relation heads [B, R, L, d_r].

    Raises: ShapeError where R does not divide the width H * D.
    """
    batch, number, length, width = heads.shape
    if (number * width) % relation_heads:
        raise ShapeError(
            f"relation_heads = {relation_heads} does not divide the {who}'s width {number * width}; take a divisor of "
            "both models' widths."
        )
    if number == relation_heads:
        return heads
    # The heads are joined first: slices of them, not of positions.
    return heads.transpose(1, 2).reshape(batch, length, relation_heads, -1).transpose(1, 2)


def common_heads(teacher: int, student: int, most: int) -> int:
    """The largest number of relation heads, at most `most`, that divides both widths."""
    common = gcd(teacher, student)
    return max(number for number in range(1, min(most, common) + 1) if common % number == 0)
