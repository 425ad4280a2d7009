"""Labels in a column of 0 and 1 for each class: every form of data, what is refused, and models that know them."""

from __future__ import annotations

import csv
import json
import math
import random
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tomli_w
from datasets import ClassLabel, Dataset, Features, Value

import potstill
from potstill.data.source import Source, open_source
from potstill.errors import DataError, RecipeError, UserError
from potstill.exporting import export_folder
from potstill.recipe import parse
from potstill.runner import expanded
from potstill.saved import evaluate_folder, open_saved, predict
from potstill.settings import TaskConfig
from potstill.suite.tasks import absence, suite_tasks
from potstill.tasks import load_task
from potstill.tasks.multilabel import MultiLabel
from potstill.testing.tiny import COMMON, SUBJECTS, bert, write_data
from tests.wrong import Run, caller, told

NAMES = ["toxic", "insult"]
KINDS = sorted(SUBJECTS)
CELLS = [(1, 0), (1, 1), (0, 0), (None, None)]
EXPECTED = [["toxic"], ["toxic", "insult"], [], None]
ROWS = [{"text": f"row {n}", "toxic": one, "insult": other} for n, (one, other) in enumerate(CELLS)]


def opened(spec: Any, root: Path, *names: str, text: str = "text") -> Source:
    columns = {"text": text, "label": names or tuple(NAMES)}
    return open_source(spec, columns, root, cache=root / "cache", shapes=MultiLabel.shapes)


def names_of(source: Source) -> list[list[str] | None]:
    return [None if label is None else label["names"] for label in source.labels()]


def write(root: Path, form: str) -> Any:
    """`ROWS` in one form of data."""
    if form == "data set":
        return Dataset.from_list(ROWS)
    if form == "named numbers":
        flag = ClassLabel(names=["no", "yes"])
        return Dataset.from_list(ROWS, features=Features({"text": Value("string"), "toxic": flag, "insult": flag}))
    if form == "saved":
        Dataset.from_list(ROWS).save_to_disk(root / "saved")
        return "saved"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), root / "a.parquet")
        return "a.parquet"
    cells = [["text", *NAMES], *(["" if cell is None else str(cell) for cell in row.values()] for row in ROWS)]
    texts = {
        "jsonl": "\n".join(json.dumps(row) for row in ROWS),
        "json": json.dumps(ROWS),
        "csv": "\n".join(map(",".join, cells)),
        "tsv": "\n".join(map("\t".join, cells)),
    }
    (root / f"a.{form}").write_text(texts[form] + "\n")
    return f"a.{form}"


@pytest.mark.parametrize(
    "form", ["data set", "named numbers", "saved", "parquet", "jsonl", "json", "csv", "tsv", "folder"]
)
def test_columns_of_classes_are_the_same_from_every_form_of_data(form: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    if form == "folder":
        write(tmp_path / "folder", "csv")
    source = opened("folder" if form == "folder" else write(tmp_path, form), tmp_path)
    assert names_of(source) == EXPECTED
    assert source.label_names == ("toxic", "insult")
    assert source.dataset["text"][:] == [row["text"] for row in ROWS]
    assert source.fingerprint == opened(Dataset.from_list(ROWS), tmp_path).fingerprint


@pytest.mark.parametrize(
    ("yes", "no"), [(1, 0), (True, False), ("1", "0"), (1.0, 0.0), ("True", "FALSE"), ("1.0", "0.0"), (" 1", "0 ")]
)
def test_a_cell_is_0_or_1_in_any_spelling(yes: Any, no: Any, tmp_path: Path) -> None:
    rows = {"text": ["a", "b"], "toxic": [yes, no], "insult": [no, no]}
    assert names_of(opened(Dataset.from_dict(rows), tmp_path)) == [["toxic"], []]
    lines = "".join(f"{json.dumps(dict(zip(rows, row, strict=True)))}\n" for row in zip(*rows.values(), strict=True))
    (tmp_path / "a.jsonl").write_text(lines)
    assert names_of(opened("a.jsonl", tmp_path)) == [["toxic"], []]


def test_a_row_without_any_cell_has_no_known_label(tmp_path: Path) -> None:
    lines = ['{"text": "a"}', '{"text": "b", "toxic": NaN, "insult": ""}', '{"text": "c", "toxic": -1, "insult": -1.0}']
    lines.append('{"text": "d", "toxic": 0, "insult": 1}')
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    source = opened("a.jsonl", tmp_path)
    task = load_task(TaskConfig(kind="multi-label"), NAMES)
    expected = np.array([[math.nan] * 2] * 3 + [[0, 1]])
    np.testing.assert_array_equal(task.read_labels(source, print), expected)


def test_columns_may_be_called_as_roles_are_and_their_order_is_that_of_the_classes(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"comment": ["a"], "text": [1], "label": [0], "text_pair": [1], "other": ["x"]})
    source = opened(rows, tmp_path, "text_pair", "label", "text", text="comment")
    assert source.dataset["text"][:] == ["a"]
    assert source.label_names == ("text_pair", "label", "text")
    assert names_of(source) == [["text_pair", "text"]]
    other = opened(rows, tmp_path, "text", "label", "text_pair", text="comment")
    assert source.fingerprint != other.fingerprint


