"""Which words of a text may be replaced, and which pieces of a vocabulary are words."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

# NLTK's English stop words, those made of letters alone.
_STOP_WORDS = """
a about above after again against ain all am an and any are aren as at be because been before being below between
both but by can couldn d did didn do does doesn doing don down during each few for from further had hadn has hasn
have haven having he her here hers herself him himself his i if in into is isn it its itself just ll m ma me
mightn more most mustn my myself needn no nor not now o of off on once only or other our ours ourselves out over own
re s same shan she should shouldn so some such t than that the their theirs them themselves then there these they
this those through to too under until up ve very was wasn we were weren while will with won wouldn y you your yours
yourself yourselves
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())


class Word(NamedTuple):
    """A word of a text: `text[start:end]`."""

    start: int
    end: int
    text: str


def replaceable(text: str) -> list[Word]:
    """The words that augmentation may replace, by the published rule: letters a to z alone, and no stop word.

    Text of another script holds none and is left as it is.
    """
    found = (Word(match.start(), match.end(), match[0]) for match in re.finditer(r"[^\W_]+", text))
    return [word for word in found if re.fullmatch("[a-z]+", word.text.lower()) and word.text.lower() not in STOP_WORDS]


def whole_words(tokenizer: Any, *, special: bool = False) -> dict[int, str]:
    """The pieces of a vocabulary that begin a word, by number: "##ing" of word pieces is none, "ing" is.

    Args:
        special: special tokens too, as the reference has them.
    """
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    skipped = () if special else frozenset(tokenizer.all_special_tokens)
    marker = next((mark for mark in "Ġ▁" if f"{mark}the" in vocabulary or f"{mark}a" in vocabulary), None)
    if marker is None:
        return {n: token for token, n in vocabulary.items() if not token.startswith("##") and token not in skipped}
    begin = {n: token for token, n in vocabulary.items() if token.startswith(marker) and token not in skipped}
    return {n: tokenizer.convert_tokens_to_string([token]).strip() for n, token in begin.items()}
