"""From command lines to recipes: composed ones, changed ones, and those that ship with plugins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import potstill.cli
from potstill import recipe as recipes
from potstill.cli.compose import Parts, compose, model_folder
from potstill.cli.export import options_by_plugin
from potstill.cli.options import prepare
from potstill.cli.sweep import parse_grid, summary
from potstill.errors import RecipeError, UserError
from potstill.recipes import copy, find, shipped
from tests.installing import install

RECIPE = """\
name = "small"
[data]
train = "a.csv"
[student]
config = { model_type = "bert" }
[[stage]]
name = "distil"
plugins = ["hinton"]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: two data files, a teacher that potstill trained, and a recipe."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("text,label\nx,1\n")
    (tmp_path / "b.csv").write_text("text,label\ny,0\n")
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    (teacher / "config.json").write_text("{}")
    card = {"task": {"kind": "text-classification", "labels": ["no", "yes"]}, "max_length": 64}
    (teacher / "potstill.json").write_text(json.dumps(card))
    (tmp_path / "small.toml").write_text(RECIPE)
    return tmp_path


def prepared(recipe: str | None = None, **options):
    empty = {"data_root": None, "name": None, "seed": None, "plugins": (), "settings": (), "save_recipe": None}
    return prepare(recipe, **(empty | options))


def test_options_make_the_recipe_that_a_file_would_say(folder: Path):
    parts = Parts(
        teacher="teacher",
        train="a.csv",
        validation="b.csv",
        text="sentence",
        label="class",
        student_layers=(2, 4, 6),
        epochs=2.0,
        learning_rate=1e-4,
        batch_size=16,
        max_length=40,
        export=("onnx",),
    )
    assert compose(parts) == {
        "name": "a",
        "task": {"kind": "text-classification", "labels": ["no", "yes"]},
        "data": {
            "train": str(folder / "a.csv"),
            "validation": str(folder / "b.csv"),
            "text": "sentence",
            "label": "class",
            "max_length": 40,
        },
        "teacher": {"model": str(folder / "teacher")},
        "student": {"layers": [2, 4, 6]},
        "stage": [{"name": "distil", "epochs": 2.0, "batch_size": 16, "learning_rate": 1e-4}],
        "export": {"plugins": ["onnx"]},
    }


def test_a_composed_recipe_takes_plugins_and_loads_back_from_the_file_it_was_saved_to(folder: Path):
    made = prepared(
        teacher="teacher",
        train="a.csv",
        student_layers=(2,),
        plugins=("hinton:temperature=2,alpha=0.5", "accumulate:batches=4"),
        settings=("data.train_rows=10",),
        seed=7,
        save_recipe="saved.toml",
    )
    stage = made.recipe.stages[0]
    assert stage.plugins == ("hinton", "accumulate")
    assert stage.options_of("hinton") == {"temperature": 2, "alpha": 0.5}
    assert stage.options_of("accumulate") == {"batches": 4}
    assert (made.recipe.seed, made.recipe.data.train_rows) == (7, 10)
    assert recipes.load(folder / "saved.toml") == made.recipe


def test_a_hub_id_stays_and_a_missing_file_is_named(folder: Path):
    assert compose(Parts(train="ag_news::train", student="google/bert_tiny"))["data"]["train"] == "ag_news::train"
    with pytest.raises(UserError, match=r"'missing\.csv'.*--train"):
        compose(Parts(train="missing.csv", student="google/bert_tiny"))


def test_a_student_may_be_the_name_of_a_plugin():
    assert compose(Parts(train="a.csv", student="bilstm"))["student"] == {"plugin": "bilstm"}


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        (Parts(), "nothing to train on"),
        (Parts(train="a.csv"), "no student"),
        (Parts(train="a.csv", student_layers=(2,)), "give --teacher"),
        (Parts(train="a.csv", student="teacher", student_layers=(2,), teacher="teacher"), "exclude each other"),
    ],
)
def test_what_cannot_be_composed_is_said(parts: Parts, sentence: str):
    with pytest.raises(UserError, match=sentence):
        compose(parts)


def test_options_that_stand_in_for_a_recipe_file_are_refused_beside_one():
    with pytest.raises(RecipeError, match=r"--max-length.*small\.toml.*--set data\.max_length="):
        prepared("small.toml", max_length=10)
    with pytest.raises(RecipeError, match=r"--set stage\.NAME\.epochs="):
        prepared("small.toml", epochs=1.0)


def test_a_recipes_paths_start_at_its_folder_or_at_the_data_root(folder: Path):
    assert prepared("small.toml").data_root == folder
    assert prepared("small.toml", data_root="teacher").data_root == folder / "teacher"
    with pytest.raises(RecipeError, match="no folder 'nowhere'"):
        prepared("small.toml", data_root="nowhere")


