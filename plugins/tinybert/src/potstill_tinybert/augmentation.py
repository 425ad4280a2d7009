"""TinyBERT's data augmentation (section 3.3, algorithm 1): variants of a text with some words replaced."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from potstill.context import model_key
from potstill.data.transform import Transform
from potstill.files import file_hash
from potstill_tinybert.masked_lm import Expectations, load_masked_lm
from potstill_tinybert.neighbours import Neighbours, from_embeddings, from_file
from potstill_tinybert.words import Word, replaceable

if TYPE_CHECKING:
    import numpy as np

    from potstill.stage import Stage
    from potstill_tinybert.config import AugmentationConfig


class Draws(Protocol):
    """What variants draw from; Python's `random.Random` is one."""

    def choice(self, candidates: Sequence[str], /) -> str:
        """One of several, each as likely."""

    def random(self) -> float:
        """A number from 0 to below 1."""


class RowDraws:
    """Draws from a row's own generator."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator

    def choice(self, candidates: Sequence[str], /) -> str:
        return candidates[int(self._generator.random() * len(candidates))]

    def random(self) -> float:
        return float(self._generator.random())


def variants(
    text: str, words: Sequence[Word], candidates: Sequence[Sequence[str]], draws: Draws, passes: int, probability: float
) -> list[str]:
    """The text with some words replaced, pass by pass; what is the text itself or was there before is left out.

    In each pass every word draws a candidate and then whether it is replaced. All else of the text stays as it is,
    where the reference joins the words again by single spaces.

    Args:
        words: those that may be replaced, in order.
        candidates: for each word, at least one.
        passes: N.
        probability: p.
    """
    found = {text: None}
    for _ in range(passes):
        parts, end = [], 0
        for word, some in zip(words, candidates, strict=True):
            candidate = draws.choice(some)
            if draws.random() < probability:
                parts += [text[end : word.start], candidate]
                end = word.end
        found.setdefault("".join([*parts, text[end:]]))
    return list(found)[1:]


class Augmenter:
    """Makes variants of rows.

    Args:
        config: N, M and p.
        expectations: candidates for words of one piece; None: as for the others.
        neighbours: candidates for the other words.
    """

    def __init__(self, config: AugmentationConfig, expectations: Expectations | None, neighbours: Neighbours) -> None:
        self._config = config
        self._expectations = expectations
        self._neighbours = neighbours

    def candidates(self, texts: Sequence[str]) -> list[tuple[list[Word], list[list[str]]]]:
        """For each text the words that may be replaced, and for each the words to draw from; itself if nothing else."""
        words = [replaceable(text) for text in texts]
        expected: Sequence[Sequence[list[str] | None]] = [[None] * len(some) for some in words]
        if self._expectations is not None:
            expected = self._expectations.of(texts, words)
        return [
            (some, [self._choices(word, candidates) for word, candidates in zip(some, known, strict=True)])
            for some, known in zip(words, expected, strict=True)
        ]

    def _choices(self, word: Word, expected: list[str] | None) -> list[str]:
        return (self._neighbours.of(word.text) if expected is None else expected) or [word.text]

    def __call__(
        self, rows: Sequence[dict[str, Any]], random: Sequence[np.random.Generator]
    ) -> list[list[dict[str, Any]]]:
        """Each row, then its variants. Of a pair one text changes and the other stays the row's own: the reference
        puts the last variant of the first text beside every variant of the second."""
        made = [[row] for row in rows]
        draws = [RowDraws(generator) for generator in random]
        for role in ("text", "text_pair"):
            if role not in rows[0]:
                continue
            texts = [row[role] for row in rows]
            for number, (words, candidates) in enumerate(self.candidates(texts)):
                some = variants(
                    texts[number],
                    words,
                    candidates,
                    draws[number],
                    self._config.passes,
                    self._config.probability,
                )
                made[number] += [{**rows[number], role: text} for text in some]
        return made


def augmenting(config: AugmentationConfig, stage: Stage) -> Transform:
    """The transform of a stage's training rows.

    Raises: ModelError, DataError for a masked language model or word vectors that cannot be used.
    """
    key: list[Any] = [config.passes, config.candidates, config.probability]
    expectations = None
    if config.masked_lm is not None:
        model = load_masked_lm(config.masked_lm, stage)
        expectations = Expectations(model, config.candidates)
        key.append(model_key(model))
    else:
        stage.progress.note(
            f"{stage.plan.name}: augmentation.masked_lm names no masked language model, so all words are replaced by "
            "near ones."
        )
    if config.vectors is not None:
        path = stage.path(config.vectors)
        neighbours = from_file(path, config.candidates)
        key.append(file_hash(path))
    else:
        teacher = stage.teacher
        embeddings = teacher.module.get_input_embeddings().weight  # type: ignore[operator]
        neighbours = from_embeddings(embeddings, teacher.tokenizer, config.candidates)
        key.append(model_key(teacher))
    stage.explain("augmentation", _told(config))
    return Transform("augmenting", json.dumps(key), Augmenter(config, expectations, neighbours))


def _told(config: AugmentationConfig) -> str:
    near = f"near by {config.vectors or 'the embeddings of the teacher'}"
    expected = f"expected by {config.masked_lm} or, of several pieces, " if config.masked_lm else ""
    return (
        f"{config.passes} passes; each word with probability {config.probability:g} by one of {config.candidates} "
        f"{expected}{near}"
    )
