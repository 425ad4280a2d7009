"""What a run tells its user while it works. This base says nothing; `potstill.cli.display` shows bars."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Bar:
    """One piece of work under way."""

    def advance(self, steps: int = 1, **facts: float | str) -> None:
        """`steps` more are done; `facts` (loss=0.31) stand beside the bar."""


class Progress:
    """Receives notes and pieces of work."""

    def note(self, text: str) -> None:
        """One line worth keeping: a result, a decision, a warning."""

    @contextmanager
    def bar(self, name: str, total: int | None, done: int = 0) -> Iterator[Bar]:
        """A piece of work of `total` steps (None where unknown), `done` of them finished before."""
        yield Bar()