def test_changes_apply_in_the_order_plugins_settings_seed():
    made = prepared(
        "small.toml",
        plugins=("hinton:temperature=2",),
        settings=("hinton.temperature=8", "seed=1", "stage.distil.epochs=5"),
        seed=9,
        name="other",
    )
    assert made.recipe.stages[0].options_of("hinton") == {"temperature": 8}
    assert (made.recipe.name, made.recipe.seed, made.recipe.stages[0].epochs) == ("other", 9, 5)


def test_a_wrong_setting_exits_with_2_and_suggests_the_right_one(capsys):
    assert potstill.cli.main(["plan", "small.toml", "--set", "data.max_lenght=3"]) == 2
    assert "Did you mean 'max_length'?" in capsys.readouterr().err


def test_model_folder_finds_a_runs_model(folder: Path):
    run = folder / "run"
    (run / "model").mkdir(parents=True)
    (run / "recipe.toml").write_text(RECIPE)
    with pytest.raises(UserError, match="no finished model"):
        model_folder("run")
    (run / "model" / "config.json").write_text("{}")
    assert model_folder("run") == Path("run/model")
    assert model_folder("teacher") == Path("teacher")
    with pytest.raises(UserError, match="no model folder 'absent'"):
        model_folder("absent")


def test_export_plugins_get_typed_options():
    assert options_by_plugin(("onnx:int8=true,tolerance=1e-3", "other")) == {
        "onnx": {"int8": True, "tolerance": 1e-3},
        "other": {},
    }


def test_a_grid_is_lists_of_values_of_their_own_types():
    assert parse_grid(["hinton.temperature=1,5.5", "student.layers=[2],[2,4]", "stage.1.schedule=linear,cosine"]) == {
        "hinton.temperature": [1, 5.5],
        "student.layers": [[2], [2, 4]],
        "stage.1.schedule": ["linear", "cosine"],
    }
    with pytest.raises(UserError, match=r"KEY=V1,V2"):
        parse_grid(["hinton.temperature"])
    with pytest.raises(UserError, match="twice"):
        parse_grid(["a.b=1", "a.b=2"])


def test_a_sweeps_summary_is_mean_and_sample_deviation_over_seeds():
    rows = [
        {"settings": {"t": t}, "seed": seed, "metrics": {"accuracy": value}}
        for t, seed, value in ((1, 1, 0.80), (1, 2, 0.84), (5, 1, 0.9))
    ]
    assert summary(rows) == [
        {"t": 1, "seeds": 2, "accuracy": "0.8200 ± 0.0283"},
        {"t": 5, "seeds": 1, "accuracy": "0.9000"},
    ]


@pytest.fixture
def shipping(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed plugin with a recipe; importing it would fail."""
    place = folder / "site"
    sources = {
        "birds/__init__.py": "raise RuntimeError('imported')",
        "birds/recipes/robin.toml": f"# A small robin.\n{RECIPE}",
    }
    install(place, "potstill-birds", sources, {"potstill.plugins": {"birds": "birds.plugin:Birds"}})
    monkeypatch.syspath_prepend(str(place))
    return place


def test_recipes_of_plugins_are_found_without_importing_the_plugin(shipping: Path):
    robin = find("robin")
    assert (robin.distribution, robin.version, robin.summary) == ("potstill-birds", "1.2", "A small robin.")
    assert robin in shipped()
    with pytest.raises(UserError, match="Did you mean 'robin'"):
        find("robyn")


def test_a_recipe_is_copied_and_never_over_a_file_unasked(shipping: Path, folder: Path):
    assert copy("robin").read_text() == find("robin").path.read_text()
    with pytest.raises(UserError, match="--force"):
        copy("robin")
    copy("robin", folder / "mine.toml")
    assert recipes.load(folder / "mine.toml").name == "small"


def test_running_a_shipped_recipe_that_was_not_copied_says_how_to(shipping: Path, capsys):
    assert potstill.cli.main(["run", "robin"]) == 2
    assert "potstill recipes copy robin" in capsys.readouterr().err


def test_one_recipe_name_in_two_distributions_wants_the_distribution(shipping: Path, folder: Path):
    install(
        folder / "site",
        "potstill-more-birds",
        {"more_birds/__init__.py": "", "more_birds/recipes/robin.toml": "# Another.\n"},
        {"potstill.commands": {"more": "more_birds:more"}},
    )
    with pytest.raises(UserError, match="potstill-birds/robin or potstill-more-birds/robin"):
        find("robin")
    assert find("potstill-more-birds/robin").summary == "Another."


def test_fresh_removes_what_a_run_left_and_nothing_else(folder: Path):
    from potstill.cli.run import _clear

    run = folder / "runs" / "small"
    run.mkdir(parents=True)
    (run / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="is no run folder; nothing was removed"):
        _clear(run)
    assert (run / "thesis.txt").exists()
    (run / "recipe.toml").write_text(RECIPE)
    (run / "environment.json").write_text("{}")
    (run / "stages" / "01-plain").mkdir(parents=True)
    _clear(run)
    assert not (run / "stages").exists()
    assert (run / "thesis.txt").read_text() == "years of work"
