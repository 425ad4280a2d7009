"""A suite of tasks: what is run, what is not run again, what counts, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from safetensors import safe_open
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel

import potstill.cli
from potstill.errors import FileError, ModelError, RecipeError, UserError
from potstill.models import task_of
from potstill.outcomes import kept_outcomes
from potstill.progress import Progress
from potstill.suite.encoder import save_encoder
from potstill.suite.running import absent_tasks, run_suite
from potstill.suite.tasks import suite_tasks
from potstill.suite.verdict import compare
from potstill.testing.contract import Unplugged, _Unplug
from potstill.testing.tiny import bert, recipe, write_data
from potstill.testing.words import asking, tagging, write_questions, write_tags
from potstill.tokenizers import load_tokenizer

SUITE = """\
[recipe]
data = { max_length = 16 }
stage = [{ name = "tune", updates = 4, batch_size = 8, learning_rate = 2e-3 }]
[tasks.topic]
metrics = ["accuracy", "macro_f1"]
data = { train = "./train.csv", validation = "./validation.csv" }
[tasks.likeness]
metrics = ["pearson"]
task = { kind = "regression" }
data = { train = "./train.csv", validation = "./validation.csv", text_pair = "other", label = "score" }
"""


def save(kind: type, folder: Path, **more: Any) -> Path:
    """A small BERT of that class."""
    tokenizer = load_tokenizer("vocab.txt", folder.parent)
    config = {key: value for key, value in bert(1, 16, **more).items() if key != "model_type"}
    kind(BertConfig(vocab_size=len(tokenizer), **config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a suite file, and an encoder in "encoder"."""
    place = write_data(tmp_path_factory.mktemp("suite"))
    (place / "both.toml").write_text(SUITE)
    save(BertModel, place / "encoder")
    return place


def ran(place: Path, folder: Path, *settings: str, progress: Progress | None = None, **more: Any) -> dict[str, Any]:
    tasks = suite_tasks([str(place / "both.toml")], place, settings=settings)
    options = {"grid": {}, "seeds": [1, 2], "folder": folder, "name": "encoder", "progress": progress, **more}
    return run_suite(tasks, str(place / "encoder"), **options)


def variant(place: Path, old: str, new: str) -> str:
    """The suite with one thing changed, in a file of its own."""
    assert old in SUITE
    (place / "variant.toml").write_text(SUITE.replace(old, new))
    return str(place / "variant.toml")


def test_every_task_is_run_with_every_seed_and_nothing_is_run_twice(place: Path, tmp_path: Path) -> None:
    found = ran(place, tmp_path)
    assert list(found["tasks"]) == ["topic", "likeness"]
    topic = found["tasks"]["topic"]
    assert [run["seed"] for run in topic["runs"]] == [1, 2]
    kept = json.loads((tmp_path / "topic" / topic["runs"][1]["folder"] / "result.json").read_text())
    assert kept["student"] == "tune"
    assert topic["runs"][0].keys() == {"seed", "folder", "accuracy", "macro_f1"}
    labels = [row.split(",")[1] for row in (place / "validation.csv").read_text().splitlines()[1:]]
    assert topic["constant"]["accuracy"] == max(map(labels.count, labels)) / len(labels)
    assert found["tasks"]["likeness"]["constant"] == {}  # one value has no correlation
    assert json.loads((tmp_path / "suite.json").read_text()) == found
    assert "| likeness | pearson |" in (tmp_path / "suite.md").read_text()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    assert len(before) == 8
    assert ran(place, tmp_path) == found
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")} == before


def test_a_suite_that_broke_off_goes_on_to_the_same_end(place: Path, tmp_path: Path) -> None:
    with pytest.raises(Unplugged):
        ran(place, tmp_path / "broken", progress=_Unplug("tune", 10))  # in the third of four runs
    assert not (tmp_path / "broken/likeness/seed=2").exists()
    assert ran(place, tmp_path / "broken") == ran(place, tmp_path / "whole")


