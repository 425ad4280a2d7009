"""Wrong input from the command line: one sentence that says what was given and what would be right, exit code 2."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch

import potstill
from potstill.tasks import better, scores
from potstill.testing.tiny import bert, write_data
from tests.wrong import LABELS, Run, caller, composed, save_model, told, write_tables


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data files, a teacher and damaged copies of it."""
    root = write_data(tmp_path_factory.mktemp("wrong"))
    write_tables(root)
    save_model(root / "teacher", LABELS)
    save_model(root / "four", [*LABELS, "sky"])
    save_model(root / "unnamed", ["LABEL_0", "LABEL_1"])
    save_model(root / "value", ["value"])
    for name in ("pickle", "empty-weights", "cut-weights", "list-config", "no-words", "unlearnt"):
        shutil.copytree(root / "teacher", root / name)
    (root / "pickle" / "model.safetensors").unlink()
    torch.save({}, root / "pickle" / "pytorch_model.bin")
    (root / "empty-weights" / "model.safetensors").unlink()
    weights = (root / "teacher" / "model.safetensors").read_bytes()
    (root / "cut-weights" / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    (root / "list-config" / "config.json").write_text("[]")
    for path in (root / "no-words").glob("tok*"):
        path.unlink()
    config = json.loads((root / "teacher" / "config.json").read_text())
    (root / "unlearnt" / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    return root


@pytest.fixture
def run(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line in `place`: its exit code and what it said on standard error."""
    return caller(place, tmp_path, monkeypatch, capsys)


DATA = [
    ("missing.csv", "There is no 'missing.csv' in"),
    ("", "--train is empty"),
    ("empty.csv", "empty.csv is empty."),
    ("header.csv", "holds no rows"),
    ("binary.csv", "is not UTF-8; save the file as UTF-8"),
    ("utf16.csv", "line 1: byte 0 (0xff) is not UTF-8"),
    ("columns.csv", "has no column 'text' (data.text); its columns are 'sentence', 'klass'"),
    ("twice.csv", "has 2 columns 'text' (data.text); rename all but one"),
    ("ragged.csv", "line 3: there are 3 columns and the header names 2"),
    ("quote.csv", "this is not valid CSV"),
    ("outside.csv", "the label 'sky' is none of the 3 labels 'sea', 'town', 'wood'"),
    ("broken.jsonl", "line 2: this is not valid JSON"),
    ("null.jsonl", "line 1: 'text' is null, not text"),
    ("mixed.jsonl", "line 2: 'text' is 5, not text as in line 1"),
    ("false.parquet", "is not a readable Parquet file"),
    ("table.xlsx", "ends in '.xlsx'; files may end in"),
    ("nothing", "holds no data file"),
    ("splits", "does not say which split; append one of ::train, ::test"),
    ("splits::dev", "has no split 'dev'"),
    ("train.csv::train", "a file has no splits"),
    ("unlabelled.csv", "is any row labelled?"),
    ("no/such-set", "is neither a file or folder below"),
]


@pytest.mark.parametrize(("file", "sentence"), DATA, ids=[file for file, _ in DATA])
def test_wrong_training_data_is_a_sentence(run: Run, file: str, sentence: str) -> None:
    assert sentence in told(run, *composed(train=file))


TEACHERS = [
    ("nowhere", "is neither a folder here nor could it be fetched from the hub"),
    ("./nowhere", "There is no './nowhere' in"),
    ("", "--teacher is empty"),
    ("train.csv", "There is no model folder"),
    ("nothing", "holds no config.json, so it is not a model"),
    ("four", "tells 4 labels apart (sea, town, wood, sky), and the task has 3 (sea, town, wood)"),
    ("unnamed", "tells 2 labels apart (LABEL_0, LABEL_1), and the task has 3"),
    ("value", "was made for the task 'regression', and this one is 'text-classification'"),
    ("pickle", "pytorch_model.bin is a pickle, which can run code when opened"),
    ("empty-weights", "holds no model.safetensors"),
    ("cut-weights", "are cut short or no safetensors"),
    ("list-config", "config.json holds [], not a table"),
    ("no-words", "There is no tokenizer in"),
    ("unlearnt", "no checkpoint gave its bert.encoder.layer.2."),
]


@pytest.mark.parametrize(("folder", "sentence"), TEACHERS, ids=[folder for folder, _ in TEACHERS])
def test_a_wrong_teacher_is_a_sentence(run: Run, folder: str, sentence: str) -> None:
    labels = ["--task", "text-classification", "--set", 'task.labels=["sea", "town", "wood"]']
    assert sentence in told(run, *composed(*labels, teacher=folder))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["-p", "hintn"], "Did you mean 'hinton'?"),
        (["-p", "hinton:temprature=2"], "unknown key 'temprature'. Did you mean 'temperature'?"),
        (["-p", "hinton:temperature=two"], "'temperature' = 'two' should be a valid number"),
        (["-p", "hinton:temperature=-1"], "'temperature' = -1 should be greater than 0"),
        (["-p", "hinton:temperature=inf"], "'temperature' = inf should be a finite number"),
        (["-p", "hinton:temperature"], "'temperature' is not OPTION=VALUE"),
        (["-p", ":x=1"], "plugin ':x=1' is not NAME or NAME:OPTION=VALUE"),
        (["-p", "onnx"], "does nothing in a stage, only in [export] (from options: --export onnx)"),
        (["--export", "onx"], "Did you mean 'onnx'?"),
        (["--export", "hinton"], "exports nothing; its place is a stage's plugins"),
        (["--set", "sed=3"], "Did you mean 'seed'?"),
        (["--set", "seed"], "override 'seed' is not KEY=VALUE"),
        (["--set", "seed=-1"], "'seed' = -1 should be greater than or equal to 0"),
        (["--set", "epochs=2"], "Did you mean 'stage.distil.epochs'?"),
        (["--set", "stage.distl.epochs=2"], "there is no stage 'distl'"),
        (["--set", "student.layers=[9]"], "Layer 9 of the teacher is asked for, but it has layers 1 to 2"),
        (["--set", "task.kind=txt"], "task.kind = 'txt' is not an installed task"),
        (["--set", "task.metric=f1"], "The metric 'f1' is that of the second of 2 classes, and there are 3"),
        (["--set", "task.labels=[]"], "Classification needs at least 2 classes"),
        (["--set", "stage.distil.updates=5", "--epochs", "1"], "give one of them"),
        (["--set", "stage.distil.warmup=1000"], "a warm-up of 1000"),
        (["--max-length", "33"], "max_length = 33 (data.max_length, --max-length), but the student reads 32 tokens"),
        (["--max-length", "2"], "max_length = 2 leaves no room for text"),
        (["--text", ""], "'text' = '' should have at least 1 character"),
        (["--text", "sentence"], "has no column 'sentence' (data.text)"),
        (["--label", "text"], "the column 'text' is named for two roles"),
        (["--validation", "unlabelled.csv"], "has a label, so it cannot tell which student is best"),
        (["--validation", "plain.txt"], "has a label, so it cannot tell which student is best"),
        (["--student", "bilstm"], "exclude each other"),
        (["--name", "a/b"], "a name is a folder's too"),
        (["--data-root", "nowhere"], "--data-root: there is no folder 'nowhere'"),
        (["--save-recipe", "nothing"], "--save-recipe: 'nothing' exists and holds something else; name another"),
        (["--folder", "train.csv"], "The run folder train.csv cannot be made, for train.csv is a file"),
        (["--folder", "mine"], "is no run folder and holds a 'model', which a run would replace"),
        (["--task", "regression", "--train", "words.csv"], "the label 'much' is not a number"),
    ],
    ids=" ".join,
)
def test_a_wrong_option_is_a_sentence(run: Run, words: list[str], sentence: str) -> None:
    teacher = "value" if "regression" in words else "teacher"
    assert sentence in told(run, *composed(*words, teacher=teacher))


RECIPE: dict[str, Any] = {
    "data": {"train": "train.csv", "validation": "validation.csv", "max_length": 16},
    "teacher": {"model": "teacher"},
    "student": {"layers": [1]},
    "stage": [{"name": "distil", "updates": 1, "plugins": ["hinton"]}],
}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"stage": []}, "has no [[stage]], so there is nothing to train"),
        ({"student": None}, "No plugin and no [student] table of the recipe makes a student"),
        ({"teacher": None, "student": {"model": "teacher"}}, "add a [teacher] table or a stage that trains one"),
        ({"data": None}, "names no training rows: give data.train"),
        ({"data": {"train": "train.csv"}, "export": {"plugins": ["onnx"]}}, "names no data.validation"),
        ({"stage": {"name": "x"}}, "[stage]: should be a list"),
        ({"nme": "x"}, "unknown key 'nme'. Did you mean 'name'?"),
        ({"student": {"layers": [1], "model": "x"}}, "exactly one of them says what the model is"),
        ({"student": {"plugin": "hinton"}}, "The plugin 'hinton' builds no such model"),
        ({"student": {"config": {"model_type": "brt"}}}, "There is no model_type 'brt'. Did you mean 'bert'?"),
        ({"student": {"config": bert(1, hidden=-32)}}, "The config of a 'bert' model cannot be used"),
        ({"student": {"config": bert(1), "tokenizer": "list.json"}}, "list.json holds [], not a table"),
        ({"student": {"config": bert(1), "tokenizer": "nothing"}}, "The tokenizer 'nothing' could not be loaded"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value)[:40],
)
def test_a_wrong_recipe_is_a_sentence(
    run: Run, place: Path, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    tables = {key: table for key, table in {**RECIPE, **changes}.items() if table is not None}
    (tmp_path / "r.toml").write_text(tomli_w.dumps(tables))
    said = told(run, "run", "{tmp}/r.toml", "--folder", "{tmp}/run", "--data-root", str(place), "--quiet")
    assert sentence in said


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"name = \n", "line 1, column 8: this is not valid TOML"), (b'name = "\xe9"', "is not UTF-8 text (byte 8)")],
)
def test_a_file_that_is_no_recipe_is_a_sentence(run: Run, tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "r.toml").write_bytes(content)
    assert sentence in told(run, "run", "{tmp}/r.toml")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("run", "There is nothing to train on: give a recipe file, or --train FILE"),
        ("run --train train.csv", "There is no student: give --student-layers"),
        ("run nothing", "recipe 'nothing' is a folder, not a recipe file"),
        ("run thucnews-bilstm.toml", "`potstill recipes copy thucnews-bilstm` makes it here"),
        ("evaluate nowhere validation.csv", "There is no model folder 'nowhere'"),
        ("evaluate teacher nowhere.csv", "There is no 'nowhere.csv' in"),
        ("evaluate teacher unlabelled.csv --max-length 16", "has a label, so there is nothing to measure"),
        ("evaluate teacher validation.csv --max-length 33", "but the model reads 32 tokens a row at most"),
        ("evaluate unlearnt validation.csv", "is not trained for this: no checkpoint gave its"),
        ("predict pickle wave", "is a pickle"),
        ("predict teacher wave --file plain.txt", "Both texts and --file plain.txt are given"),
        ("export teacher -p onx --validation validation.csv", "Did you mean 'onnx'?"),
        ("export teacher -p onnx --validation validation.csv --out train.csv", "'train.csv' is no earlier export's"),
        (
            "export teacher -p onnx --validation validation.csv --out .",
            "binary.csv' is no earlier export's, so '.' is not replaced",
        ),
        ("time nothing", "so there is nothing to time"),
        ("compare teacher", "name two folders or more"),
        ("compare nothing teacher", "The folder 'nothing' holds no run"),
        ("report nothing", "The folder 'nothing' holds no run"),
        ("plugins show hintn", "Did you mean 'hinton'?"),
        ("plugins new X!", "'X!' cannot be a plugin's name"),
        ("recipes copy nope", "No installed plugin ships a recipe 'nope'"),
    ],
)
def test_a_wrong_command_line_is_a_sentence(run: Run, words: str, sentence: str) -> None:
    assert sentence in told(run, *words.split())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--grid", "hinton.temperature=1,-2"], "'temperature' = -2 should be greater than 0"),
        (["--grid", "hinton.temprature=1"], "unknown key 'temprature'"),
        (["--grid", "x"], "is no KEY=V1,V2"),
        (["--seeds", "1,-1"], "--seeds '1,-1': a seed is a number from 0 to"),
        (["--seeds", "1,1"], "names a seed twice"),
    ],
    ids=" ".join,
)
def test_a_sweep_tells_a_wrong_value_before_it_trains(
    run: Run, tmp_path: Path, words: list[str], sentence: str
) -> None:
    (tmp_path / "r.toml").write_text(tomli_w.dumps(RECIPE))
    assert sentence in told(run, "sweep", "{tmp}/r.toml", "--folder", "{tmp}/sweep", "--quiet", *words)
    assert not (tmp_path / "sweep").exists()


def test_a_byte_order_mark_odd_texts_and_one_class_in_validation_are_ordinary_input(run: Run, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_bytes(b"\xef\xbb\xbf" + tomli_w.dumps({**RECIPE, "name": "größe 1"}).encode())
    files = ["--set", "data.train=odd.csv", "--set", "data.validation=one-class.csv", "--set", "data.test=bom.csv"]
    code, said = run("run", "{tmp}/r.toml", "--folder", "{tmp}/größe 数", "--data-root", ".", "--quiet", *files)
    assert code == 0, said
    assert run("evaluate", "{tmp}/größe 数", "splits::test", "--quiet")[0] == 0
    assert run("predict", "{tmp}/größe 数", "--file", "splits::test")[0] == 0
    said = told(run, "run", "{tmp}/r.toml", "--folder", "{tmp}/größe 数", "--data-root", ".", "--quiet", "--seed", "1")
    assert "holds a run of another recipe" in said


def test_a_run_that_stopped_for_wrong_input_goes_on_once_it_is_mended(run: Run, place: Path, tmp_path: Path) -> None:
    data = tmp_path / "mine.csv"
    shutil.copy(place / "outside.csv", data)
    assert "the label 'sky'" in told(run, *composed("--epochs", "1", train=str(data)))
    shutil.copy(place / "bom.csv", data)
    code, said = run(*composed("--epochs", "2", train=str(data)))
    assert code == 0, said
    assert "holds a run of another recipe" in told(run, *composed("--epochs", "1", train=str(data)))


def test_a_composed_run_takes_the_labels_in_the_order_of_the_teacher(run: Run, place: Path, tmp_path: Path) -> None:
    shutil.copy(place / "vocab.txt", tmp_path)
    save_model(tmp_path / "turned", LABELS[::-1])
    said = composed("--set", "stage.distil.epochs=0.1", teacher="{tmp}/turned")
    code, heard = run(*said)
    assert code == 0, heard
    assert json.loads((tmp_path / "run" / "model" / "potstill.json").read_text())["task"]["labels"] == LABELS[::-1]


@pytest.fixture(scope="module")
def finished(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one update, that tests copy and damage."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    potstill.run(RECIPE, folder=folder, data_root=place)
    return folder


DAMAGES = {"cut": b'{"stage": "dis', "empty": b"", "binary": b"\xff\x00"}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["stages/01-distil/result.json", "result.json", "environment.json"])
def test_a_damaged_file_of_a_run_is_a_sentence_and_without_it_the_run_goes_on(
    run: Run, finished: Path, tmp_path: Path, name: str, damage: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (tmp_path / "r.toml").write_bytes((folder / "recipe.toml").read_bytes())
    again = ["run", "{tmp}/r.toml", "--folder", "{tmp}/run", "--data-root", ".", "--quiet"]
    (folder / name).write_bytes(DAMAGES[damage])
    said = told(run, *again)
    assert said.startswith(f"{folder / name} is damaged, for it is not JSON (")
    assert said.endswith("); put back a whole copy, or remove it and run again.")
    for words in (["report", "{tmp}/run"], ["compare", "{tmp}/run", str(finished)]):
        code, said = run(*words)
        assert code == 0, said
    (folder / name).unlink()
    code, said = run(*again)
    assert code == 0, said
    known, mended = (json.loads((made / name).read_text()) for made in (finished, folder))
    assert mended.keys() == known.keys()


@pytest.mark.parametrize(("alpha", "expected"), [("1", 0), ("0.5", 2)])
def test_training_data_without_a_label_is_told_before_the_first_update(run: Run, alpha: str, expected: int) -> None:
    words = composed("-p", f"hinton:alpha={alpha}", "--epochs", "1", train="unlabelled.csv")
    code, said = run(*(word for word in words if word != "--quiet"))
    assert code == expected, said
    note = "distil: no row of the training data has a label, so loss terms on labels stay empty."
    assert said.splitlines().count(note) == 1
    _, said = run(*composed("--epochs", "1", train="bom.csv", folder="{tmp}/labelled")[2:])
    assert note not in said


def test_a_correlation_with_constant_labels_is_undefined_and_loses_to_every_number(run: Run, tmp_path: Path) -> None:
    words = composed("--task", "regression", "--epochs", "2", train="numbers.csv", teacher="value")
    code, said = run(*words, "--validation", "constant.csv", "--json")
    assert code == 0, said
    facts = json.loads((tmp_path / "run" / "stages" / "01-distil" / "result.json").read_text())
    assert math.isnan(facts["metrics"]["pearson"])
    assert math.isnan(facts["metrics"]["spearman"])
    assert 0 < facts["metrics"]["mse"] < 100
    undefined = scores.regression(np.array([1.0, 2.0]), np.array([3.0, 3.0]))["pearson"]
    assert better("pearson", -1.0, undefined)
    assert not better("pearson", undefined, -1.0)
    assert not better("pearson", undefined, undefined)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "predicted", [[1, 1, 1], [1, 1 + 1e-7, 1], [1e8, 1e8 + 8, 1e8], [math.nan, 1, 2], [math.inf, 1, 2]]
)
def test_predictions_without_a_spread_are_scored_without_a_warning(predicted: list[float]) -> None:
    found = scores.regression(np.array(predicted, np.float32), np.array([1, 2, 3], np.float32))
    assert math.isnan(found["pearson"]) or found["pearson"] == pytest.approx(0, abs=1e-6)
