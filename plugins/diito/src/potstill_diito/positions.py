"""Which tokens are swapped: chosen row by row, so that a row swaps the same in any batch and on any rank."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from potstill.data.random import RowRandom


class Swaps(NamedTuple):
    """Pairs of positions: the n-th replaces `base[n]` of row `rows[n]` by what stands at `source[n]` of its source.

    Within a row the k-th swapped base position takes the k-th swapped source position. Each is [n] int64.
    """

    rows: Tensor
    base: Tensor
    source: Tensor


def count_of(base: Tensor, source: Tensor, prop: float, most: int | None = None) -> Tensor:
    """[batch] int64, how many tokens a row swaps: the floor of prop · the shorter length, at most `most`; may be 0.

    Args:
        base, source: [batch], lengths in tokens, special ones included.
        prop: 0 to 1 (`interchange_prop`).
        most: None: no limit (`interchange_max_token`, -1 there).
    """
    found = (torch.minimum(base, source).double() * prop).long()
    return found if most is None else found.clamp(max=most)


def consecutive(length: Tensor, count: Tensor, width: int, rng: RowRandom) -> Tensor:
    """[batch, width] bool, `count` positions in a row from a uniform start within the row's own tokens.

    Args:
        length, count: [batch].
    """
    # The product in float64: a float32 below 1 times a whole number may round up to it.
    start = (rng.uniform(1).double() * (length - count + 1)[:, None]).long()
    at = torch.arange(width)
    return (at >= start) & (at < start + count[:, None])


def scattered(allowed: Tensor, count: Tensor, rng: RowRandom) -> Tensor:
    """[batch, width] bool, `count` of the allowed positions, every choice of them equally likely.

    Args:
        allowed: [batch, width] bool, at least `count` True a row.
        count: [batch].
    """
    draws = rng.uniform(allowed.shape[1]).masked_fill(~allowed, 2.0)
    rank = draws.argsort(dim=1, stable=True).argsort(dim=1)
    return rank < count[:, None]


def paired(base: Tensor, source: Tensor) -> Swaps:
    """The swaps of two masks, [batch, width] each (widths may differ), True where a position is swapped.

    Rows have as many in the one as in the other.
    """
    rows, at = base.nonzero(as_tuple=True)
    _, known = source.nonzero(as_tuple=True)
    return Swaps(rows, at, known)


def pasted(base: Tensor, source: Tensor, swaps: Swaps) -> Tensor:
    """[batch, width] the base's ids with the source's at the swapped positions (`data_augment`)."""
    mixed = base.clone()
    mixed[swaps.rows, swaps.base] = source[swaps.rows, swaps.source]
    return mixed


def fitted(inputs: dict[str, Tensor], width: int, pad: int) -> dict[str, Tensor]:
    """Inputs as wide as another batch: longer rows cut (they lose their last special token), shorter ones padded.

    As the authors' code makes a source batch of its base batch's width.

    Args:
        inputs: [batch, any] each.
        pad: fills `input_ids`; others are filled with 0.
    """
    return {name: _fitted(value, width, pad if name == "input_ids" else 0) for name, value in inputs.items()}


def _fitted(value: Tensor, width: int, fill: int) -> Tensor:
    missing = width - value.shape[1]
    return torch.nn.functional.pad(value, (0, missing), value=fill) if missing > 0 else value[:, :width]