def test_a_suite_that_was_moved_goes_on(place: Path, tmp_path: Path) -> None:
    first = ran(place, tmp_path / "here")
    times = [path.stat().st_mtime_ns for path in sorted((tmp_path / "here").rglob("stages/*/result.json"))]
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert ran(place, tmp_path / "there") == first
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "there").rglob("stages/*/result.json"))] == times


def test_a_seed_more_runs_that_seed_only_although_the_weights_are_gone(place: Path, tmp_path: Path) -> None:
    first = ran(place, tmp_path)
    assert {path.name for path in tmp_path.glob("*/seed=*/**/*.safetensors")} == {"outcomes.safetensors"}
    more = ran(place, tmp_path, seeds=[1, 2, 3])
    assert more["tasks"]["topic"]["runs"][:2] == first["tasks"]["topic"]["runs"]
    assert len(more["tasks"]["topic"]["runs"]) == 3


def test_models_are_kept_where_that_is_asked_for(place: Path, tmp_path: Path) -> None:
    ran(place, tmp_path, seeds=[1], keep_models=True)
    assert (tmp_path / "topic/seed=1/model/model.safetensors").is_file()


def test_the_setting_that_is_best_on_average_counts_and_is_told(place: Path, tmp_path: Path) -> None:
    found = ran(place, tmp_path, grid={"stage.tune.learning_rate": [1e-6, 5e-3]})
    topic = found["tasks"]["topic"]
    tried = {row["stage.tune.learning_rate"]: row["accuracy"] for row in topic["tried"]}
    best = max(tried, key=lambda rate: tried[rate])
    assert topic["settings"] == {"stage.tune.learning_rate": best}
    assert sum(run["accuracy"] for run in topic["runs"]) / 2 == pytest.approx(tried[best])
    assert f"learning_rate {best}" in (tmp_path / "suite.md").read_text()


def test_an_encoder_comes_without_its_head_and_without_what_it_never_had(place: Path, tmp_path: Path) -> None:
    save(BertForSequenceClassification, place / "five-classes", num_labels=5)
    save(BertForMaskedLM, place / "language")

    def names(model: str) -> set[str]:
        save_encoder(str(place / model), tmp_path / model)
        with safe_open(tmp_path / model / "model.safetensors", "np") as weights:
            return set(weights.keys())

    pooler = {"pooler.dense.weight", "pooler.dense.bias"}
    assert names("five-classes") == names("encoder")
    assert names("encoder") - names("language") == pooler


def test_a_classifier_of_other_classes_is_fine_tuned_with_a_new_head(place: Path, tmp_path: Path) -> None:
    save(BertForSequenceClassification, place / "seven-classes", num_labels=7)
    tasks = suite_tasks([str(place / "both.toml")], place)[:1]
    options: dict[str, Any] = {"grid": {}, "seeds": [1], "name": "seven", "keep_models": True}
    run_suite(tasks, str(place / "seven-classes"), folder=tmp_path, **options)
    assert len(json.loads((tmp_path / "topic/seed=1/model/config.json").read_text())["id2label"]) == 3


def test_the_folder_of_another_model_is_refused(place: Path, tmp_path: Path) -> None:
    save(BertModel, place / "other")
    save_encoder(str(place / "encoder"), tmp_path / "encoder")
    save_encoder(str(place / "encoder"), tmp_path / "encoder")
    with pytest.raises(ModelError, match="began with another model"):
        save_encoder(str(place / "other"), tmp_path / "encoder")
    with pytest.raises(ModelError, match="neither a folder here nor could it be fetched"):
        save_encoder("not/there", tmp_path / "hub")


