"""Which columns a task reads: what is named wins, and what is left out is called as the task calls it."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any, ClassVar

import pytest
import tomli_w

import potstill
from potstill import planning
from potstill.cli import main
from potstill.errors import DataError
from potstill.exporting import export_folder
from potstill.recipe import dump, parse
from potstill.runner import expanded
from potstill.saved import evaluate_folder, open_saved, predict
from potstill.suite.tasks import absence, suite_tasks
from potstill.tasks import columns, task_class
from potstill.tasks.columns import columns_of, with_columns
from potstill.tasks.regression import Regression
from potstill.testing.tiny import bert, write_data
from potstill.testing.words import asking, tagging, write_questions, write_tags

ASKED = {"text": "question", "text_pair": "context", "label": "answers"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = write_data(tmp_path_factory.mktemp("columns"))
    write_tags(place)
    write_questions(place)
    renamed = (place / "validation-questions.jsonl").read_text().replace('"context"', '"passage"')
    (place / "passages.jsonl").write_text(renamed)
    return place


def brief(tables: dict[str, Any], **data: Any) -> dict[str, Any]:
    """A recipe of one update without a teacher."""
    tables = {**tables, "data": {**tables["data"], **data}, "stage": [{"name": "a", "updates": 1, "batch_size": 8}]}
    tables["student"] = {"config": bert(1, 16), "tokenizer": "vocab.txt"}
    del tables["teacher"]
    return tables


def called(kind: str, **data: Any) -> dict[str, Any]:
    found = with_columns(parse({"task": {"kind": kind}, "data": data})).data
    return {"text": found.text, "text_pair": found.text_pair, "label": found.label}


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("text-classification", ("text", None, "label")),
        ("multi-label", ("text", None, "label")),
        ("regression", ("text", None, "label")),
        ("masked-lm", ("text", None, "label")),
        ("token-classification", ("words", None, "tags")),
        ("question-answering", ("question", "context", "answers")),
    ],
)
def test_what_a_recipe_leaves_out_is_called_as_its_task_calls_it(kind: str, names: tuple[str | None, ...]) -> None:
    assert tuple(called(kind).values()) == names


def test_what_is_named_wins_and_nothing_stays_nothing() -> None:
    assert called("question-answering", text_pair="passage") == {**ASKED, "text_pair": "passage"}
    assert called("question-answering", text="text", label="label") == {**ASKED, "text": "text", "label": "label"}
    assert called("question-answering", text_pair="", label="") == {**ASKED, "text_pair": "", "label": ""}
    assert called("text-classification", text_pair="other")["text_pair"] == "other"


def test_a_task_that_makes_its_own_labels_reads_no_column_of_them() -> None:
    recipe = parse({"task": {"kind": "masked-lm"}})
    assert columns_of(recipe.data, task_class("masked-lm"))["label"] is None
    assert columns_of(recipe.data, task_class("regression"))["label"] == "label"


def test_a_task_of_another_package_has_its_own_names_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stars(Regression):
        columns: ClassVar = {"text": "review"}

    monkeypatch.setattr(columns, "task_class", lambda kind: Stars)
    assert called("stars") == {"text": "review", "text_pair": None, "label": "label"}


def test_a_run_writes_down_what_it_read_and_its_model_knows_it(place: Path, tmp_path: Path) -> None:
    tables = brief(asking())
    assert not tables["data"].keys() & ASKED.keys()
    result = potstill.run(tables, folder=tmp_path / "run", data_root=place)
    written = tomllib.loads((tmp_path / "run/recipe.toml").read_text())["data"]
    assert {role: written[role] for role in ASKED} == ASKED
    assert dump(expanded(parse(tables))) == (tmp_path / "run/recipe.toml").read_text()
    assert {role: open_saved(result.model).columns[role] for role in ASKED} == ASKED
    named = potstill.run(brief(asking(), **ASKED), folder=tmp_path / "run", data_root=place)
    assert named.metrics == result.metrics  # the same run, since it is not refused
    assert evaluate_folder(result.model, "validation-questions.jsonl", data_root=place) == result.metrics
    assert len([*predict(result.model, place / "validation-questions.jsonl")]) == 24
    quiet = {"onnx": {"quantize": False, "time": False}}
    export_folder(result.model, quiet, tmp_path / "export", data_root=place)
    card = json.loads((tmp_path / "export/potstill.json").read_text())
    assert {role: card[role] for role in ASKED} == ASKED


def test_a_stage_may_name_another_column_and_keeps_the_others(place: Path, tmp_path: Path) -> None:
    tables, own = brief(asking()), {"train": "passages.jsonl", "validation": "passages.jsonl", "text_pair": "passage"}
    tables["stage"][0]["data"] = own
    [stage], [same] = (planning.plan(parse(each), place).stages for each in (tables, brief(asking(), **own)))
    assert stage["rows"] == same["rows"]
    with pytest.raises(DataError, match=r"has no column 'context' \(data\.text_pair\)"):
        potstill.run(brief(asking(), train="passages.jsonl"), folder=tmp_path / "run", data_root=place)


@pytest.mark.parametrize("tables", [tagging(), asking()], ids=["tags", "answers"])
def test_a_suite_of_such_tasks_names_no_columns(tables: dict[str, Any], place: Path) -> None:
    (place / "one.toml").write_text(tomli_w.dumps(brief(tables)))
    [task] = suite_tasks([str(place / "one.toml")], place)
    assert absence(task) is None
    (place / "one.toml").write_text(tomli_w.dumps(brief(tables, validation="passages.jsonl")))
    with pytest.raises(DataError, match=r"has no column '(words|context)' \(data\.text(_pair)?\); its columns are"):
        absence(suite_tasks([str(place / "one.toml")], place)[0])


def test_a_conll_file_needs_no_names(place: Path, tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("wave B-sea\nthe O\n\noak B-wood\npine I-wood\n")
    tables = brief(tagging(), train="a.conll", validation="a.conll")
    shutil.copy(place / "vocab.txt", tmp_path)
    assert potstill.run(tables, folder=tmp_path / "run", data_root=tmp_path).stages["a"]["rows"] == 2


def test_the_command_line_and_the_schema_tell_of_it(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"--{split}={place}/{split}-questions.jsonl" for split in ("train", "validation")]
    model = ["--student", str(place), "--task", "question-answering"]
    assert main(["run", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "The text's column. [default: text, or the task's own]" in told
    assert main(["plan", *rows, *model, "--text", "ask"]) == 2
    assert "has no column 'ask' (data.text); its columns are 'question', 'context'" in capsys.readouterr().err
    assert main(["schema"]) == 0
    data = json.loads(capsys.readouterr().out)["$defs"]["DataConfig"]["properties"]
    assert all("default" not in data[role] for role in ASKED)
