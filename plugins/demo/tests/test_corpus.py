"""The data set out of docstrings: honest sides, balanced labels, the same every time, whatever is installed."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import pyarrow.parquet
import pytest
from potstill_demo import corpus
from potstill_demo.subjects import SUBJECTS, subject_of

from potstill.errors import DataError

Sides = dict[str, list[corpus.Paragraph]]


def words(text: str) -> str:
    return " ".join(re.findall(r"[a-z]{2,}", text.lower()))


def test_no_definition_stands_on_two_sides(sides: Sides) -> None:
    for one, other in combinations(sides, 2):
        definitions = [{(row.module, row.definition) for row in sides[side]} for side in (one, other)]
        assert not definitions[0] & definitions[1]


def test_no_text_stands_twice_even_with_other_signs_or_capitals(sides: Sides) -> None:
    texts = Counter(words(row.text) for rows in sides.values() for row in rows)
    assert texts.most_common(1)[0][1] == 1


def test_the_sides_have_their_shares_of_every_subject(sides: Sides, paragraphs: list[corpus.Paragraph]) -> None:
    counts = Counter(row.label for row in paragraphs)
    for side, share in corpus.SHARES.items():
        here = Counter(row.label for row in sides[side])
        for label, count in counts.items():
            assert 0.85 * share * count - 3 <= here[label] <= share * count
    assert sum(map(len, sides.values())) == len(paragraphs)


def test_there_are_many_paragraphs_in_8_to_12_subjects_and_none_has_a_quarter(
    paragraphs: list[corpus.Paragraph],
) -> None:
    counts = Counter(row.label for row in paragraphs)
    assert len(paragraphs) > 9_000
    assert 8 <= len(counts) <= 12
    assert max(counts.values()) < 0.25 * len(paragraphs)
    assert min(counts.values()) > 0.02 * len(paragraphs)


def test_a_class_stands_on_one_side_with_its_methods(paragraphs: list[corpus.Paragraph]) -> None:
    logger = [row for row in paragraphs if (row.module, row.definition) == ("logging", "Logger")]
    assert any("Log 'msg % args' with severity" in row.text for row in logger)  # a method's docstring
    assert len(logger) > 10


def test_the_split_does_not_depend_on_the_order_of_the_files(sides: Sides, paragraphs: list[corpus.Paragraph]) -> None:
    assert corpus.split(paragraphs[::-1]) == sides


def test_writing_twice_gives_the_same_bytes(library: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        corpus.write(tmp_path / name, library)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["labels.txt", "test.parquet", "train.parquet", "validation.parquet"]
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_what_is_written_is_what_was_split(library: Path, tmp_path: Path) -> None:
    counts, texts = corpus.write(tmp_path, library)
    sides = corpus.split(corpus.paragraphs(library))
    table = pyarrow.parquet.read_table(tmp_path / "train.parquet")
    assert table.column("text").to_pylist() == [row.text for row in sides["train"]] == texts
    assert table.column("label").to_pylist() == [row.label for row in sides["train"]]
    assert counts == {side: len(rows) for side, rows in sides.items()}
    assert (tmp_path / "labels.txt").read_text().splitlines() == sorted({row.label for row in sides["train"]})


def test_subjects_whose_modules_are_missing_are_left_out(library: Path) -> None:
    labels = {row.label for row in corpus.paragraphs(library)}
    assert labels == {"concurrency", "internet data", "testing and debugging"}


def test_a_subject_with_too_few_paragraphs_is_left_out(library: Path) -> None:
    (library / "tkinter.py").write_text('"""A lonely paragraph about widgets and windows."""\n')
    assert "graphical interfaces" not in {row.label for row in corpus.paragraphs(library)}


def test_a_file_that_does_not_parse_is_skipped(library: Path) -> None:
    before = corpus.paragraphs(library)
    (library / "email" / "broken.py").write_text("def half(:\n")
    (library / "email" / "binary.py").write_bytes(b"\xff\xfe\x00")
    assert corpus.paragraphs(library) == before


def test_tests_and_installed_packages_are_left_out(library: Path) -> None:
    before = corpus.paragraphs(library)
    for folder in ("test", "site-packages", "email/test", "asyncio/idle_test"):
        (library / folder / "email").mkdir(parents=True)
        (library / folder / "email" / "more.py").write_text('"""This paragraph is not part of the library."""\n')
    assert corpus.paragraphs(library) == before


def test_a_text_under_two_subjects_is_left_out_and_one_twice_in_a_subject_stands_once(library: Path) -> None:
    both, twice = "Close the thing, whatever it is.", "Parse the header again and again."
    (library / "asyncio" / "more.py").write_text(f'"""{both}"""\n')
    (library / "email" / "more.py").write_text(f'"""{both}\n\n{twice}"""\n')
    (library / "email" / "other.py").write_text(f'"""{twice.upper()}"""\n')
    texts = [row.text.lower() for row in corpus.paragraphs(library)]
    assert both.lower() not in texts
    assert texts.count(twice.lower()) == 1


def test_a_library_without_sources_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"found 0 docstring paragraphs under {tmp_path}.*installed as .py files"):
        corpus.paragraphs(tmp_path)


def test_paragraphs_are_prose_without_doctests_signatures_and_rights() -> None:
    docstring = """forward(distance) -> None

    Move the turtle
    forward by the distance.

    Heading above a ruled line
    --------------------------
    >>> turtle.forward(25)
    the output of the doctest is no prose

    from turtle import forward

    Too short.

    Copyright (C) 2001 by somebody or other.

    [(1, 2), (3, 4), (5, 6), (7, 8), (9, 10)] one two three four
    """
    assert corpus.cut(docstring) == ["Move the turtle forward by the distance.", "Heading above a ruled line"]


def test_a_module_has_the_subject_of_its_longest_known_name() -> None:
    assert subject_of("xml.etree.ElementTree") == "internet data"
    assert subject_of("logging") == "testing and debugging"
    assert subject_of("antigravity") is None
    assert subject_of("string") == "text and command lines"
    assert subject_of("string.templatelib") == "language tools"


def test_no_module_stands_in_two_subjects() -> None:
    modules = Counter(module for names in SUBJECTS.values() for module in names.split())
    assert modules.most_common(1)[0][1] == 1
