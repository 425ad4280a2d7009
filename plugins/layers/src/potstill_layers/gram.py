"""Losses between products of two hidden states, as in TextBrewer's losses.py: fsp (gram) and nst (mmd).

Shapes: student and teacher are pairs of [batch, seq, width] (twice the same one for a layer with itself); mask
[batch, seq], 1 for tokens, None to count padding too. Every function returns a scalar, gives 0 (and a gradient of 0)
where the mask is empty, and widens half precision.
"""

from __future__ import annotations

from torch import Tensor

from potstill.tasks import full_precision
from potstill_layers.masked import Reference, difference, pairs, per_pair, require_equal_widths, tokens

Pair = tuple[Tensor, Tensor]


def fsp(student: Pair, teacher: Pair, mask: Tensor | None = None) -> Tensor:
    """MSE of AᵀB/len, [width, width] of each row: a mean per EXAMPLE, divided by width².

    After the flow of solution procedure (Yim et al., CVPR 2017). TextBrewer's fsp, which it also calls gram. Without
    a mask the padded length stands for len.

    Raises: ShapeError where a width differs.
    """
    for ours, theirs in zip(student, teacher, strict=True):
        require_equal_widths(ours, theirs, "fsp")
    return difference(_flow(student, mask), _flow(teacher, mask), None).square().mean()


def nst(student: Pair, teacher: Pair, mask: Tensor | None = None, *, reference: Reference | None = None) -> Tensor:
    """MSE of ABᵀ/width, [seq, seq] of each row: a mean per PAIR (POSITION_PAIR without a mask).

    After neuron selectivity transfer (arXiv 1707.01219). TextBrewer's nst, which it also calls mmd. The widths of
    student and teacher may differ.

    Args:
        reference: "textbrewer" divides by the padded length instead of the width where there is a mask, as the
            release on PyPI does; so a row's loss depends on the batch it is in. "textbrewer-head" changes nothing.
    """
    by_length = reference == "textbrewer" and mask is not None
    apart = difference(_similarity(student, by_length), _similarity(teacher, by_length), pairs(mask))
    return per_pair(apart.square().sum(), apart.shape, mask)


def _flow(states: Pair, mask: Tensor | None) -> Tensor:
    """AᵀB/len, [batch, width, width]."""
    first, second = full_precision(states[0]), full_precision(states[1])
    if mask is None:
        return first.transpose(1, 2) @ second / first.shape[1]
    lengths = mask.sum(-1).clamp(min=1).view(-1, 1, 1)
    keep = tokens(mask, 3)
    assert keep is not None
    return first.masked_fill(~keep, 0).transpose(1, 2) @ second.masked_fill(~keep, 0) / lengths


def _similarity(states: Pair, by_length: bool) -> Tensor:
    """ABᵀ/width (or seq), [batch, seq, seq]."""
    first, second = full_precision(states[0]), full_precision(states[1])
    return first @ second.transpose(1, 2) / first.shape[1 if by_length else 2]
