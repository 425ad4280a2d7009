"""What a recipe's texts come to as tokens; making it known makes them. Trains nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from potstill.context import splits_of
from potstill.corpus.running import RunningText
from potstill.corpus.words import words_of
from potstill.data.table import Tokens
from potstill.planning import built
from potstill.progress import Progress
from potstill.recipe import Recipe
from potstill.runner import expanded
from potstill.stage import Stage

_BUCKETS = 8
"""Into so many parts the lengths are divided."""
_FREQUENT = 10
"""So many of the most frequent tokens are told."""


@dataclass(frozen=True)
class PreparedSplit:
    """One data set, tokenized.

    Attributes:
        stage, split: where the recipe reads it first.
        source: how errors name it.
        told: what became of it, in words.
        facts: numbers of documents, sequences, tokens, what was dropped by which rule, damaged rows and seconds.
        table: the sequences.
    """

    stage: str
    split: str
    source: str
    told: str
    facts: dict[str, Any]
    table: Tokens
    tokenizer: Any

    def statistics(self) -> dict[str, Any]:
        """A histogram of lengths ([shortest, longest, sequences] each), the share of unknown tokens, and the most
        frequent tokens with their shares."""
        tokenizer = self.tokenizer
        counts = self.table.counts(max(tokenizer.get_vocab().values()) + 1)
        total = max(1, int(counts.sum()))
        unknown = words_of(tokenizer).unknown
        often = [number for number in np.argsort(-counts, kind="stable")[:_FREQUENT].tolist() if counts[number]]
        words = tokenizer.convert_ids_to_tokens(often)
        return {
            "lengths": _histogram(self.table.lengths),
            "unknown": 0.0 if unknown < 0 else int(counts[unknown]) / total,
            "frequent": {word: int(counts[number]) / total for word, number in zip(words, often, strict=True)},
        }


def prepare(recipe: Recipe, data_root: Path, progress: Progress) -> list[PreparedSplit]:
    """Tokenizes all that a recipe reads into the cache, where the run finds it; each data set is told once.

    Raises: DataError for what cannot be read; Interrupted where the user asked to stop: the same call goes on.
    """
    found: dict[str, PreparedSplit] = {}
    for stage in built(expanded(recipe), data_root, progress):
        for one in _of_stage(stage):
            found.setdefault(one.table.key, one)
    return list(found.values())


def _of_stage(stage: Stage) -> Iterator[PreparedSplit]:
    context, tokenizer = stage.context, stage.student.tokenizer
    for split in splits_of(stage.plan):
        started, source = perf_counter(), context.source(split, stage.data)
        rows = stage.examples(split)
        if source is None or rows is None:
            continue
        table = rows.student
        facts: dict[str, Any] = {"sequences": len(table), "tokens": int(table.lengths.sum())}
        told = f"{facts['sequences']:,} rows, {facts['tokens']:,} tokens"
        if isinstance(source, RunningText):
            done = source.prepared(tokenizer, stage.data.max_length, Progress())
            told = done.told
            facts |= {"documents": done.total("documents"), "characters": done.total("characters")}
            facts |= {"dropped": done.dropped, "damaged": done.total("bad") + len(source.found.bad), "bad": done.bad}
            facts |= {"shards": len(done.shards)}
        facts["seconds"] = perf_counter() - started
        yield PreparedSplit(stage.plan.name, split, source.path, told, facts, table, tokenizer)


def _histogram(lengths: np.ndarray) -> list[tuple[int, int, int]]:
    longest = int(lengths.max(initial=1))
    edges = np.unique(np.linspace(0, longest, _BUCKETS + 1).round().astype(int))
    counts, _ = np.histogram(lengths, np.append(edges[:-1] + 0.5, longest + 0.5))
    return [(int(low) + 1, int(high), int(n)) for low, high, n in zip(edges, edges[1:], counts, strict=False)]
