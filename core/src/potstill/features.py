"""The names of what a plugin can look at inside a model.

Layers count from 1: layer i produces `Hidden(i)`, and `Hidden(0)` is the embedding output.
A negative layer counts from the end (-1 is the last one).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Hidden:
    """The output of a layer, [batch, seq, hidden]; 0 is the embedding output."""

    layer: int


@dataclass(frozen=True)
class QKV:
    """A layer's projected queries, keys and values, a `Projections`, as attention receives them."""

    layer: int


@dataclass(frozen=True)
class Scores:
    """A layer's attention scores QK^T * scaling + mask, [batch, heads, seq, seq], before the softmax."""

    layer: int


@dataclass(frozen=True)
class Attention:
    """The softmax of a layer's `Scores`, [batch, heads, seq, seq], without dropout."""

    layer: int


@dataclass(frozen=True)
class Output:
    """What the whole model puts out: `LOGITS` or `POOLED`."""

    name: str


class Projections(NamedTuple):
    """Queries, keys and values of one layer, each [batch, heads, seq, head_dim]."""

    query: Tensor
    key: Tensor
    value: Tensor


LOGITS = Output("logits")
POOLED = Output("pooled")

Inner = Hidden | QKV | Scores | Attention
Feature = Inner | Output