def test_a_class_is_called_as_its_column_is_spaces_and_all(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text, toxic, 1\na,1,0\nb,0,1\n")
    source = opened("a.csv", tmp_path, " toxic", " 1")
    task = load_task(TaskConfig(kind="multi-label"), [*(source.label_names or ())])
    assert task.read_labels(source, print).tolist() == [[1, 0], [0, 1]]


def test_a_file_of_texts_alone_has_no_labels(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    assert opened("a.txt", tmp_path).labels() == [None, None]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", "text,toxic,insult\na,0,1\nb,yes,0", r"a\.csv, line 3: 'toxic' is 'yes', and .* holds 0 or 1\."),
        ("a.csv", "text,toxic,insult\na,0,2", r"a\.csv, line 2: 'insult' is '2', and the column of a class holds"),
        ("a.csv", "text,toxic,insult\na,0,-1", r"'a\.csv', row 1: 'insult' is missing, and 'toxic' is 0; the"),
        ("a.csv", "text,toxic,insult\na,0,-2", r"a\.csv, line 2: 'insult' is '-2', and the column of a class holds"),
        ("a.tsv", "text\ttoxic\tinsult\na\t0\t0.5", r"a\.tsv, line 2: 'insult' is '0\.5', and the column"),
        ("a.jsonl", '{"text": "a", "toxic": 0.5, "insult": 0}', r"a\.jsonl, line 1: 'toxic' is 0\.5, and the column"),
        ("a.jsonl", '{"text": "a", "toxic": [1], "insult": 0}', r"line 1: 'toxic' is \[1\], and the column"),
        ("a.csv", "text,toxic,insult\na,0,1\nb,,1", r"'a\.csv', row 2: 'toxic' is missing, and 'insult' is 1; the"),
        (
            "a.jsonl",
            '{"text": "a", "toxic": 0}\n{"text": "b", "insult": 0}',
            r"row 1: 'insult' is missing",
        ),
        ("a.csv", "text,toxic\na,0", r"a\.csv has no column 'insult' \(data\.label\); its columns are 'text', 'toxic'"),
        ("a.jsonl", '{"text": "a", "toxic": 0}', r"a\.jsonl has no column 'insult' \(data\.label\)"),
        ("a.csv", "text,toxic,insult,insult\na,0,1,1", r"a\.csv has 2 columns 'insult' \(data\.label\); rename all"),
    ],
)
def test_a_file_that_cannot_be_is_one_sentence(name: str, content: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content + "\n")
    with pytest.raises(DataError, match=sentence) as raised:
        opened(name, tmp_path)
    assert len(str(raised.value).splitlines()) == 1


def test_rows_in_memory_that_cannot_be_are_named_with_their_number(tmp_path: Path) -> None:
    for cells, sentence in (
        ([0, 2], r"row 2: 'toxic' is 2, and the column"),
        ([1, None], r"row 2: 'toxic' is missing, and 'insult' is 1"),
    ):
        rows = Dataset.from_dict({"text": ["a", "b"], "toxic": cells, "insult": [1, 1]})
        with pytest.raises(DataError, match=rf"data \(a data set in memory\), {sentence}"):
            opened(rows, tmp_path)
    for names in (("toxic", "text"), ("toxic", "toxic")):
        with pytest.raises(DataError, match=r"the column '(text|toxic)' is named for two roles or classes; each needs"):
            opened(Dataset.from_list(ROWS), tmp_path, *names)


