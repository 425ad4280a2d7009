"""Words near a word, by the angle between word vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from potstill.errors import DataError
from potstill_tinybert.words import whole_words

MOST_WORDS = 100_000
"""So many words of a file of vectors are read, the most frequent ones, as in the reference."""


class Neighbours:
    """The nearest words of a vocabulary.

    Args:
        words: the vocabulary.
        vectors: [words, width].
        count: how many neighbours a word has.
        vector_of: a word's own vector where it is not in the vocabulary, [width] or None.

    Attributes:
        vectors: [words, width], of length 1.
    """

    def __init__(
        self,
        words: Sequence[str],
        vectors: Tensor,
        count: int,
        vector_of: Callable[[str], Tensor | None] = lambda word: None,
    ) -> None:
        self.words = list(words)
        self.vectors = F.normalize(vectors, dim=1)
        self.count = min(count, len(self.words) - 1)
        self._numbers = {word: number for number, word in enumerate(self.words)}
        self._vector_of = vector_of
        self._known: dict[str, list[str]] = {}

    def of(self, word: str) -> list[str]:
        """The nearest words, nearest first, with a capital where the word has one; none where it is unknown."""
        if word not in self._known:
            near = self._near(word) or self._near(word.lower())
            self._known[word] = [other.title() for other in near] if word.istitle() else near
        return self._known[word]

    def _near(self, word: str) -> list[str]:
        own = self._numbers.get(word)
        vector = self.vectors[own] if own is not None else self._vector_of(word)
        if vector is None:
            return []
        closeness = self.vectors @ vector
        if own is not None:
            closeness[own] = -torch.inf
        return [self.words[number] for number in closeness.topk(self.count).indices.tolist()]


def from_file(path: Path, count: int) -> Neighbours:
    """Neighbours by a text file of word vectors: on each line a word and its numbers, as GloVe and word2vec write it.

    Raises: DataError for a file that is missing or holds something else, with the line.
    """
    words: list[str] = []
    vectors: list[list[float]] = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                word, *numbers = line.rstrip().split(" ")
                if number == 1 and len(numbers) == 1:  # word2vec's first line: how many words, how wide
                    continue
                words.append(word)
                vectors.append(_vector(numbers, vectors, path, number))
                if len(words) == MOST_WORDS:
                    break
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"The word vectors {path} (augmentation.vectors) cannot be read: {reason}.") from None
    if len(words) < 2:
        raise DataError(f"The word vectors {path} (augmentation.vectors) hold {len(words)} words.")
    return Neighbours(words, torch.tensor(vectors), count)


def _vector(numbers: list[str], before: list[list[float]], path: Path, line: int) -> list[float]:
    # A few words of GloVe's largest file have spaces in them; what comes last are the numbers.
    width = len(before[0]) if before else len(numbers)
    try:
        if len(numbers) < max(width, 1):
            raise ValueError
        return [float(number) for number in numbers[-width:]]
    except ValueError:
        raise DataError(
            f"The word vectors {path} (augmentation.vectors), line {line}: not a word and {width or 'its'} numbers."
        ) from None


def from_embeddings(embeddings: Tensor, tokenizer: Any, count: int) -> Neighbours:
    """Neighbours by a model's own word embeddings; a word of several pieces is where their mean points.

    Args:
        embeddings: [vocabulary, width].
        tokenizer: the model's.
    """
    words = {word: number for number, word in whole_words(tokenizer).items() if word.isalpha()}
    vectors = embeddings.detach().float().cpu()

    def mean_of_pieces(word: str) -> Tensor | None:
        pieces = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
        known = [piece for piece in pieces if piece != tokenizer.unk_token_id]
        return F.normalize(vectors[known].mean(0), dim=0) if known else None

    return Neighbours(list(words), vectors[list(words.values())], count, mean_of_pieces)
