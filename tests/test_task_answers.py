"""Exact match and F1 of answers, by examples worked out with the published definitions."""

from __future__ import annotations

import pytest

from potstill.tasks.answers import exact_match, f1, language_of

ENGLISH = [
    # answer, known ones, exact match, F1
    ("the Broncos", ["Denver Broncos", "Broncos"], 1, 1),
    ("The Denver Broncos!", ["denver  broncos"], 1, 1),
    ("a cat sat", ["cat"], 0, 2 / 3),  # precision 1/2, recall 1
    ("cat cat dog", ["cat dog dog"], 0, 2 / 3),  # shared: cat, dog; of 3 and 3
    ("dog cat", ["cat dog"], 0, 1),  # order does not count in F1
    ("Beyonce's", ["Beyonces"], 1, 1),
    ("1,000 men", ["1000 men"], 1, 1),
    ("anthem", ["an them"], 0, 0),  # articles are words of their own only
    ("the", [""], 1, 1),  # an article alone is nothing
    ("", [""], 1, 1),
    ("something", [""], 0, 0),
    ("", ["something"], 0, 0),
    ("17th century", ["the 17th", "18th century"], 0, 2 / 3),
]
CHINESE = [
    ("光荣和ω-force", ["光荣和ω-force"], 1, 1),
    ("《光荣》", ["光荣"], 1, 1),
    ("光荣公司", ["光荣"], 0, 2 * 2 / (4 + 2)),
    ("荣光", ["光荣"], 0, 2 * 1 / (2 + 2)),  # in one piece only one character is common
    ("1998年5月", ["1998年"], 0, 2 * 2 / (4 + 2)),  # units: 1998, 年, 5, 月
    ("光 荣", ["光荣"], 0, 1),  # a space counts in exact match and in no unit
    ("DoTA", ["dota"], 1, 1),
    ("北京", ["上海"], 0, 0),
    ("等等……", ["等等"], 0, 2 * 2 / (3 + 2)),  # the list's entry of two characters is no single one, and a unit
    ("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』", [""], 1, 1),
    ("‘等", ["等"], 0, 2 * 1 / (2 + 1)),  # only the closing one of the pair is in the list
    ("", ["上海"], 0, 0),
]


@pytest.mark.parametrize(("found", "known", "exact", "overlap"), ENGLISH)
def test_english_answers_score_as_squad_defines(found: str, known: list[str], exact: float, overlap: float) -> None:
    assert exact_match(found, known, "en") == exact
    assert f1(found, known, "en") == pytest.approx(overlap)


@pytest.mark.parametrize(("found", "known", "exact", "overlap"), CHINESE)
def test_chinese_answers_score_as_cmrc_defines(found: str, known: list[str], exact: float, overlap: float) -> None:
    assert exact_match(found, known, "zh") == exact
    assert f1(found, known, "zh") == pytest.approx(overlap)


def test_the_language_is_that_of_most_letters() -> None:
    assert language_of("It was Ada, who lived in 北京.") == "en"
    assert language_of("光荣和 force 开发的战国无双") == "zh"
    assert language_of("1843") == "en"
