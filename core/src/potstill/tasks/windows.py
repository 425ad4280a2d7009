"""Questions with their contexts as rows of tokens: a context that is too long becomes several that overlap."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from potstill.batch import IGNORED
from potstill.data.encode import Encoded, called
from potstill.data.table import ORIGIN, Tokens
from potstill.errors import DataError, ModelError

Characters = npt.NDArray[np.int64]
"""[rows, 2]: where an answer begins and ends in its context; -1 where there is none, `IGNORED` where none is known."""
NOWHERE = -1
_QUESTIONS = 64  # that are in memory together


def windows(
    questions: list[str],
    contexts: list[str],
    tokenizer: Any,
    max_length: int,
    longest_question: int,
    stride: int | None,
) -> Encoded:
    """The question and a part of the context in every row, with "start", "end" and "origin".

    "start" and "end" are the characters of the context that a token stands for, both 0 at the token in front that
    stands for "no answer" (BERT's [CLS]), and -1 at all others.

    Args:
        longest_question: so many of its tokens are kept, and no more than half of a row's.
        stride: so many tokens of the context each row shares with the one before it; None for a third.

    Raises: DataError where there is no room; ModelError for a tokenizer that tells no places.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(f"A {type(tokenizer).__name__} does not tell where in a text a token stands; take a fast one.")
    free = max_length - tokenizer.num_special_tokens_to_add(pair=True)
    asked = min(longest_question, free // 2)
    if asked < 1:
        raise DataError(
            f"max_length = {max_length} leaves no room for a question and its context: {max_length - free} tokens of a "
            "row are special ones."
        )
    room = free - asked
    if stride is not None and stride >= room:
        raise DataError(
            f"task.stride = {stride} leaves no step from one window to the next: with max_length = {max_length} and "
            f"questions of up to {asked} tokens a window holds {room} tokens of its context; take less."
        )
    overlap = room // 3 if stride is None else stride
    found: Encoded = {}
    for first in range(0, len(questions), _QUESTIONS):
        some = slice(first, first + _QUESTIONS)
        cut = _cut(questions[some], tokenizer, asked)
        for name, rows in _some(cut, contexts[some], tokenizer, max_length, overlap).items():
            found.setdefault(name, []).extend([first + row for row in rows] if name == ORIGIN else rows)
    return found or {"input_ids": [], "start": [], "end": [], ORIGIN: []}


def _cut(questions: list[str], tokenizer: Any, tokens: int) -> list[str]:
    """The questions, each cut behind so many tokens, or before the character that would be cut through."""
    while True:
        _, encoded = called(tokenizer, questions, None, add_special_tokens=False, return_offsets_mapping=True)
        cut = [_begin(asked, one.offsets, tokens) for asked, one in zip(questions, encoded.encodings, strict=True)]
        if cut == questions:
            return cut
        questions = cut  # to be counted again: by itself a part of a text may be other tokens than it was within it


def _begin(text: str, offsets: list[tuple[int, int]], tokens: int) -> str:
    """What of a text comes before the token of this number; a character of several tokens is whole or not there."""
    if len(offsets) <= tokens:
        return text
    return text[: min(offsets[tokens - 1][1], offsets[tokens][0], len(text) - 1)]


def _some(questions: list[str], contexts: list[str], tokenizer: Any, max_length: int, overlap: int) -> Encoded:
    columns, encoded = called(
        tokenizer,
        questions,
        contexts,
        truncation="only_second",
        max_length=max_length,
        stride=overlap,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    columns[ORIGIN] = list(encoded["overflow_to_sample_mapping"])
    columns["start"], columns["end"] = [], []
    spaces = [np.array([sign.isspace() for sign in context] or [False]) for context in contexts]
    for row, found, ids in zip(columns[ORIGIN], encoded.encodings, columns["input_ids"], strict=True):
        starts, ends = _places(found, spaces[row])
        if tokenizer.cls_token_id in ids and (places := np.flatnonzero(starts >= 0)).size:
            at = ids.index(tokenizer.cls_token_id)
            if at < places[0]:
                starts[at] = ends[at] = 0
        columns["start"].append(starts)
        columns["end"].append(ends)
    return columns


def _places(found: Any, spaces: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """[tokens] the first character of each token of the context and the one behind its last; -1 at other tokens.

    Args:
        spaces: which characters of the context are spaces.
    """
    starts, ends = np.array(found.offsets, dtype=np.int32).reshape(-1, 2).T.copy()
    inside = np.array(found.sequence_ids, dtype=np.float32) == 1  # None, for special tokens, becomes NaN
    # Some tokenizers count the space before a word as its token's.
    starts += inside & (starts < ends) & spaces[np.minimum(starts, len(spaces) - 1)]
    # A token of no character within the context stays, so that the context is in one piece.
    outside = ~inside | (ends == 0)
    starts[outside] = ends[outside] = NOWHERE
    return starts, ends


def positions(answers: Characters, table: Tokens) -> npt.NDArray[np.int64]:
    """[windows, 2]: the tokens where a window's answer begins and ends.

    The token for "no answer" twice where the answer is not in this window as a whole, or nowhere; `IGNORED` where it is
    not known, or there is no such token.
    """
    origin = table.origin
    assert origin is not None
    found = np.full((len(table), 2), IGNORED, dtype=np.int64)
    begins, finishes = origin != np.roll(origin, 1), origin != np.roll(origin, -1)
    if len(origin):
        begins[0] = finishes[-1] = True
    starts, ends = table.marks(np.arange(len(table)), "start", "end")
    for window, row in enumerate(origin):
        answer = answers[row]
        if answer[0] != IGNORED:
            edges = bool(begins[window]), bool(finishes[window])
            place = _within(answer, starts[window], ends[window], edges) if answer[0] != NOWHERE else None
            found[window] = place or _no_answer(starts[window], ends[window])
    return found


def _within(
    answer: npt.NDArray[np.int64], starts: npt.NDArray[Any], ends: npt.NDArray[Any], edges: tuple[bool, bool]
) -> tuple[int, int] | None:
    """The tokens of an answer that is whole within a window; `edges`: whether the context begins and ends here."""
    places = np.flatnonzero(ends > 0)
    if not len(places):
        return None
    begins, stops = starts[places], ends[places]
    first = int(np.searchsorted(stops, answer[0], side="right"))
    last = int(np.searchsorted(begins, answer[1], side="left")) - 1
    whole = (edges[0] or begins[0] <= answer[0]) and (edges[1] or stops[-1] >= answer[1])
    return (int(places[first]), int(places[last])) if whole and first <= last else None


def _no_answer(starts: npt.NDArray[Any], ends: npt.NDArray[Any]) -> tuple[int, int]:
    places = np.flatnonzero((starts == 0) & (ends == 0))
    return (int(places[0]), int(places[0])) if len(places) else (IGNORED, IGNORED)
