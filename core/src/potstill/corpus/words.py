"""A tokenizer as the preparation uses it: texts to ids without special tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from potstill.data.encode import tokenizer_key
from potstill.errors import DataError

Ids = npt.NDArray[np.int32]

PIECE = 1 << 20
"""Characters that are tokenized at once; a longer text goes in pieces, each cut before a space where there is one."""


@dataclass(frozen=True)
class Words:
    """What turns text into tokens.

    Attributes:
        backend: the JSON of a fast tokenizer; None for one that is written in Python.
        slow: that one.
        key: a hash of everything that decides which tokens a text becomes.
        before, after: the special tokens around a sequence.
        between: the token between two documents of a packed sequence; () where the tokenizer has none.
        unknown: the id of an unknown token; -1 where the tokenizer knows every text.
        vocabulary: one more than the highest id.
        types: whether models of this tokenizer read token types, all 0 here.
    """

    backend: str | None
    slow: Any
    key: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    between: tuple[int, ...]
    unknown: int
    vocabulary: int
    types: bool

    @property
    def special(self) -> int:
        """Special tokens of a sequence."""
        return len(self.before) + len(self.after)

    @cached_property
    def _fast(self) -> Any:
        from tokenizers import Tokenizer

        assert self.backend is not None
        tokenizer = Tokenizer.from_str(self.backend)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def ids(self, texts: Sequence[str]) -> tuple[Ids, npt.NDArray[np.int64]]:
        """The tokens of all texts behind each other, and [texts] how many each has."""
        pieces = [list(_pieces(text)) for text in texts]
        parts = [self._encoded(part) for part in _portions([piece for found in pieces for piece in found])]
        flat = np.concatenate([np.zeros(0, np.int32), *(ids for ids, _ in parts)])
        lengths = np.concatenate([np.zeros(0, np.int64), *(lengths for _, lengths in parts)])
        firsts = np.cumsum([0, *map(len, pieces)][:-1])
        return flat, np.add.reduceat(lengths, firsts) if len(pieces) else lengths

    def _encoded(self, texts: list[str]) -> tuple[Ids, npt.NDArray[np.int64]]:
        if self.backend is not None:
            found = [one.ids for one in self._fast.encode_batch_fast(texts, add_special_tokens=False)]
        else:
            found = self.slow(texts, add_special_tokens=False, verbose=False)["input_ids"]
        lengths = np.fromiter(map(len, found), np.int64, len(found))
        return np.fromiter(chain.from_iterable(found), np.int32, int(lengths.sum())), lengths


def words_of(tokenizer: Any) -> Words:
    """What the preparation needs of a tokenizer of `transformers`.

    Raises: DataError for one whose special tokens do not stand around the text.
    """
    before, after = _around(tokenizer)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    between = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    unknown = -1 if tokenizer.unk_token_id is None else tokenizer.unk_token_id
    return Words(
        backend=None if backend is None else backend.to_str(),
        slow=tokenizer if backend is None else None,
        key=tokenizer_key(tokenizer),
        before=before,
        after=after,
        between=() if between is None else (between,),
        # Byte-level vocabularies name their end token as the unknown one, which no text becomes.
        unknown=-1 if unknown == tokenizer.eos_token_id else unknown,
        vocabulary=max(tokenizer.get_vocab().values(), default=0) + 1,
        types="token_type_ids" in tokenizer.model_input_names,
    )


def _around(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens before and after a text, seen on one that becomes a token."""
    for text in ("a", "the", "0", *list(tokenizer.get_vocab())[:64]):
        bare = tokenizer(text, add_special_tokens=False)["input_ids"]
        if not bare or set(bare) & set(tokenizer.all_special_ids):
            continue
        whole = tokenizer(text)
        ids = whole["input_ids"]
        if any(whole.get("token_type_ids", ())):
            raise DataError("This tokenizer gives one text token types other than 0, which a corpus does not keep.")
        for start in range(len(ids) - len(bare) + 1):
            if ids[start : start + len(bare)] == bare:
                return tuple(ids[:start]), tuple(ids[start + len(bare) :])
    raise DataError("This tokenizer turns no text into tokens between its special ones, so it can prepare no corpus.")


def _pieces(text: str) -> Iterator[str]:
    """A text in parts of at most `PIECE` characters."""
    start = 0
    while len(text) - start > PIECE:
        space = text.rfind(" ", start + PIECE // 2, start + PIECE)
        end = start + PIECE if space < 0 else space  # a space may belong to the word behind it
        yield text[start:end]
        start = end
    yield text[start:]


def _portions(texts: list[str]) -> Iterator[list[str]]:
    """Neighbours that together have about `PIECE` characters: an encoding takes many times the room of its text."""
    portion: list[str] = []
    size = 0
    for text in texts:
        portion.append(text)
        size += len(text)
        if size >= PIECE:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion
