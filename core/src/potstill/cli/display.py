"""Bars and notes on standard error while a run works."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from potstill.progress import Bar, Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

Facts = dict[str, float | str]


def main_process() -> bool:
    """Whether this process is the one that speaks, among those that `accelerate launch` started."""
    return int(os.environ.get("RANK", "0")) == 0


def make_progress(quiet: bool = False) -> Progress:
    """Bars on a terminal, plain lines elsewhere, nothing where asked for quiet or not the first rank."""
    if quiet or not main_process():
        return Progress()
    return RichProgress() if sys.stderr.isatty() else LineProgress()


class RichProgress(Progress):
    """One moving bar for each piece of work under way; notes scroll past above them."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self._bars: Bars | None = None

    def note(self, text: str) -> None:
        (self._bars.console if self._bars else self._console).print(text, markup=False)

    @contextmanager
    def bar(self, name: str, total: int | None, done: int = 0) -> Iterator[Bar]:
        outermost = self._bars is None
        bars = self._bars or self._started()
        task = bars.add_task(name, total=total, completed=done, facts="")
        try:
            yield _RichBar(bars, task)
        finally:
            if outermost:
                self._bars = None
                bars.stop()
            else:
                bars.remove_task(task)

    def _started(self) -> Bars:
        from rich import progress

        self._bars = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(bar_width=30),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[facts]}", style="cyan", markup=False),
            console=self._console,
        )
        self._bars.start()
        return self._bars


class _RichBar(Bar):
    def __init__(self, bars: Bars, task: TaskID) -> None:
        self._bars = bars
        self._task = task
        self._facts: Facts = {}

    def advance(self, steps: int = 1, **facts: float | str) -> None:
        if facts:
            self._facts |= facts
            self._bars.update(self._task, advance=steps, facts=shown(self._facts))
        else:
            self._bars.advance(self._task, steps)


class LineProgress(Progress):
    """Plain lines for logs: a note each, and of longer work a line every half minute and one at its end."""

    def __init__(self, write: Callable[[str], None] | None = None, every: float = 30.0, shortest: float = 2.0) -> None:
        self._write = write or (lambda text: print(text, file=sys.stderr, flush=True))
        self._every = every
        self._shortest = shortest

    def note(self, text: str) -> None:
        self._write(text)

    @contextmanager
    def bar(self, name: str, total: int | None, done: int = 0) -> Iterator[Bar]:
        of = f" of {total}" if total is not None else ""
        started = time.monotonic()

        def tell(bar: _LineBar) -> None:
            facts = f", {shown(bar.facts)}" if bar.facts else ""
            self._write(f"{name}: {bar.done}{of} in {time.monotonic() - started:.0f} s{facts}")

        bar = _LineBar(done, tell, self._every)
        yield bar
        if time.monotonic() - started >= self._shortest:
            tell(bar)


class _LineBar(Bar):
    def __init__(self, done: int, tell: Callable[[_LineBar], None], every: float) -> None:
        self.done = done
        self.facts: Facts = {}
        self._tell = tell
        self._every = every
        self._told = time.monotonic()

    def advance(self, steps: int = 1, **facts: float | str) -> None:
        self.done += steps
        self.facts |= facts
        if time.monotonic() - self._told >= self._every:
            self._told = time.monotonic()
            self._tell(self)


def shown(facts: Facts) -> str:
    """ "loss 0.3124, accuracy 0.91": numbers with four digits."""
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in facts.items()
    )
