"""What a run tells its user while it works. This base says nothing; `potstill.cli.display` shows bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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


class Stoppable(Progress):
    """Passes everything on to another progress and calls `check`, which may raise, at every step of every bar.

    For long work that leaves nothing half-done when it is broken off.
    """

    def __init__(self, progress: Progress, check: Callable[[], None]) -> None:
        self._progress = progress
        self._check = check

    def note(self, text: str) -> None:
        self._progress.note(text)

    @contextmanager
    def bar(self, name: str, total: int | None, done: int = 0) -> Iterator[Bar]:
        self._check()
        with self._progress.bar(name, total, done) as bar:
            yield _StoppableBar(bar, self._check)


class _StoppableBar(Bar):
    def __init__(self, bar: Bar, check: Callable[[], None]) -> None:
        self._bar = bar
        self._check = check

    def advance(self, steps: int = 1, **facts: float | str) -> None:
        self._bar.advance(steps, **facts)
        self._check()
