"""The run over all pieces of work: several at once, what is finished is kept, what is damaged is made again."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from threading import Event, Lock
from typing import Any

from potstill.corpus.cleaning import Rules
from potstill.corpus.digests import stamp
from potstill.corpus.reading import line_number
from potstill.corpus.shards import DamagedRow, read_shard, shard_key, told_of, write_shard
from potstill.corpus.sources import Unit
from potstill.corpus.words import Words
from potstill.errors import DataError
from potstill.files import sweep_drafts
from potstill.progress import Bar, Progress

_PARALLELISM = "TOKENIZERS_PARALLELISM"
_GLANCE = 0.2
"""Seconds between two looks at whether somebody asked to stop."""
_AHEAD = 4
"""So many pieces a thread are taken up before the first of them is done."""
_ONE_AT_A_TIME = Lock()
"""Of one process: two preparations would sweep up each other's drafts."""


@dataclass(frozen=True)
class Job:
    """How every piece of work is prepared.

    Attributes:
        folder: where shards are kept.
        text: the field or column with the text.
        skip: damaged rows are left out and counted.
        workers: pieces of work at once; 0 means one a usable core. They are threads: nearly all of their time goes
            into the tokenizer, which runs beside other threads. One that is written in Python does not: it has one.
    """

    folder: Path
    text: str
    words: Words
    rules: Rules
    skip: bool
    workers: int

    @property
    def threads(self) -> int:
        """How many pieces of work are prepared at once."""
        return 1 if self.words.backend is None else self.workers or _cores()


@dataclass(frozen=True)
class Shard:
    """A finished piece of work.

    Attributes:
        manifest: its numbers, as `write_shard` left them.
        unit: what it is made of.
        made: whether it had to be made now, and `again`: in the place of a damaged one.
    """

    folder: Path
    manifest: dict[str, Any]
    unit: Unit
    made: bool
    again: bool


class _Halt(Exception):  # noqa: N818 - nothing went wrong
    """Another piece of work cannot go on, or the user asked to stop."""


def prepare(units: Sequence[Unit], job: Job, progress: Progress, rows: int | None = None) -> list[Shard]:
    """The shards of the pieces of work, in their order.

    Args:
        rows: pieces behind the ones that hold so many rows are left alone.

    Raises: DataError for a damaged row where none is allowed, and for a file that changed meanwhile.
    """
    job.rules.check(job.words)
    with _ONE_AT_A_TIME:
        sweep_drafts(job.folder)
        with progress.bar("preparing", len(units)) as bar, _one_core_a_thread():
            shards = _Preparation(units, job, bar).run(rows)
    if again := [shard for shard in shards if shard.again]:
        progress.note(f"{len(again)} damaged shards were made again, such as {again[0].folder}.")
    return shards


class _Preparation:
    def __init__(self, units: Sequence[Unit], job: Job, bar: Bar) -> None:
        self.units, self.job, self.bar = units, job, bar
        self._halt = Event()

    def run(self, rows: int | None) -> list[Shard]:
        """Takes what the threads made in the order of the pieces, so that neither it nor an error depends on them."""
        pool = ThreadPoolExecutor(self.job.threads, "preparing")
        begun: dict[Path, Future[Shard]] = {}  # files of one content share a shard
        waiting: deque[tuple[Path, Unit]] = deque()
        left, done, found, tokens = iter(self.units), list[Shard](), 0, 0
        try:
            while rows is None or found < rows:
                for unit in islice(left, _AHEAD * self.job.threads - len(waiting)):
                    folder = self.job.folder / shard_key(unit, self.job.text, self.job.words, self.job.rules)
                    begun[folder] = begun.get(folder) or pool.submit(self._shard, folder, unit)
                    waiting.append((folder, unit))
                if not waiting:
                    break
                folder, unit = waiting.popleft()
                shard = replace(self._result(begun[folder]), unit=unit)
                done.append(shard)
                found, tokens = found + shard.manifest["rows"], tokens + shard.manifest["tokens"]
                self.bar.advance(tokens=f"{tokens:,}")
        finally:
            self._halt.set()
            pool.shutdown(wait=True, cancel_futures=True)
        return done

    def _result(self, future: Future[Shard]) -> Shard:
        while not wait([future], timeout=_GLANCE).done:
            self.bar.advance(0)  # where somebody asked to stop, this raises
        return future.result()

    def _shard(self, folder: Path, unit: Unit) -> Shard:
        job, manifest, made, again = self.job, read_shard(folder), False, False
        if manifest is None:
            made, again = True, folder.exists()
            try:
                manifest = write_shard(
                    folder, unit, job.text, job.words, job.rules, job.skip, lambda: self._check(unit)
                )
            except DamagedRow as problem:
                raise _refused(str(problem), unit) from None
            except OSError:
                # Another process may have been faster, and its shard is as good.
                manifest = read_shard(folder)
                if manifest is None:
                    raise
        if manifest["bad"] and not job.skip:
            raise _refused(told_of(manifest, unit)[0], unit)
        return Shard(folder, manifest, unit, made, again)

    def _check(self, unit: Unit) -> None:
        if self._halt.is_set():
            raise _Halt
        _check_same(unit)


def with_line(told: str, unit: Unit) -> str:
    """A sentence about a damaged row; of a part of a long file with the line in place of the byte."""
    start = f"{unit.path}, byte "
    if not (told.startswith(start) and unit.begin):
        return told
    byte, _, rest = told.removeprefix(start).partition(":")
    return f"{unit.path}, line {line_number(Path(unit.path), int(byte))}:{rest}"


def _refused(told: str, unit: Unit) -> DataError:
    told = with_line(told, unit)
    return DataError(f'{told.removesuffix(".")} (data.corpus.bad_rows = "skip" leaves such rows out and counts them).')


def _check_same(unit: Unit) -> None:
    """Raises: DataError where the file is not what its hash says any more."""
    try:
        same = unit.stamp is None or stamp(Path(unit.path)) == unit.stamp
        told = "was changed"
    except OSError:
        same, told = False, "went away"
    if not same:
        raise DataError(f"{unit.path} {told} while it was prepared; run again when it is finished.")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _one_core_a_thread() -> Iterator[None]:
    """Within the block a call of a tokenizer runs in the thread that makes it, and not on all cores."""
    before = os.environ.get(_PARALLELISM)
    os.environ[_PARALLELISM] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_PARALLELISM]
        else:
            os.environ[_PARALLELISM] = before
