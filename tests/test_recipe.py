"""Recipes: what is read, what is refused and in which words, and what comes back from a dump."""

from __future__ import annotations

import json
import string
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import potstill.cli
from potstill.errors import RecipeError
from potstill.plugin import PluginConfig
from potstill.recipe import (
    ModelConfig,
    Recipe,
    StagePlan,
    difference,
    dump,
    json_schema,
    load,
    parse,
    resolve_references,
    with_overrides,
)
from potstill.recipes import shipped
from tests.titles import TOML, tables


def refused(data: dict[str, Any]) -> str:
    with pytest.raises(RecipeError) as caught:
        parse(data, "r.toml")
    return str(caught.value)


def refused_stage(**keys: Any) -> str:
    data = tables()
    data["stage"][1] |= keys
    return refused(data)


def test_importing_the_recipe_and_the_loader_loads_neither_torch_nor_transformers() -> None:
    code = "import potstill.recipe, potstill.loader, sys; print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_recipe_is_read_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "titles.toml"
    path.write_text(TOML, encoding="utf-8")
    recipe = load(path)
    assert (recipe.name, recipe.seed, recipe.data.max_length) == ("titles", 7, 40)
    assert recipe.student is not None
    assert recipe.student.options == {"hidden_size": 32, "layers": 2}
    teacher, distil = recipe.stages
    assert (teacher.epochs, teacher.updates, teacher.learning_rate) == (2.0, None, 5e-5)
    assert (distil.epochs, distil.updates, distil.warmup) == (None, 100, 10)
    assert distil.options_of("hinton") == {"temperature": 4.0}
    assert distil.options_of("accumulate") == {}
    assert recipe.export is not None
    assert recipe.export.options_of("onnx") == {"int8": True}


def test_a_recipe_without_a_name_gets_the_files(tmp_path: Path) -> None:
    path = tmp_path / "short titles.toml"
    path.write_text("seed = 1", encoding="utf-8")
    assert load(path).name == "short titles"


def test_a_stage_without_a_length_has_three_epochs() -> None:
    assert StagePlan(name="a").epochs == 3.0
    assert StagePlan(name="a", updates=5).epochs is None


def test_text_that_is_no_toml_is_an_error_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text('name = "x"\nseed = 1\nseed 2\n', encoding="utf-8")
    with pytest.raises(RecipeError, match=r"broken\.toml', line 3, column \d+: this is not valid TOML"):
        load(path)
    path.write_text('name = "x"\nlist = [1,\n', encoding="utf-8")
    with pytest.raises(RecipeError, match=r"broken\.toml', line 2.*: this is not valid TOML"):
        load(path)


def test_a_missing_file_is_an_error_that_names_the_one_beside_it(tmp_path: Path) -> None:
    (tmp_path / "thucnews.toml").write_text("", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"thucnew\.toml' does not exist. Did you mean 'thucnews\.toml'\?"):
        load(tmp_path / "thucnew.toml")
    with pytest.raises(RecipeError, match="is a folder"):
        load(tmp_path)


def test_a_file_that_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes('name = "café"'.encode("latin-1"))
    with pytest.raises(RecipeError, match="not UTF-8"):
        load(path)