def test_absent_data_is_told_and_left_out_or_refused(place: Path, tmp_path: Path) -> None:
    notes: list[str] = []

    class Told(Progress):
        def note(self, text: str) -> None:
            notes.append(text)

    absent = variant(place, './validation.csv", text_pair', './dev.csv", text_pair')
    tasks = suite_tasks([absent], place)
    options: dict[str, Any] = {"grid": {}, "seeds": [], "name": "encoder", "progress": Told()}
    found = run_suite(tasks, str(place / "encoder"), folder=tmp_path / "left-out", **options)
    assert "no file or folder" in found["tasks"]["likeness"]["absent"]
    assert any(note.startswith("likeness: left out. ") for note in notes)
    assert len(found["tasks"]["topic"]["runs"]) == 1
    assert "| likeness |  | left out |" in (tmp_path / "left-out/suite.md").read_text()
    with pytest.raises(UserError, match="'likeness' cannot be run"):
        absent_tasks(tasks, Progress(), require_all=True)
    with pytest.raises(UserError, match=r"None of the suite's tasks has its data here; of 'likeness'"):
        run_suite(tasks[1:], str(place / "encoder"), folder=tmp_path / "none", **options)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('label = "score"', 'label = "scores"', r"has no column 'scores'.*Did you mean 'score'"),
        (', validation = "./validation.csv" }', " }", r"'topic' of the suite names no data\.validation"),
        ('"macro_f1"', '"makro_f1"', r"task 'topic'.*no metric 'makro_f1'.*Did you mean 'macro_f1'"),
        ('metrics = ["pearson"]', 'metrics = "pearson"', r"task 'likeness'.*metrics"),
        ('metrics = ["pearson"]', 'metriks = ["pearson"]', r"task 'likeness'.*unknown key 'metriks'"),
        ("[recipe]", "[recipes]", r"variant\.toml.*unknown key 'recipes'.*Did you mean 'recipe'"),
        ('kind = "regression"', 'kind = "regresion"', r"'regresion' is not an installed task"),
        ("max_length = 16", 'max_length = "16"', r"task 'topic'.*\[data\].*max_length"),
        ("[tasks.topic]", "[tasks.encoder]", r"cannot be called 'encoder'"),
        ("[tasks.topic]", "[tasks.average]", r"cannot be called 'average'"),
        ('"macro_f1"', '"f1"', r"'f1' is that of the second of 2 classes, and there are 3"),
        ('"pearson"', '"pearson", "mse"', r"less of 'mse' is better and more of 'pearson'"),
        ("[tasks.topic]", '[tasks."a/b"]', r"task 'a/b'.*a name is a folder's too"),
        ("[recipe]", "[recipe", r"suite '.*variant\.toml', line 1.*not valid TOML"),
    ],
)
def test_what_a_suite_cannot_say_is_one_sentence_before_anything_is_trained(
    old: str, new: str, sentence: str, place: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        run_suite(
            suite_tasks([variant(place, old, new)], place),
            str(place / "encoder"),
            grid={},
            seeds=[],
            folder=tmp_path / "runs",
            name="encoder",
        )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--seeds", "-1"], "--seeds '-1': a seed is a number from 0 to"),
        (["--seeds", str(2**64)], f"--seeds '{2**64}': a seed is a number from 0 to"),
        (["--grid", "foo=1"], "'foo' is neither a key of the recipe"),
        (["--grid", "stage.tune.learning_rate=5e-3,0.005"], "the run 'learning_rate=0.005' twice"),
        (["--grid", "student.model=other"], "--grid student.model: in a suite the student is the encoder of --model"),
        (["--set", "student.model=other"], "--set student.model: in a suite the student is the encoder of --model"),
        (["--against", "broken"], "weights of the model '.*broken' are cut short"),
        (["--against", ""], "--against is empty"),
        (["--model", ""], "--model is empty"),
        (["--against", "{place}/../{place.name}/encoder"], "neither better nor worse than itself"),
        (["--folder", "{place}/both.toml"], "cannot be made, for .*both.toml is a file"),
    ],
    ids=" ".join,
)
def test_what_the_command_cannot_do_is_one_sentence_and_nothing_is_trained(
    words: list[str], sentence: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(place / "encoder", broken)
    (broken / "model.safetensors").write_bytes(b"short")
    told = [word.format(place=place).replace("broken", str(broken)) for word in words]
    given = ["suite", str(place / "both.toml"), "--model", str(place / "encoder"), "--folder", str(tmp_path / "runs")]
    assert potstill.cli.main([*given, *told]) == 2
    assert re.search(sentence, capsys.readouterr().err)
    assert not list(tmp_path.rglob("stages"))
    assert "--against" in words or not (tmp_path / "runs").exists()


def test_the_table_of_all_keeps_what_earlier_calls_ran(place: Path, tmp_path: Path) -> None:
    topic, likeness = suite_tasks([str(place / "both.toml")], place)
    options: dict[str, Any] = {"grid": {}, "seeds": [1], "folder": tmp_path, "name": "encoder"}
    run_suite([topic], str(place / "encoder"), **options)
    assert list(run_suite([likeness], str(place / "encoder"), **options)["tasks"]) == ["likeness"]
    assert list(json.loads((tmp_path / "suite.json").read_text())["tasks"]) == ["topic", "likeness"]
    assert "| topic |" in (tmp_path / "suite.md").read_text()


def test_the_table_of_all_keeps_a_task_whose_data_is_gone_since(place: Path, tmp_path: Path) -> None:
    topic, likeness = suite_tasks([str(place / "both.toml")], place)
    options: dict[str, Any] = {"grid": {}, "seeds": [1], "folder": tmp_path, "name": "encoder"}
    ran = run_suite([topic], str(place / "encoder"), **options)
    found = run_suite([topic, likeness], str(place / "encoder"), absent={"topic": "no file"}, **options)
    assert found["tasks"]["topic"] == {"absent": "no file"}
    assert json.loads((tmp_path / "suite.json").read_text())["tasks"]["topic"] == ran["tasks"]["topic"]


def test_a_damaged_table_of_earlier_runs_is_told_before_anything_is_trained(place: Path, tmp_path: Path) -> None:
    (tmp_path / "suite.json").write_text("[]")
    with pytest.raises(FileError, match=r"suite\.json is damaged, for it holds no table of tasks"):
        ran(place, tmp_path)
    assert not list(tmp_path.rglob("stages"))


def test_models_that_were_thrown_away_are_not_kept_in_silence(place: Path, tmp_path: Path) -> None:
    notes: list[str] = []

    class Told(Progress):
        def note(self, text: str) -> None:
            notes.append(text)

    ran(place, tmp_path, seeds=[1])
    ran(place, tmp_path, seeds=[1], keep_models=True, progress=Told())
    assert [note for note in notes if "seed=1 was finished before without --keep-models" in note]


def test_recipes_are_tasks_too_with_the_encoder_in_the_students_place(place: Path, tmp_path: Path) -> None:
    tables = recipe("hinton", teacher={"config": bert(1, 16), "tokenizer": "vocab.txt"})
    for stage in tables["stage"]:
        del stage["epochs"]
        stage["updates"] = 3
    (place / "taught.toml").write_text(tomli_w.dumps({**tables, "name": "taught"}))
    [task] = suite_tasks([str(place / "taught.toml")], None)
    assert (task.name, task.metrics, task.root) == ("taught", ("accuracy",), place)
    options: dict[str, Any] = {"grid": {}, "seeds": [1, 2], "folder": tmp_path, "name": "encoder"}
    found = run_suite([task], str(place / "encoder"), **options)
    assert len(found["tasks"]["taught"]["runs"]) == 2
    losses = (tmp_path / "taught/seed=2/stages/02-distil/metrics.jsonl").read_text()
    assert "hinton.soft" in losses
    copied = (tmp_path / "taught" / seed / "stages/01-teacher/result.json" for seed in ("seed=1", "seed=2"))
    assert len({path.read_text() for path in copied}) == 1  # trained once


def test_one_task_name_twice_and_no_suite_of_that_name(place: Path) -> None:
    both = str(place / "both.toml")
    with pytest.raises(RecipeError, match="Two tasks are called 'topic'"):
        suite_tasks([both, both], place)
    with pytest.raises(UserError, match=r"no suite 'gleu'; there are clue, glue.*Did you mean 'glue'"):
        suite_tasks(["gleu"], None)


def test_the_shipped_suites_name_files_below_a_data_root_and_the_hub_without_one(tmp_path: Path) -> None:
    below = {task.name: task for task in suite_tasks(["glue"], tmp_path)}
    hub = {task.name: task for task in suite_tasks(["glue", "clue"], None)}
    assert list(below) == ["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte"]
    assert below["stsb"].recipe["data"]["label"] == "score"
    assert below["stsb"].recipe["data"]["train"] == "./stsb::train"
    assert hub["stsb"].recipe["data"]["label"] == "label"
    assert hub["mnli"].recipe["data"]["validation"] == "nyu-mll/glue:mnli::validation_matched"
    assert set(hub) - set(below) == {"afqmc", "tnews", "ocnli", "cmrc2018"}
    assert below["cola"].recipe["task"]["metric"] == "matthews"


def test_a_shipped_suite_is_listed_and_copied_as_recipes_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert potstill.cli.main(["recipes", "list", "--json"]) == 0
    assert {"glue", "clue"} <= {row["recipe"] for row in json.loads(capsys.readouterr().out)}
    assert potstill.cli.main(["recipes", "copy", "glue", str(tmp_path)]) == 0
    assert f"potstill suite {tmp_path / 'glue.toml'} --model DIR" in capsys.readouterr().out
    assert len(suite_tasks([str(tmp_path / "glue.toml")], tmp_path)) == 8


def test_only_some_of_the_tasks_may_be_meant(place: Path) -> None:
    assert [task.name for task in suite_tasks(["glue"], place, only=["rte", "cola"])] == ["cola", "rte"]
    with pytest.raises(UserError, match=r"no task 'mrcp'; there are cola, .*Did you mean 'mrpc'"):
        suite_tasks(["glue"], place, only=["mrcp"])


def test_plugins_and_settings_reach_every_task(place: Path) -> None:
    changed = suite_tasks(
        [str(place / "both.toml")], place, plugins=["fgm:epsilon=0.5"], settings=["data.max_length=9"]
    )
    for task in changed:
        assert task.recipe["stage"][0]["plugins"] == ["fgm"]
        assert task.recipe["data"]["max_length"] == 9
    with pytest.raises(RecipeError, match="there is no stage 'tun'"):
        suite_tasks([str(place / "both.toml")], place, settings=["stage.tun.updates=1"])


def test_the_command_prints_the_table_and_its_json(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["suite", str(place / "both.toml"), "--model", str(place / "encoder"), "--seeds", "1,2", "-q"]
    words += ["--folder", str(tmp_path)]
    assert potstill.cli.main(words) == 0
    table = capsys.readouterr().out
    assert "accuracy / macro-F1" in table
    assert "average" in table
    assert "±" in table
    assert potstill.cli.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "encoder"


def test_tags_and_answers_are_tasks_of_a_suite_too(place: Path, tmp_path: Path) -> None:
    write_tags(place)
    write_questions(place)
    for name, tables in (("tags", tagging()), ("answers", asking())):
        own = {**tables, "stage": [{"name": "tune", "epochs": 1, "batch_size": 16}]}
        (place / f"{name}.toml").write_text(tomli_w.dumps({key: own[key] for key in ("task", "data", "stage")}))
    save(BertModel, place / "rival")
    tasks = suite_tasks([str(place / "tags.toml"), str(place / "answers.toml")], place)
    options: dict[str, Any] = {"grid": {}, "seeds": [1, 2], "progress": None}
    one, other = (
        run_suite(tasks, str(place / name), folder=tmp_path / name, name=name, **options)
        for name in ("encoder", "rival")
    )
    assert [list(task["runs"][0])[2:] for task in one["tasks"].values()] == [["f1"], ["f1"]]
    for name, task in one["tasks"].items():
        run = tmp_path / "encoder" / name / task["runs"][0]["folder"]
        kept = kept_outcomes(run / "stages" / "01-tune")
        assert task_of(run / "model").rescore(*kept)["f1"] == pytest.approx(task["runs"][0]["f1"])
    judged = compare(one, other, tmp_path / "encoder", tmp_path / "rival", Progress())["tasks"]
    assert all(low <= task["difference"] <= high for task in judged.values() for low, high in [task["rows"]])
