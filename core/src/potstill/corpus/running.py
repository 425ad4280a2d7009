"""Running text in the place of rows with labels: what a run reads of a recipe's `[data.corpus]`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from potstill.corpus.cleaning import Rules
from potstill.corpus.preparing import Job, Shard, prepare, with_line
from potstill.corpus.shards import told_of
from potstill.corpus.sources import Listing, listing
from potstill.corpus.table import CorpusTable
from potstill.corpus.words import words_of
from potstill.errors import DataError
from potstill.files import text_hash

if TYPE_CHECKING:
    from potstill.progress import Progress
    from potstill.settings import CorpusConfig
    from potstill.tasks import Task


@dataclass(frozen=True)
class RunningText:
    """The files of a corpus, found and hashed.

    Attributes:
        found: the pieces of work.
        path: how errors name the data, such as "data.train = 'a.txt'".
        text: the field or column with the text.
        rows: only the first so many sequences; None: all.
        cache: the folder that prepared shards are kept below.
    """

    found: Listing
    path: str
    text: str
    rows: int | None
    config: CorpusConfig
    cache: Path
    _done: dict[tuple[str, int], Prepared] = field(default_factory=dict, init=False)

    @property
    def fingerprint(self) -> str:
        """A hash of all content and of what is read of it."""
        units = [f"{unit.content} {file}" for unit, file in zip(self.found.units, self.found.files, strict=True)]
        return text_hash("|".join([*units, self.text, str(self.rows)]))

    def prepared(self, tokenizer: Any, max_length: int, progress: Progress) -> Prepared:
        """The sequences, prepared first where they are not there.

        Raises: DataError for damaged rows, and where nothing is left.
        """
        config, words = self.config, words_of(tokenizer)
        if (words.key, max_length) in self._done:
            return self._done[words.key, max_length]
        rules = Rules(max_length, config.layout, config.min_tokens, config.max_unknown)
        job = Job(self.cache / "corpus" / "shards", self.text, words, rules, config.bad_rows == "skip", config.workers)
        shards = prepare(self.found.units, job, progress, self.rows)
        done = Prepared(self, tuple(shards), words.types)
        if not len(done.table):
            raise DataError(f"{self.path} leaves no sequence: {done.told}.")
        if any(shard.made for shard in shards):
            progress.note(f"{self.path}: {done.told}.")
        self._done[words.key, max_length] = done
        return done


@dataclass(frozen=True)
class Prepared:
    """A prepared corpus; `types` says whether its models read token types."""

    text: RunningText
    shards: tuple[Shard, ...]
    types: bool

    @cached_property
    def table(self) -> CorpusTable:
        """The sequences, memory-mapped."""
        return CorpusTable(self.shards, self.types, self.text.rows)

    @property
    def dropped(self) -> dict[str, int]:
        """By rule, how many sequences it dropped; "cut" counts tokens, "empty" documents."""
        rules = dict.fromkeys(rule for shard in self.shards for rule in shard.manifest["dropped"])
        counts = {rule: sum(shard.manifest["dropped"].get(rule, 0) for shard in self.shards) for rule in rules}
        return {rule: count for rule, count in counts.items() if count}

    @property
    def bad(self) -> list[str]:
        """The damaged files, and the first damaged rows, a sentence each."""
        return [*self.text.found.bad, *(told for shard in self.shards for told in told_of(shard.manifest, shard.unit))]

    def total(self, name: str) -> int:
        """The sum of a manifest's number over all shards."""
        return sum(shard.manifest[name] for shard in self.shards)

    @property
    def told(self) -> str:
        """How many documents there were and what became of them, in words."""
        return ", ".join(self._told())

    def _told(self) -> Iterator[str]:
        yield f"{self.total('documents'):,} documents → {len(self.table):,} sequences"
        yield f"{int(self.table.lengths.sum()):,} tokens"
        names = {"empty": "empty documents", "short": "short ones", "unknown": "mostly unknown ones"}
        for rule, count in self.dropped.items():
            yield f"{count:,} tokens cut off" if rule == "cut" else f"{count:,} {names[rule]} dropped"
        if rows := self.total("bad"):
            told, unit = next((told, one.unit) for one in self.shards for told in told_of(one.manifest, one.unit))
            yield f"{rows:,} damaged rows left out, such as {with_line(told, unit).removesuffix('.')}"
        if files := len(self.text.found.bad):
            yield f"{files:,} damaged files left out, such as {self.text.found.bad[0].removesuffix('.')}"
        if ignored := self.text.found.ignored:
            yield f"{ignored:,} other files left aside"


def open_running(
    spec: Any, text: str, corpus: CorpusConfig, rows: int | None, root: Path, where: str, cache: Path
) -> RunningText:
    """The files of a corpus.

    Args:
        text: the column of the text, in files that have columns.

    Raises: DataError for what is missing or damaged.
    """
    path = f"{where} = '{spec}'" if isinstance(spec, str) else f"{where} (a data set in memory)"
    found = listing(spec, text, root, where, cache, corpus.bad_rows == "skip")
    return RunningText(found, path, text, rows, corpus, cache)


def no_labels(rows: int, task: Task, where: str) -> Any:
    """[rows], a missing label for each, in the memory of one.

    Raises: DataError where a row of the task has more than one number for a label.
    """
    missing = [] if task.marks else task.targets([None], where)
    if not isinstance(missing, np.ndarray) or missing.ndim != 1:
        raise DataError(
            f"{where} is running text, and the task '{task.name}' reads rows with labels; leave out corpus."
        )
    return np.broadcast_to(missing, (rows,))