def test_an_unknown_key_is_told_with_its_place_and_the_nearest_key() -> None:
    assert refused_stage(learning_rat=1e-3) == (
        "r.toml: stage 2 (distil): unknown key 'learning_rat'. Did you mean 'learning_rate'?"
    )
    assert refused({**tables(), "sed": 1}) == "r.toml: unknown key 'sed'. Did you mean 'seed'?"
    assert refused({**tables(), "data": {"txet": "a"}}) == "r.toml: [data]: unknown key 'txet'. Did you mean 'text'?"
    assert refused({**tables(), "student": {"modle": "a"}}) == (
        "r.toml: [student]: unknown key 'modle'. Did you mean 'model'?"
    )
    assert refused({**tables(), "stages": []}) == "r.toml: unknown key 'stages'. Did you mean 'stage'?"


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"learning_rate": -1.0}, "'learning_rate' = -1.0 should be greater than 0."),
        ({"learning_rate": "fast"}, "'learning_rate' = 'fast' should be a valid number."),
        ({"learning_rate": float("nan")}, "'learning_rate' = nan should be a finite number."),
        ({"batch_size": 0}, "'batch_size' = 0 should be greater than or equal to 1."),
        ({"batch_size": "32"}, "'batch_size' = '32' should be a valid integer."),
        ({"batch_size": True}, "'batch_size' = True should be a valid integer."),
        ({"warmup": 101}, "warmup = 101 is more than all updates = 100."),
        ({"warmup": 1.0}, "'warmup' = 1.0 should be a valid integer or be less than 1."),
        ({"warmup": -1}, "'warmup' = -1 should be greater than or equal to 0."),
        ({"epochs": 1}, "epochs = 1 and updates = 100 are both given; give one of them."),
        ({"betas": [0.9, 1.0]}, "'betas', item 2 = 1.0 should be less than 1."),
        ({"trains": "techer"}, "'trains' = 'techer' should be 'student' or 'teacher'. Did you mean 'teacher'?"),
        ({"plugins": "hinton"}, "'plugins' = 'hinton' should be a list."),
        ({"plugins": ["hinton", "hinton"]}, "plugins names 'hinton' twice."),
        ({"plugins": ["hinton", "seed"]}, "'seed', which is a key of this table and cannot be a plugin's name."),
        ({"hintn": {"a": 1}}, "that plugins (hinton, accumulate) does not name. Did you mean 'hinton'?"),
        ({"teacher": "stage:techer"}, "'stage:techer' does not exist; the stages before it are teacher."),
        ({"student": "stage:distil"}, "student = 'stage:distil' is this stage itself."),
    ],
)
def test_a_value_that_cannot_be_is_told_with_its_place(keys: dict[str, Any], told: str) -> None:
    message = refused_stage(**keys)
    assert message.startswith("r.toml: stage 2 (distil): ")
    assert told in message
    assert "\n" not in message


def test_stage_names_are_unique_and_no_numbers() -> None:
    assert "stage 2 (teacher): stage 1 has the same name." in refused_stage(name="teacher")
    assert "is not a number" in refused_stage(name="12")
    assert "made of letters" in refused_stage(name="a/b")


def test_a_reference_to_a_later_stage_or_to_none_is_an_error() -> None:
    data = tables()
    data["stage"][0]["student"] = "stage:distil"
    assert "student = 'stage:distil' comes later: it is stage 2." in refused(data)
    data["stage"][0]["student"] = "previous"
    assert "stage 1 (teacher): student = 'previous' stands in the first stage" in refused(data)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({}, "one of 'model', 'config', 'layers' and 'plugin' must be given, and none is."),
        ({"tokenizer": "a"}, "and none is."),
        ({"model": "a", "plugin": "b"}, "'model' and 'plugin' are given together"),
        ({"model": "a", "layers": [1]}, "'model' and 'layers' are given together"),
        ({"config": {"hidden_size": 4}}, "config has no 'model_type'"),
        ({"layers": [0, 1]}, "'layers', item 1 = 0 should be greater than or equal to 1."),
        ({"layers": []}, "'layers' = [] should have at least 1 item."),
        ({"plugin": "b", "size": None}, "'size' is None, and a recipe holds text, numbers"),
    ],
)
def test_a_model_table_says_in_exactly_one_way_what_the_model_is(table: dict[str, Any], told: str) -> None:
    message = refused({**tables(), "student": table})
    assert message.startswith("r.toml: [student]: ")
    assert told in message


def test_layers_may_have_a_config_beside_them_and_belong_to_the_student() -> None:
    student = parse({"student": {"layers": [2, 4], "config": {"hidden_dropout_prob": 0.0}}}).student
    assert student is not None
    assert student.layers == (2, 4)
    assert "[teacher]: 'layers' takes layers from the teacher" in refused({"teacher": {"layers": [1]}})


def test_what_toml_cannot_leave_out_is_switched_off_with_nothing() -> None:
    recipe = parse({"data": {"label": ""}, "stage": [{"name": "a", "clip": 0}]})
    assert recipe.data.label == "", "left out it would be the task's own"
    assert recipe.stages[0].clip is None
    assert parse(tomllib.loads(dump(recipe))) == recipe


# -- dump and load ---------------------------------------------------------------------------------------------

