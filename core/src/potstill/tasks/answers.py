"""How near an answer is to those that people gave: exact match and F1 as SQuAD and, for Chinese, CMRC 2018 have them.

SQuAD (Rajpurkar et al. 2016, 2018): case, punctuation, articles and spaces do not count, and F1 is over words that both
have, however they are ordered. CMRC 2018 (Cui et al. 2019, its evaluation v5): case and the punctuation of its own list
do not count, Chinese is compared character by character and the rest word by word, and F1 is over the longest run that
both have in one piece. (Its words are NLTK's; here runs of letters and digits, and signs one by one.) Its list also has
"……", which counts nevertheless, as one unit: single characters are looked up there, and none is two. So ours lacks it.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

Language = Literal["en", "zh"]

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CHINESE_PUNCTUATION = str.maketrans("", "", "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_HAN = re.compile(r"[\u4e00-\u9fff]")
_UNIT = re.compile(r"[\u4e00-\u9fff]|[^\W\u4e00-\u9fff]+|…+|[^\w\s]")
_LOOKED_AT = 1000  # characters that tell a text's language


def language_of(text: str) -> Language:
    """ "zh" where a text begins with more Chinese characters than Latin letters."""
    head = text[:_LOOKED_AT]
    return "zh" if len(_HAN.findall(head)) > len(re.findall(r"[A-Za-z]", head)) else "en"


def exact_match(found: str, known: Sequence[str], language: Language) -> float:
    """1 where an answer is one of the known ones, else 0; "" is the answer that there is none."""
    plain = _plain if language == "en" else _plain_chinese
    return float(any(plain(found) == plain(one) for one in known))


def f1(found: str, known: Sequence[str], language: Language) -> float:
    """The best F1 of an answer with one of the known ones, from 0 to 1."""
    parts, common = (_words, _shared) if language == "en" else (_units, _longest_run)
    return max(_f1(parts(found), parts(one), common) for one in known)


def _f1(found: list[str], known: list[str], common: Callable[[list[str], list[str]], int]) -> float:
    if not found or not known:
        return float(found == known)
    both = common(found, known)
    return 2 * both / (len(found) + len(known))  # the harmonic mean of both / len(found) and both / len(known)


def _plain(text: str) -> str:
    """Without case, punctuation, articles and superfluous spaces."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _words(text: str) -> list[str]:
    return _plain(text).split()


def _shared(one: list[str], other: list[str]) -> int:
    return (Counter(one) & Counter(other)).total()


def _plain_chinese(text: str) -> str:
    return text.lower().strip().translate(_CHINESE_PUNCTUATION)


def _units(text: str) -> list[str]:
    """Chinese characters one by one, other words whole."""
    return _UNIT.findall(_plain_chinese(text))


def _longest_run(one: list[str], other: list[str]) -> int:
    """How long the longest run is that stands in both in one piece."""
    longest, before = 0, [0] * (len(other) + 1)
    for unit in one:
        row = [0]
        for place, against in enumerate(other):
            row.append(before[place] + 1 if unit == against else 0)
        longest, before = max(longest, *row), row
    return longest
