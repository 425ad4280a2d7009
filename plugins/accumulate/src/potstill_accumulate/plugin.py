"""The plugin `accumulate`: one update from several micro-batches, equal to one large batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from pydantic import Field

from potstill.plugin import Plugin, PluginConfig, hookimpl

if TYPE_CHECKING:
    import numpy as np

    from potstill.stage import Stage

T = TypeVar("T")


def runs(items: Sequence[T], length: int) -> Iterator[Sequence[T]]:
    """Cuts `items` into runs of `length`, in order; the last run holds what is left over."""
    for start in range(0, len(items), length):
        yield items[start : start + length]


class Accumulate(Plugin):
    """Sums the gradients of `batches` micro-batches before each update.

    The engine weighs each micro-batch by its share of the update's rows, tokens or labels, so the sum is the
    large batch's gradient and not a mean of means; nothing here divides a loss.
    """

    name = "accumulate"

    class Config(PluginConfig):
        batches: int = Field(4, ge=1)
        """Micro-batches per update; the left-over ones at an epoch's end make a smaller update."""

    config: Config

    @hookimpl
    def setup(self, stage: Stage) -> None:
        stage.claim("batching", self.groups)

    def groups(self, batches: Sequence[np.ndarray]) -> Iterator[Sequence[np.ndarray]]:
        """An epoch's micro-batches (each the rows of one), cut into the groups of its updates."""
        return runs(batches, self.config.batches)