words = st.text(string.ascii_lowercase, min_size=1, max_size=6)
values = st.recursive(
    st.text(max_size=8) | st.integers() | st.floats(allow_nan=False) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
plugin_names = words.map("p_{}".format)
free = st.dictionaries(words.map("o_{}".format), values, max_size=3)


@st.composite
def models(draw: st.DrawFn, student: bool) -> ModelConfig:
    kinds = ["model", "config", "plugin", *(["layers"] if student else [])]
    source = {
        "model": st.fixed_dictionaries({"model": st.text(min_size=1)}),
        "config": st.fixed_dictionaries({"config": free.map(lambda table: {"model_type": "bert", **table})}),
        "plugin": st.builds(lambda name, options: {"plugin": name, **options}, plugin_names, free),
        "layers": st.fixed_dictionaries(
            {"layers": st.lists(st.integers(1, 12), min_size=1)}, optional={"config": free}
        ),
    }[draw(st.sampled_from(kinds))]
    extra = st.fixed_dictionaries({}, optional={"tokenizer": st.text(), "trust_remote_code": st.booleans()})
    return ModelConfig.model_validate(draw(source) | draw(extra))


@st.composite
def plans(draw: st.DrawFn, name: str, before: list[str]) -> StagePlan:
    plugins = draw(st.lists(plugin_names, unique=True, max_size=3))
    references = st.sampled_from(
        ["fresh", "a/folder", *(["previous"] if before else []), *(f"stage:{n}" for n in before)]
    )
    positive = st.floats(1e-9, 1e9)
    optional = {
        "trains": st.sampled_from(["student", "teacher"]),
        "batch_size": st.integers(1, 10**6),
        "learning_rate": positive,
        "betas": st.lists(st.floats(0, 0.999), min_size=2, max_size=2),
        "schedule": st.sampled_from(["linear", "cosine", "constant"]),
        "warmup": st.integers(0, 5) | st.floats(0, 1, exclude_max=True),
        "warmup_start": st.floats(0, 1),
        "clip": st.none() | positive,
        "evaluate_every": st.integers(1, 99),
        "metric": st.text(),
        "early_stopping": st.integers(1, 9),
        "supervised": st.floats(0, 9),
        "seed": st.integers(0, 2**32 - 1),
        "teacher": references,
        "student": references,
    }
    length = draw(st.sampled_from([{}, {"updates": 5}, {"epochs": 0.5}, {"epochs": 4}]))
    chosen = draw(st.fixed_dictionaries({}, optional=optional))
    named = {plugin: draw(free) for plugin in plugins if draw(st.booleans())}
    return StagePlan.model_validate({"name": name, "plugins": plugins, **length, **chosen, **named})


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    names = draw(st.lists(words, unique=True, max_size=3))
    data = {"text": st.text(min_size=1), "label": st.none() | st.text(min_size=1), "max_length": st.integers(1, 512)}
    exported = draw(st.lists(plugin_names, unique=True, max_size=2))
    return Recipe.model_validate(
        {
            "name": draw(words),
            "seed": draw(st.integers(0, 2**32 - 1)),
            "task": draw(st.fixed_dictionaries({}, optional={"labels": st.text() | st.lists(st.text(), max_size=3)})),
            "data": draw(st.fixed_dictionaries({}, optional=data)),
            "teacher": draw(st.none() | models(student=False)),
            "student": draw(st.none() | models(student=True)),
            "stages": [draw(plans(name, names[:at])) for at, name in enumerate(names)],
            "export": draw(st.none() | st.just({"plugins": exported, **{name: draw(free) for name in exported[:1]}})),
        }
    )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(recipes())
def test_a_dumped_recipe_loads_back_equal(recipe: Recipe) -> None:
    again = parse(tomllib.loads(dump(recipe)))
    assert again == recipe
    assert difference(again, recipe) == []


# -- references, changes of plans, differences, schema --------------------------------------------------------


def test_references_follow_from_the_stages_before() -> None:
    stages = [
        {"name": "t1", "trains": "teacher"},
        {"name": "s1"},
        {"name": "t2", "trains": "teacher"},
        {"name": "s2"},
        {"name": "s3", "teacher": "previous", "student": "fresh"},
        {"name": "s4", "teacher": "some/folder"},
    ]
    resolved = resolve_references(parse({"teacher": {"model": "t"}, "stage": stages}))
    assert [(plan.teacher, plan.student) for plan in resolved.stages] == [
        (None, "fresh"),
        ("stage:t1", "fresh"),
        (None, "stage:t1"),
        ("stage:t2", "stage:s1"),
        ("stage:s2", "fresh"),
        ("some/folder", "stage:s3"),
    ]
    assert resolve_references(resolved) == resolved


def test_a_student_stage_without_a_teacher_stage_learns_from_the_table_or_from_nobody() -> None:
    stage = [{"name": "a"}]
    assert resolve_references(parse({"teacher": {"model": "t"}, "stage": stage})).stages[0].teacher == "fresh"
    assert resolve_references(parse({"stage": stage})).stages[0].teacher is None


def test_a_changed_plan_keeps_the_rest_and_is_checked() -> None:
    plan = StagePlan(name="a", plugins=("x", "y"), options={"x": {"n": 1}, "y": {"n": 2}}, clip=None, epochs=5)
    changed = plan.with_(name="b", plugins=("y",), updates=7)
    assert (changed.name, changed.plugins, changed.options) == ("b", ("y",), {"y": {"n": 2}})
    assert (changed.epochs, changed.updates, changed.clip) == (None, 7, None)
    assert changed.with_(epochs=1).updates is None
    assert plan.with_(x={"m": 3}).options == {"x": {"n": 1, "m": 3}, "y": {"n": 2}}
    with pytest.raises(RecipeError, match=r"stage 'a': unknown key 'epoch'\. Did you mean 'epochs'"):
        plan.with_(epoch=1)


def test_differences_are_a_line_a_key() -> None:
    a = parse(tables())
    b = parse(with_overrides(tables(), ["student.hidden_size=16", "hinton.temperature=1", "stage.teacher.name=big"]))
    lines = difference(a, b)
    assert "student.options.hidden_size: 32 → 16" in lines
    assert "stage.distil.options.hinton.temperature: 4.0 → 1" in lines
    assert 'stages: ["teacher", "distil"] → ["big", "distil"]' in lines
    assert difference(a, a) == []


def test_the_schema_describes_every_key_and_allows_plugin_tables() -> None:
    class Config(PluginConfig):
        temperature: float = 1.0
        """Softens."""

    schema = json_schema({"hinton": Config})
    stage = schema["$defs"]["StagePlan"]
    assert set(stage["properties"]) == {*StagePlan.model_fields, "hinton"} - {"options"}
    for name in ("TaskConfig", "DataConfig", "StagePlan", "ExportConfig", "ModelConfig"):
        properties = schema["$defs"][name]["properties"]
        assert all("description" in part for key, part in properties.items() if key != "hinton"), name
    assert all(schema["properties"][key]["description"] for key in schema["properties"])
    assert stage["additionalProperties"]["type"] == "object"
    assert stage["required"] == ["name"]
    reference = stage["properties"]["hinton"]["$ref"].removeprefix("#/$defs/")
    assert schema["$defs"][reference]["properties"]["temperature"]["description"] == "Softens."
    assert "null" not in str(schema)
    assert "stage" in schema["properties"]
    assert "stages" not in schema["properties"]


def test_the_schema_takes_what_a_recipe_takes_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert potstill.cli.main(["schema"]) == 0
    schema = jsonschema.Draft202012Validator(json.loads(capsys.readouterr().out))
    for one in shipped():
        schema.validate(tomllib.loads(one.path.read_text(encoding="utf-8")))

    def allowed(**task: Any) -> bool:
        return bool(schema.is_valid({"task": task, "stage": [{"name": "tune"}]}))

    assert allowed(kind="multi-label", separator=",")
    assert allowed(kind="of somebody else", size=3)
    for kind in ({}, {"kind": "regression"}, {"kind": "token-classification"}):
        assert allowed(**kind)
        assert not allowed(**kind, separator=",")
    assert not allowed(kind="multi-label", separator=1)
    for label, valid in (("a", True), (["a", "b"], True), (["a", 3], False), (["a", ""], False), (3, False)):
        assert schema.is_valid({"data": {"label": label}}) == valid
    assert not schema.is_valid({"data": {"label": ["a"]}})
    assert not schema.is_valid({"data": {"label": ["a", "a"]}})
