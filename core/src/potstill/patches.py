"""Patches: a tensor written over part of a layer's output during one forward pass, as interventions need it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from potstill.errors import ShapeError


@dataclass(frozen=True, eq=False)
class Patch:
    """What is written over part of one layer's output, out of place: gradients reach `value` and all that stays.

    Attributes:
        layer: whose output, counted as in `Hidden`: 0 is the embedding output, negative ones count from the end.
        rows: [n] int64, rows of the batch.
        positions: [n] int64, positions in those rows. A place (row, position) comes once.
        value: [n, stop - start], what these places hold afterwards; it takes on the dtype and device of the output.
        start: the first column.
        stop: the column behind the last one; None is the width of the output.
    """

    layer: int
    rows: Tensor
    positions: Tensor
    value: Tensor
    start: int = 0
    stop: int | None = None


def patched(hidden: Tensor, patches: Sequence[Patch], side: str) -> Tensor:
    """A layer's output [batch, seq, width] with patches written over it in their order; `hidden` stays as it is.

    Args:
        side: "teacher" or "student", for errors.

    Raises:
        ShapeError: a patch whose shapes, rows, positions or columns do not fit.
    """
    written = hidden.clone()
    for patch in patches:
        stop = hidden.shape[-1] if patch.stop is None else patch.stop
        _check(patch, stop, hidden, side)
        written[patch.rows, patch.positions, patch.start : stop] = patch.value.to(hidden)
    return written


def head_columns(
    heads: tuple[int, int], head_dim: int, dims: tuple[int, int] | None = None
) -> tuple[tuple[int, int], ...]:
    """The columns of a hidden state that belong to some dimensions of some heads: ranges (start, stop).

    Heads lie side by side: head h has the columns h * head_dim up to (h + 1) * head_dim.

    Args:
        heads: first head, from 0, and the one behind the last.
        head_dim: columns of a head.
        dims: first dimension in each head and the one behind the last; None takes whole heads, as one range.

    Raises:
        ShapeError: an empty range, or dimensions that a head has not.
    """
    first, last = heads
    start, stop = (0, head_dim) if dims is None else dims
    if not 0 <= first < last:
        raise ShapeError(f"Heads {first} to {last} are no range of heads; it begins at 0 or later and holds one head.")
    if not 0 <= start < stop <= head_dim:
        raise ShapeError(f"Dimensions {start} to {stop} are no range within a head, which has {head_dim}.")
    if (start, stop) == (0, head_dim):
        return ((first * head_dim, last * head_dim),)
    return tuple((head * head_dim + start, head * head_dim + stop) for head in range(first, last))


def _check(patch: Patch, stop: int, hidden: Tensor, side: str) -> None:
    batch, seq, width = hidden.shape
    if not 0 <= patch.start < stop <= width:
        raise ShapeError(
            f"A patch writes over columns {patch.start} to {stop} of layer {patch.layer} of the {side}, which has "
            f"{width}."
        )
    count = len(patch.rows)
    shapes = [list(part.shape) for part in (patch.rows, patch.positions, patch.value)]
    if shapes != [[count], [count], [count, stop - patch.start]]:
        raise ShapeError(
            f"A patch of layer {patch.layer} of the {side} has rows {shapes[0]}, positions {shapes[1]} and value "
            f"{shapes[2]}, where {[count]}, {[count]} and {[count, stop - patch.start]} fit together."
        )
    # On an accelerator a look at the numbers would wait for it; it has a check of its own.
    if hidden.device.type == "cpu" and not (_within(patch.rows, batch) and _within(patch.positions, seq)):
        raise ShapeError(
            f"A patch of layer {patch.layer} of the {side} names a place that is not there: the batch has {batch} rows "
            f"of {seq} positions."
        )


def _within(numbers: Tensor, size: int) -> bool:
    return bool(torch.all((numbers >= 0) & (numbers < size)))