# -- recipes and runs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "sentence"),
    [
        (
            ["a"],
            r"'label' = \['a'\]: a list names a column for each class, 2 or more; write a column by",
        ),
        ([], r"'label' = \[\]: a list names a column for each class"),
        (["a", "b", "a"], r"'label' = \['a', 'b', 'a'\]: 'a' stands there twice; each class has a column of its own\."),
        (["a", ""], r"'label', item 2 = '' should have at least 1 character"),
        (["a", 3], r"'label', item 2 = 3 should be a valid string"),
        (3, r"'label' = 3 should be a list or be a valid string"),
    ],
)
def test_a_list_that_cannot_be_is_told_by_the_recipe(label: Any, sentence: str) -> None:
    with pytest.raises(RecipeError, match=rf"^r\.toml: \[data\]: {sentence}"):
        parse({"task": {"kind": "multi-label"}, "data": {"label": label}}, "r.toml")


@pytest.mark.parametrize("kind", ["text-classification", "regression", "token-classification", "masked-lm"])
def test_other_tasks_take_no_list_of_columns(kind: str) -> None:
    tables = {"task": {"kind": kind}, "data": {"label": NAMES}, "stage": [{"name": "a"}]}
    told = rf"^data\.label = \['toxic', 'insult'\] names 2 columns, and the task '{kind}' reads one at most; name that"
    with pytest.raises(RecipeError, match=told):
        expanded(parse(tables))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows with a column for each subject and one of their names, and the model of a run over these columns."""
    place = write_data(tmp_path_factory.mktemp("flags"))
    draw = random.Random(5)
    for split, count in (("train", 64), ("validation", 24), ("test", 24)):
        rows = []
        for number in range(count):
            found = [name for name in SUBJECTS if draw.random() < 0.4]
            words = draw.choices(COMMON, k=3) + [draw.choice(SUBJECTS[name]) for name in found * 3]
            known = split != "train" or number % 10 < 9
            cells = [str(int(name in found)) if known else "" for name in KINDS]
            rows.append([" ".join(words), *cells, ("|".join(found) or "|") if known else ""])
        with (place / f"{split}-flags.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["comment", *KINDS, "names"], *rows])
    (place / "flags.toml").write_text(tomli_w.dumps(tables_of()))
    potstill.run(tables_of(), folder=place / "run", data_root=place)
    return place


def tables_of(**data: Any) -> dict[str, Any]:
    """A recipe with one stage of four updates."""
    files = {split: f"{split}-flags.csv" for split in ("train", "validation", "test")}
    return {
        "task": {"kind": "multi-label"},
        "data": {**files, "text": "comment", "label": KINDS, "max_length": 16, **data},
        "student": {"config": bert(1, 16), "tokenizer": "vocab.txt"},
        "stage": [{"name": "a", "updates": 4, "batch_size": 8, "learning_rate": 2e-3}],
    }


def key_of(run: Path) -> str:
    key: str = json.loads((run / "stages/01-a/result.json").read_text())["key"]
    return key


def test_a_run_over_columns_is_that_over_their_names(place: Path, tmp_path: Path) -> None:
    found = json.loads((place / "run/stages/01-a/result.json").read_text())
    named = potstill.run(tables_of(label="names"), folder=tmp_path / "names", data_root=place)
    assert named.metrics == found["metrics"]
    assert named.test == found["test"]
    assert tomllib.loads((place / "run/recipe.toml").read_text())["data"]["label"] == KINDS


def test_the_order_of_the_list_is_that_of_the_classes_and_another_one_is_another_run(
    place: Path, tmp_path: Path
) -> None:
    turned = potstill.run(tables_of(label=["wood", "sea", "town"]), folder=tmp_path / "turned", data_root=place)
    assert open_saved(turned.model).task.names == ["wood", "sea", "town"]
    assert key_of(tmp_path / "turned") != key_of(place / "run")
    with pytest.raises(RecipeError, match=r'data\.label: \["sea", "town", "wood"\] → \["wood", "sea", "town"\]'):
        potstill.run(tables_of(label=["wood", "sea", "town"]), folder=place / "run", data_root=place)
    tables = tables_of(label=["wood", "sea", "town"])
    tables["task"]["labels"] = ["sea", "town", "wood"]
    ordered = potstill.run(tables, folder=tmp_path / "ordered", data_root=place)
    assert open_saved(ordered.model).task.names == ["sea", "town", "wood"]
    assert ordered.metrics == json.loads((place / "run/stages/01-a/result.json").read_text())["metrics"]


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (["sea", "town", "wood", "sky"], r"the class 'sky' has no column, for data\.label names sea, town, wood; name"),
        (
            ["sea", "town"],
            r"the column 'wood' of data\.label is none of the 2 classes sea, town; leave it out, or",
        ),
    ],
)
def test_named_classes_and_columns_are_the_same(labels: list[str], sentence: str, place: Path, tmp_path: Path) -> None:
    tables = tables_of()
    tables["task"]["labels"] = labels
    with pytest.raises(DataError, match=rf"^data\.train = 'train-flags\.csv': {sentence}"):
        potstill.run(tables, folder=tmp_path / "run", data_root=place)


def test_rows_in_memory_are_taken_too(place: Path, tmp_path: Path) -> None:
    with (place / "train-flags.csv").open(newline="") as file:
        rows = [{**row, **{name: float(row[name] or "nan") for name in KINDS}} for row in csv.DictReader(file)]
    tables = tables_of()
    del tables["data"]["train"]
    result = potstill.run(tables, folder=tmp_path / "run", data_root=place, train=Dataset.from_list(rows))
    assert result.metrics == json.loads((place / "run/stages/01-a/result.json").read_text())["metrics"]


def test_a_suite_opens_them_and_a_stage_may_read_other_ones(place: Path, tmp_path: Path) -> None:
    assert absence(suite_tasks([str(place / "flags.toml")], place)[0]) is None
    with pytest.raises(RecipeError, match="names 3 columns, and the task 'regression' reads one at most"):
        absence(suite_tasks([str(place / "flags.toml")], place, settings=["task.kind=regression"])[0])
    tables = tables_of(label="names")
    tables["stage"][0]["data"] = {"label": KINDS}
    result = potstill.run(tables, folder=tmp_path / "run", data_root=place)
    assert result.metrics == json.loads((place / "run/stages/01-a/result.json").read_text())["metrics"]
    tables["stage"][0]["data"] = {"label": ["sea", "town"]}
    with pytest.raises(DataError, match="the class 'wood' has no column"):
        potstill.run(tables, folder=tmp_path / "other", data_root=place)


def test_a_saved_model_knows_its_columns_and_asks_for_none_to_predict(place: Path, tmp_path: Path) -> None:
    known = json.loads((place / "run/stages/01-a/result.json").read_text())["test"]
    assert evaluate_folder(place / "run/model", "test-flags.csv", data_root=place) == known
    turned = evaluate_folder(place / "run/model", "test-flags.csv", data_root=place, label=["wood", "sea", "town"])
    assert turned == known
    names = evaluate_folder(place / "run/model", "test-flags.csv", data_root=place, label="names")
    assert names == known
    (tmp_path / "new.csv").write_text("comment\nwave tide\noak\n")
    assert len([*predict(place / "run/model", tmp_path / "new.csv")]) == 2
    quiet = {"onnx": {"quantize": False, "time": False}}
    export_folder(place / "run/model", quiet, tmp_path / "export", data_root=place)
    exported = evaluate_folder(tmp_path / "export/model.onnx", "test-flags.csv", data_root=place)
    assert exported == pytest.approx(known, abs=1e-4)
    with pytest.raises(UserError, match="the class 'wood' has no column, for data.label names sea, town"):
        evaluate_folder(place / "run/model", "test-flags.csv", data_root=place, label=["sea", "town"])


@pytest.fixture
def run(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line in `place`: its exit code and what it said on standard error."""
    return caller(place, tmp_path, monkeypatch, capsys)


def test_the_command_line_takes_them_between_commas(run: Run, place: Path, tmp_path: Path) -> None:
    options = "--train train-flags.csv --text comment --max-length 16 --task multi-label --student run"
    code, said = run("plan", *options.split(), "--label", "sea,town, wood", "--save-recipe", "{tmp}/r.toml")
    assert code == 0, said
    assert tomllib.loads((tmp_path / "r.toml").read_text())["data"]["label"] == ["sea", "town", "wood"]
    assert run("evaluate", "run", "test-flags.csv", "--label", "wood,town,sea", "--quiet")[0] == 0
    assert "has no column 'a, b' (data.label)" in told(run, "evaluate", "run", "test-flags.csv", "--label", '"a, b"')
    assert "has no column 'see' (data.label)" in told(run, "evaluate", "run", "test-flags.csv", "--label", "see,town")
    code, said = run("evaluate", "run", "test-flags.csv", "--label", "sea,")
    assert code == 2
    assert "'sea,' is no list of columns such as toxic,insult." in said
