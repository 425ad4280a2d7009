"""Changes from the command line: what `--set` and `-p` do to a recipe's tables, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from potstill.errors import RecipeError
from potstill.overrides import KEYS, TABLES
from potstill.recipe import Recipe, parse, with_overrides, with_plugins
from tests.titles import tables


def test_an_override_changes_one_key_and_leaves_the_given_dict_alone() -> None:
    data = tables()
    changed = with_overrides(
        data,
        [
            "seed=9",
            "data.train=a/b.csv",
            "teacher.config.hidden_size=8",
            "student.layers=3",
            "student.options.dropout=.5",
        ],
    )
    assert (changed["seed"], changed["data"]["train"], changed["teacher"]["config"]["hidden_size"]) == (9, "a/b.csv", 8)
    assert (changed["student"]["layers"], changed["student"]["dropout"]) == (3, 0.5)
    assert data == tables()


def test_a_stages_key_is_reached_by_name_or_number() -> None:
    changed = with_overrides(
        tables(), ["stage.distil.learning_rate=1e-3", "stage.1.epochs=5", 'stage.distil.plugins=["hinton"]']
    )
    assert changed["stage"][1]["learning_rate"] == 1e-3
    assert changed["stage"][0]["epochs"] == 5
    assert changed["stage"][1]["plugins"] == ["hinton"]


def test_a_plugins_option_is_set_wherever_the_plugin_is_named() -> None:
    data = tables()
    data["stage"].append({"name": "tune", "plugins": ["hinton"]})
    changed = with_overrides(data, ["hinton.temperature=1", "onnx.int8=false", "bilstm.hidden_size=8"])
    assert [stage.get("hinton") for stage in changed["stage"]] == [None, {"temperature": 1}, {"temperature": 1}]
    assert changed["export"]["onnx"] == {"int8": False}
    assert changed["student"]["hidden_size"] == 8


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4", 4),
        ("4.5", 4.5),
        ("1e-4", 1e-4),
        (".5", 0.5),
        ("true", True),
        ('"4"', "4"),
        ("[1, 2]", [1, 2]),
        ("cosine", "cosine"),
        ("a/b c.csv", "a/b c.csv"),
        ("2024-01-01", "2024-01-01"),
        ("x=y", "x=y"),
        ("1\nseed = 2", "1\nseed = 2"),
        ("", ""),
    ],
)
def test_an_overrides_value_is_toml_and_a_bare_word_is_text(text: str, value: Any) -> None:
    found = with_overrides({}, [f"task.metric={text}"])["task"]["metric"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("seed", "override 'seed' is not KEY=VALUE"),
        ("=3", "override '=3' is not KEY=VALUE"),
        ("data=3", "'data' is a table; name a key in it"),
        ("data.txet=a", "[data]: unknown key 'txet'. Did you mean 'text'?"),
        ("stage.distl.epochs=1", "there is no stage 'distl'; the stages are teacher, distil. Did you mean 'distil'?"),
        ("stage.3.epochs=1", "there is no stage '3'"),
        ("stage.0.epochs=1", "there is no stage '0'"),
        ("stage.distil.epoch=1", "stage 'distil': unknown key 'epoch'. Did you mean 'epochs'?"),
        ("stage.distil=1", "a stage's key is stage.NAME.KEY"),
        ("hintn.temperature=1", "(hinton, accumulate, onnx, bilstm). Did you mean 'hinton'?"),
        ("hinton=1", "'hinton' is a plugin; name an option of it"),
        ("epochs=1", "Did you mean 'stage.distil.epochs'?"),
        ("data.train.x=1", "'train' is 'train.tsv', not a table."),
        ("task.labels=[a, b]", 'is not a TOML value; a list is written ["a", "b"].'),
    ],
)
def test_an_override_that_cannot_be_is_told_as_it_was_written(override: str, told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        with_overrides(tables(), [override])
    assert str(caught.value).startswith(f"override '{override}'")
    assert told in str(caught.value)


def test_overrides_know_every_table_and_key_of_the_recipe() -> None:
    assert {*TABLES, *KEYS, "stages"} == set(Recipe.model_fields)


def test_a_plugin_from_the_command_line_joins_the_last_student_stage() -> None:
    changed = with_plugins(tables(), ["fgm:epsilon=0.5,name=embed,layers=[1,2]", "hinton:temperature=2"])
    distil = changed["stage"][1]
    assert distil["plugins"] == ["hinton", "accumulate", "fgm"]
    assert distil["fgm"] == {"epsilon": 0.5, "name": "embed", "layers": [1, 2]}
    assert distil["hinton"] == {"temperature": 2}
    assert parse(changed).stages[1].options_of("fgm")["epsilon"] == 0.5


def test_a_plugin_from_the_command_line_makes_a_stage_where_there_is_none() -> None:
    changed = with_plugins({"stage": [{"name": "t", "trains": "teacher"}]}, ["accumulate"])
    assert changed["stage"][1] == {"name": "distil", "plugins": ["accumulate"]}
    assert "stage" not in with_plugins({}, [])


@pytest.mark.parametrize("text", ["", "hinton:temperature", "hinton:=2", "a b:c=1"])
def test_a_plugin_that_is_not_written_as_one_is_an_error(text: str) -> None:
    with pytest.raises(RecipeError, match=f"plugin '{text}'"):
        with_plugins({}, [text])
