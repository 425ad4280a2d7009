"""Variables, their columns and the built-in mappings; mapping files in both forms, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from potstill_diito.mapping import BUILT_IN, Shape, Site, Variable
from potstill_diito.mapping_files import ENTRIES, read_mapping, variable_named

from potstill.errors import ModelError, RecipeError

BERT = Shape("teacher", layers=12, width=768, heads=12)
SMALL = Shape("student", layers=3, width=32, heads=4)


def layers(name: str, teacher: int, student: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    entries = BUILT_IN[name](teacher, student)
    return [(known.layers, own.layers) for entry in entries for known in entry.teacher for own in entry.student]


def test_the_built_in_mappings_are_the_authors_files_counted_from_1() -> None:
    assert [layers("middle", 12, own) for own in (3, 6, 9)] == [[((7,), (2,))], [((7,), (4,))], [((7,), (5,))]]
    assert layers("late", 12, 3) == [((10,), (1,)), ((11,), (2,))]
    assert layers("late", 12, 6) == [((10,), (4,)), ((11,), (5,))]
    assert layers("full", 12, 3) == [((1, 2, 3, 4), (1,)), ((5, 6, 7, 8), (2,)), ((9, 10, 11, 12), (3,))]
    assert layers("full", 12, 6) == [((2 * own - 1, 2 * own), (own,)) for own in range(1, 7)]
    nine = [(1, 2), (3, 4), (5, 6), (7,), (8,), (9,), (10,), (11,), (12,)]
    assert layers("full", 12, 9) == [(known, (own,)) for own, known in enumerate(nine, start=1)]


@pytest.mark.parametrize(("name", "sizes"), [("full", (2, 3)), ("late", (12, 2))])
def test_a_built_in_mapping_that_does_not_fit_is_refused(name: str, sizes: tuple[int, int]) -> None:
    with pytest.raises(RecipeError, match=f"diito.mapping = '{name}' .* take "):
        BUILT_IN[name](*sizes)


def test_a_name_of_the_authors_becomes_layers_from_1_and_columns() -> None:
    variable = variable_named("$L:[0:2]$H:[0:12]$[0:64]")
    assert variable.layers == (1, 2)
    assert BERT.sites(variable, "aligned") == (Site(1, 1), Site(2, 2))
    assert BERT.sites(variable, "released") == (Site(0, 1), Site(1, 2))
    assert BERT.sites(variable_named("$L:6$H:[0:4]$[0:64]"), "aligned") == (Site(7, 7, 0, 256),)


def test_a_slice_that_begins_above_0_ends_where_it_says() -> None:
    assert BERT.sites(variable_named("$L:1$H:[1:3]$[3:5]"), "aligned") == (Site(2, 2, 67, 69), Site(2, 2, 131, 133))
    assert SMALL.sites(Variable((-1,), dims=(7, 8)), "aligned") == tuple(
        Site(3, 3, 8 * head + 7, 8 * head + 8) for head in range(4)
    )


@pytest.mark.parametrize(
    ("variable", "told"),
    [
        (Variable((4,), told="x"), "x names layer 4 of the student, which has layers 1 to 3"),
        (Variable((-5,), told="x"), "x names layer -5 of the student, which has layers 1 to 3"),
        (Variable((1,), heads=(2, 5), told="x"), "x names heads 2:5 of the student, which has 4, counted from 0"),
        (Variable((1,), dims=(0, 9), told="x"), "x names dimensions a head 0:9 of the student, which has 8"),
        (Variable((0,), told="x"), "x is the embedding output of the student, and diito.read = 'released'"),
    ],
)
def test_a_part_that_is_not_there_is_refused(variable: Variable, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        SMALL.sites(variable, "released")


def test_heads_that_do_not_divide_the_width_are_refused_and_whole_vectors_are_not() -> None:
    odd = Shape("student", layers=2, width=30, heads=4)
    assert odd.sites(Variable((1,)), "aligned") == (Site(1, 1),)
    with pytest.raises(ModelError, match="width 30 is no multiple of its 4 heads"):
        odd.sites(Variable((1,), heads=(0, 1), told="x"), "aligned")


def entry(teacher: Any = "$L:6$H:[0:12]$[0:64]", student: Any = "$L:3$H:0$[0:64]") -> dict[str, Any]:
    return {"teacher_variable_names": [teacher], "student_variable_names": [student]}


def test_both_forms_of_a_file_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.nm").write_text(json.dumps({ENTRIES: [entry()]}))
    (tmp_path / "a.toml").write_text(
        '[[mapping]]\nteacher = { layers = 7, heads = "0:12", dims = "0:64" }\n'
        'student = [{ layers = [4], heads = 0, dims = "0:64" }]\n'
    )
    assert read_mapping(tmp_path / "a.nm") == read_mapping(tmp_path / "a.toml")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "a.nm' is not JSON: "),
        ("[]", "should be a table with one key, 'interchange_variable_mappings'"),
        (json.dumps({ENTRIES: []}), "a list of entries"),
        (json.dumps({ENTRIES: [3]}), "mapping 1: 'teacher_variable_names' should be a list of names"),
        (json.dumps({ENTRIES: [entry(), {"teacher_variable_names": ["$L:1$H:0$[0:1]"]}]}), "mapping 2: 'student_var"),
        (json.dumps({ENTRIES: [entry("$L:6$H:0$[0,64]")]}), r"'\$L:6\$H:0\$\[0,64\]' \(teacher of mapping 1, .* is no"),
        (json.dumps({ENTRIES: [entry("$L:6$H:[3:3]$[0:64]")]}), "the range holds nothing"),
        (json.dumps({ENTRIES: [entry("$L:6$H:0$[5:2]")]}), "the range holds nothing"),
    ],
)
def test_a_file_of_the_authors_form_that_is_wrong_is_refused(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "a.nm").write_text(text)
    with pytest.raises(RecipeError, match=told):
        read_mapping(tmp_path / "a.nm")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("mapping", "a.toml' is not TOML: "),
        ("", "a.toml' holds no entry: a table"),
        ("mapping = []", "a.toml' holds no entry: a table"),
        ("[[mapping]]\nteacher = { layers = 1 }", "mapping 1, student: the key 'student' is missing"),
        (
            "[[mapping]]\nteacher = { layers = 1, head = 1 }\nstudent = { layers = 1 }",
            "unknown key 'head'. Did you mean 'heads'",
        ),
        ('[[mapping]]\nteacher = { layers = "a" }\nstudent = { layers = 1 }', "integer"),
        ("[[mapping]]\nteacher = { layers = [] }\nstudent = { layers = 1 }", "at least 1 item"),
        ('[[mapping]]\nteacher = { layers = 1, heads = "3:3" }\nstudent = { layers = 1 }', "the range holds nothing"),
        (
            '[[mapping]]\nteacher = { layers = 1, heads = "a:3" }\nstudent = { layers = 1 }',
            "a number from 0",
        ),
        ("[[mapping]]\nteacher = { layers = 1, heads = -1 }\nstudent = { layers = 1 }", "a number from 0"),
    ],
)
def test_a_file_of_the_readable_form_that_is_wrong_is_refused(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(RecipeError, match=told):
        read_mapping(tmp_path / "a.toml")


def test_a_file_that_is_not_there_and_a_name_that_is_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="b.nm' is not there"):
        read_mapping(tmp_path / "b.nm")
    with pytest.raises(RecipeError, match="is none of full, middle, late, and no file .* Did you mean 'middle'"):
        read_mapping(tmp_path / "midle")
    (tmp_path / "b.nm").write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match="cannot be read as text"):
        read_mapping(tmp_path / "b.nm")
