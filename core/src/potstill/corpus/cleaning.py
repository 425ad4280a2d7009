"""From the tokens of documents to sequences of a model's length: split, pack or cut, and what is dropped by which rule.

All on flat arrays: a step handles some thousand documents at once.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from potstill.errors import DataError

if TYPE_CHECKING:
    from potstill.corpus.words import Ids, Words

Numbers = npt.NDArray[np.int64]
Layout = Literal["split", "pack", "cut"]


@dataclass(frozen=True)
class Rules:
    """How sequences are made of documents.

    Attributes:
        max_length: the most tokens of a sequence, special ones included.
        layout: "split", "pack" or "cut".
        min_tokens: shorter sequences, special tokens counted, are dropped ("short").
        max_unknown: sequences with this share of unknown tokens or more are dropped ("unknown"); 1 drops none.
    """

    max_length: int
    layout: Layout = "split"
    min_tokens: int = 12
    max_unknown: float = 0.5

    def check(self, words: Words) -> None:
        """Raises: DataError where no sequence could be left."""
        room = self.max_length - words.special
        least = 1 + len(words.before) if self.layout == "split" else 1
        if room < least:
            raise DataError(
                f"max_length = {self.max_length} leaves no room for text: {words.special} tokens of a sequence are "
                f"special ones, so data.max_length must be {words.special + least} or more."
            )
        if self.min_tokens > self.max_length:
            raise DataError(
                f"min_tokens = {self.min_tokens} is more than max_length = {self.max_length}, so no sequence could be "
                "kept; lower data.corpus.min_tokens."
            )


class Cleaner:
    """Turns documents into sequences, step by step; one for each unit of work.

    Attributes:
        dropped: by rule, the sequences that were dropped: "empty" (documents without a token), "short", "unknown";
            and "cut", the tokens that "cut" left out.
    """

    def __init__(self, words: Words, rules: Rules) -> None:
        rules.check(words)
        self.words, self.rules = words, rules
        self.dropped: Counter[str] = Counter()
        self._waiting = np.zeros(0, np.int32)

    def add(self, flat: Ids, lengths: Numbers) -> tuple[Ids, Numbers]:
        """The sequences that some documents make, behind each other, and their lengths.

        Args:
            flat: the documents' tokens behind each other, without special tokens.
            lengths: [documents], tokens of each.
        """
        self.dropped["empty"] += int((lengths == 0).sum())
        if self.rules.layout == "pack":
            flat = self._joined(flat, lengths)
            room = self.rules.max_length - self.words.special
            whole = len(flat) // room * room
            self._waiting = flat[whole:].copy()
            starts = np.arange(0, whole, room, dtype=np.int64)
            return self._sequences(flat, starts, np.full(len(starts), room, np.int64))
        starts = np.cumsum(lengths) - lengths
        kept = lengths > 0
        if self.rules.layout == "split":
            return self._sequences(flat, *self._split(starts[kept], lengths[kept]))
        room = self.rules.max_length - self.words.special
        self.dropped["cut"] += int(np.maximum(lengths - room, 0).sum())
        return self._sequences(flat, starts[kept], np.minimum(lengths[kept], room))

    def rest(self) -> tuple[Ids, Numbers]:
        """What is left when the last documents are in: the end of a packed unit."""
        left, self._waiting = self._waiting, np.zeros(0, np.int32)
        starts = np.zeros(int(len(left) > 0), np.int64)
        return self._sequences(left, starts, starts + len(left))

    def _split(self, starts: Numbers, lengths: Numbers) -> tuple[Numbers, Numbers]:
        """Where the pieces of documents start, and their lengths.

        As DistilBERT's lm_seqs_dataset.py: a document that with its special tokens is longer than max_length is cut,
        special tokens included, into parts of max_length less special tokens, and each part gets those it lacks. So a
        long document's first part is one token short of the others, and a part that holds only [SEP] is none.
        """
        before, special = len(self.words.before), self.words.special
        room = self.rules.max_length - special
        long = lengths + special > self.rules.max_length
        parts = np.where(long, -(-(lengths + before) // room), 1)
        document = np.repeat(np.arange(len(lengths)), parts)
        number = np.arange(len(document)) - np.repeat(np.cumsum(parts) - parts, parts)
        first = np.where(long[document], np.maximum(number * room - before, 0), 0)
        last = np.where(long[document], np.minimum((number + 1) * room - before, lengths[document]), lengths[document])
        return starts[document] + first, last - first

    def _joined(self, flat: Ids, lengths: Numbers) -> Ids:
        """What waits and the documents, each followed by the token that stands between documents."""
        filled = lengths[lengths > 0]
        ends = np.cumsum(filled)
        joined = np.insert(flat, np.repeat(ends, len(self.words.between)), np.tile(self.words.between, len(ends)))
        return np.concatenate([self._waiting, joined.astype(np.int32)])

    def _sequences(self, flat: Ids, starts: Numbers, lengths: Numbers) -> tuple[Ids, Numbers]:
        """The pieces that the rules keep, with special tokens around each."""
        words = self.words
        whole = lengths + words.special
        long_enough = whole >= self.rules.min_tokens
        known = np.ones(len(starts), bool)
        if words.unknown >= 0 and self.rules.max_unknown < 1:
            so_far = np.concatenate([[0], np.cumsum(flat == words.unknown)])
            known = so_far[starts + lengths] - so_far[starts] < self.rules.max_unknown * whole
        kept = long_enough & known
        self.dropped["short"] += int((~long_enough).sum())
        self.dropped["unknown"] += int((long_enough & ~known).sum())
        return _surrounded(flat, starts[kept], lengths[kept], words), whole[kept]


def _surrounded(flat: Ids, starts: Numbers, lengths: Numbers, words: Words) -> Ids:
    whole = lengths + words.special
    begins = np.cumsum(whole) - whole
    made = np.empty(int(whole.sum()), np.int32)
    for place, token in enumerate(words.before):
        made[begins + place] = token
    for place, token in enumerate(words.after):
        made[begins + len(words.before) + lengths + place] = token
    steps = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    made[np.repeat(begins + len(words.before), lengths) + steps] = flat[np.repeat(starts, lengths) + steps]
    return made
