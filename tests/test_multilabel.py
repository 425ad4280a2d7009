"""Any number of classes a row: labels, loss, metrics, every algorithm on them, and data that cannot be."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from potstill_hinton.losses import kl
from sklearn import metrics
from transformers import BertConfig, BertForSequenceClassification

import potstill
import potstill.cli
from potstill.batch import TARGET, Batch
from potstill.cli.compose import Parts, compose
from potstill.data.examples import forget_labels
from potstill.data.source import open_source
from potstill.errors import DataError, RecipeError, UserError
from potstill.exporting import export_folder
from potstill.models import task_of
from potstill.saved import evaluate_folder, predict
from potstill.settings import TaskConfig
from potstill.tasks import Task, load_task
from potstill.tasks.multilabel import MultiLabel
from potstill.testing import assert_resumes_exactly, engine_of
from potstill.testing.tiny import COMMON, SUBJECTS, bert, recipe, write_data
from tests.composition.plugins import OPTIONS

NAMES = list(SUBJECTS)
NAN = math.nan


def task(*names: str, **config: Any) -> Task:
    return load_task(TaskConfig(kind="multi-label", **config), list(names or NAMES))


def batch_of(labels: Any) -> Batch:
    ids = {"input_ids": torch.zeros(len(labels), 1, dtype=torch.int64)}
    return Batch(ids, ids, torch.tensor(labels), torch.arange(len(labels)))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of up to three subjects, in three formats, and a teacher that was trained on them."""
    place = write_data(tmp_path_factory.mktemp("multilabel"))
    draw = random.Random(5)
    for split, count in (("train", 96), ("validation", 40)):
        rows = []
        for number in range(count):
            found = [name for name in SUBJECTS if draw.random() < 0.4]
            words = [draw.choice(COMMON) for _ in range(3)] + [draw.choice(SUBJECTS[name]) for name in found * 3]
            draw.shuffle(words)
            labels = None if split == "train" and number % 10 == 9 else found
            rows.append({"text": " ".join(words), "labels": labels})
        pq.write_table(pa.Table.from_pylist(rows), place / f"{split}.parquet")
        (place / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        cells = ["" if row["labels"] is None else ";".join(row["labels"]) or ";" for row in rows]
        lines = [f"{row['text']},{cell}" for row, cell in zip(rows, cells, strict=True)]
        (place / f"{split}.csv").write_text("\n".join(["text,labels", *lines]) + "\n")
    tables = tables_of(stage={"epochs": 25})
    del tables["teacher"]
    tables["student"] = {"config": bert(4), "tokenizer": "vocab.txt"}
    potstill.run(tables, folder=place / "run", data_root=place)
    (place / "run/model").rename(place / "teacher")
    return place


def tables_of(*plugins: str, kind: str = "parquet", stage: dict[str, Any] | None = None, **data: Any) -> dict[str, Any]:
    """A recipe with one stage."""
    tables = recipe()
    own = [name for name in plugins if name != "bilstm"]
    options = {name: OPTIONS[name] for name in own}
    return {
        **tables,
        "task": {"kind": "multi-label"},
        "data": {
            "train": f"train.{kind}",
            "validation": f"validation.{kind}",
            "label": "labels",
            "max_length": 16,
            **data,
        },
        "teacher": {"model": "teacher"},
        "student": {"config": bert(1, 16)},
        "stage": [
            {"name": "distil", "plugins": own, "batch_size": 8, "learning_rate": 2e-3, **options, **(stage or {})}
        ],
    }


@pytest.mark.parametrize(
    ("values", "config", "expected"),
    [
        (["sea, town", ","], {"separator": ", "}, [[1, 0, 1], [0, 0, 0]]),
        ([["sea", "town"], ["wood"], []], {}, [[1, 0, 1], [0, 1, 0], [0, 0, 0]]),
        (["sea|town", "wood", "|", ""], {}, [[1, 0, 1], [0, 1, 0], [0, 0, 0], [NAN] * 3]),
        (["sea; town", ";"], {"separator": ";"}, [[1, 0, 1], [0, 0, 0]]),
        ([[0, 2], [1.0], None], {}, [[1, 0, 1], [0, 1, 0], [NAN] * 3]),
        ([["2", "0"], NAN, np.array(["wood"])], {}, [[1, 0, 1], [NAN] * 3, [0, 1, 0]]),
        ([1, "2"], {}, [[0, 1, 0], [0, 0, 1]]),
    ],
)
def test_labels_are_lists_or_texts_and_none_is_not_missing(values: Any, config: Any, expected: Any) -> None:
    np.testing.assert_array_equal(task(**config).targets(values, "data.train"), np.array(expected, np.float32))


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([["b", "a"], [], None, ["c"]], ["a", "b", "c"]),
        (["b|a", "|", "", "c"], ["a", "b", "c"]),
        ([[10, 9], [0]], ["0", "9", "10"]),
        ([["a"], -1], ["a"]),
    ],
)
def test_names_are_found_in_the_rows_of_the_data(values: Any, names: list[str]) -> None:
    assert MultiLabel.names_from(values) == names


def test_rows_of_json_are_lists_or_texts_each_by_itself(tmp_path: Path) -> None:
    labels = ['["sea"]', '"sea|town"', '"|"', '""', "NaN", "[]", "2", "[0, 2.0]"]
    lines = "".join(f'{{"text": "x", "labels": {label}}}\n' for label in labels)
    (tmp_path / "a.jsonl").write_text(lines)
    columns = {"text": "text", "label": "labels"}
    source = open_source("a.jsonl", columns, tmp_path, cache=tmp_path / "cache", shapes=MultiLabel.shapes)
    expected = [[1, 0, 0], [1, 0, 1], [0] * 3, [NAN] * 3, [NAN] * 3, [0] * 3, [0, 0, 1], [1, 0, 1]]
    np.testing.assert_array_equal(task().targets(source.labels(), source.path), np.array(expected, np.float32))
    assert MultiLabel.names_from(source.labels()[:6]) == ["sea", "town"]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (["see"], r"row 2: the label 'see' is none of the 3 labels .*Did you mean 'sea'"),
        (["sea", 3], r"row 2: the label 3 is none of the 3 labels"),
        (["sea", None], r"row 2: None among the row's labels names no class; a row without any is an empty list"),
        (["sea", ""], r"row 2: '' among the row's labels names no class"),
        (["sea", -1], r"row 2: -1 among the row's labels names no class"),
        (["sea", NAN], r"row 2: nan among the row's labels"),
        (["sea", ["town"]], r"row 2: the label \['town'\] is none of the 3 labels"),
        ({"sea": 1}, r"row 2: the label \{'sea': 1\} is none of"),
        (["sea", "sea"], r"row 2: the label 'sea' stands there twice; name it once\."),
        (["sea", 0], r"row 2: the label 0 stands there twice"),
        ("sea||town", r"row 2: '' among the row's labels names no class; .* or '\|' alone"),
        ("sea,town", r"row 2: the label 'sea,town' is none of the 3 labels"),
        ("sea|twon", r"row 2: the label 'twon' is none of .*Did you mean 'town'"),
        (1.5, r"row 2: the label 1.5 is none of"),
    ],
)
def test_a_label_that_cannot_be_is_named_with_its_row(value: Any, sentence: str) -> None:
    with pytest.raises(DataError, match=rf"data\.train 'a\.csv', {sentence}"):
        task().targets([["sea"], value], "data.train 'a.csv'")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (
            "a.jsonl",
            '{"text": "x", "labels": {"a": 1}}',
            r"line 1: 'labels' is \{'a': 1\}, which is no text, number or",
        ),
        ("a.jsonl", '{"text": "x", "labels": [["a"]]}', r"line 1: 'labels' holds \['a'\] as label 1, which is neither"),
        ("a.jsonl", '{"text": "x", "labels": [{"x": 1}]}', r"line 1: 'labels' holds \{'x': 1\} as label 1, which is"),
        ("a.jsonl", '{"text": "x", "labels": [NaN]}', r"line 1: 'labels' holds nan as label 1, which is neither"),
        ("a.jsonl", '{"text": "x", "labels": -1}', r"row 1: '-1' among the row's labels names no class"),
        (
            "a.jsonl",
            '{"text": "x", "labels": ["sea", null]}',
            r"line 1: 'labels' holds None as label 2, which is neither",
        ),
        ("a.jsonl", '{"text": "x", "label": ["sea"]}', r"has no column 'labels'.*Did you mean 'label'"),
        ("a.csv", "text,labels\nx,sea;town", r"row 1: the label 'sea;town' is none of"),
        ("a.csv", "text,labels\nx,\ny,", r"No row of .* has a label"),
    ],
)
def test_a_file_that_cannot_be_is_one_sentence(
    name: str, content: str, sentence: str, place: Path, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content + "\n")
    tables = tables_of(validation=str(tmp_path / name))
    with pytest.raises(UserError, match=sentence):
        potstill.run({**tables, "task": {**tables["task"], "labels": NAMES}}, folder=tmp_path / "run", data_root=place)


def test_one_class_an_unknown_metric_and_lists_for_one_label_a_row_are_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 2 classes"):
        task("only")
    with pytest.raises(RecipeError, match=r"no metric 'accuracy'.*Did you mean 'subset_accuracy'"):
        task(metric="accuracy")
    tables = {**tables_of(), "task": {"kind": "text-classification"}}
    with pytest.raises(UserError, match="takes one label a row, and the task 'multi-label' any number"):
        potstill.run(tables, folder=tmp_path / "run", data_root=place)


def test_the_loss_is_a_mean_over_what_is_known_worked_out_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [5.0, 5.0]], requires_grad=True)
    batch = batch_of([[1.0, 0.0], [NAN, NAN]])
    loss = task("a", "b").loss(logits, batch)
    assert TARGET.count(batch) == 2
    assert loss.item() == pytest.approx((math.log(2) + math.log(4)) / 2, rel=1e-6)  # -log(1/2) and -log(1 - 3/4)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.flatten().tolist() == pytest.approx([-0.25, 0.375, 0, 0])
    nothing = task("a", "b").loss(logits, batch_of([[NAN, NAN], [NAN, NAN]]))
    assert nothing.item() == 0


def test_micro_batches_weighed_by_their_targets_are_the_whole_batch() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(9, 3, generator=draw, dtype=torch.float64)
    labels = (torch.rand(9, 3, generator=draw) < 0.3).double()
    labels[[1, 4, 5, 6]] = NAN
    whole = batch_of(labels.tolist())
    parts = [torch.tensor(rows) for rows in ([0], [1, 4], [2, 3, 5, 6, 7, 8])]
    losses = [float(task().loss(logits[rows], whole.take(rows))) for rows in parts]
    counts = [TARGET.count(whole.take(rows)) for rows in parts]
    summed = sum(loss * count for loss, count in zip(losses, counts, strict=True)) / TARGET.count(whole)
    assert summed == pytest.approx(float(task().loss(logits, whole)), rel=1e-12)


def test_accumulation_is_exact_over_rows_with_and_without_labels(place: Path, tmp_path: Path) -> None:
    calm = bert(1, 16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)

    def gradients(name: str, batch_size: int, plugins: list[str], batches: int) -> dict[str, torch.Tensor]:
        stage = {"updates": 1, "batch_size": batch_size, "plugins": plugins, "schedule": "constant", "warmup": 0}
        own = {"accumulate": {"batches": batches}} if plugins else {}
        tables = {
            **tables_of(stage={**stage, **own}, train_rows=32),
            "student": {"config": calm, "tokenizer": "vocab.txt"},
        }
        engine = engine_of(tables, place, tmp_path / name)
        found: dict[str, torch.Tensor] = {}
        step = engine.optimizer.step

        def noted(*words: Any, **more: Any) -> Any:
            for key, parameter in engine.stage.student.module.named_parameters():
                found[key] = parameter.grad.clone() if parameter.grad is not None else torch.zeros(())
            return step(*words, **more)

        engine.optimizer.step = noted  # type: ignore[method-assign]
        with engine.stage.exit:
            engine.train()
        return found

    whole, parts = gradients("whole", 32, [], 1), gradients("parts", 8, ["accumulate"], 4)
    largest = max(float(value.abs().max()) for value in whole.values())
    assert largest > 0
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=1e-5, atol=1e-6 * largest)


def test_scores_of_a_table_worked_out_by_hand() -> None:
    labels = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [NAN] * 3])
    logits = np.array([[2.0, 1.0, -1], [1.0, -2.0, -1], [-1.0, -1.0, -3], [9, 9, 9]])
    found = task().score(logits, labels)
    # class 0: 2 of 2 told; class 1: 1 told, none right, 1 missed; class 2: nothing at all
    assert found["micro_f1"] == pytest.approx(2 * 2 / (3 + 3))
    assert found["macro_f1"] == pytest.approx((1 + 0 + 0) / 3)
    assert found["subset_accuracy"] == pytest.approx(1 / 3)
    # class 0: both before all others: 1. class 1: its one row is the last of three: 1/3. class 2 never occurs.
    assert found["average_precision"] == pytest.approx((1 + 1 / 3) / 2)
    assert task().score([logits[:1], logits[1:]], labels) == found
    assert set(found) == set(MultiLabel.metrics)
    assert task().score(logits[3:], labels[3:]) == {}


def test_scores_are_those_of_a_formula_of_counts() -> None:
    draw = np.random.default_rng(0)
    labels, logits = (draw.random((60, 5)) < 0.3).astype(float), draw.normal(size=(60, 5))
    told = logits > 0
    right, missed = (told & (labels > 0)).sum(0), (~told & (labels > 0)).sum(0)
    wrong = (told & (labels == 0)).sum(0)
    found = task(*"abcde").score(logits, labels)
    assert found["micro_f1"] == pytest.approx(2 * right.sum() / (2 * right + missed + wrong).sum())
    assert found["macro_f1"] == pytest.approx(np.mean(2 * right / (2 * right + missed + wrong)))
    assert found["average_precision"] == pytest.approx(
        np.mean([metrics.average_precision_score(labels[:, number], logits[:, number]) for number in range(5)])
    )


def test_decoding_names_what_is_above_one_half_most_probable_first() -> None:
    told = task().decode(np.array([[math.log(3), -1.0, math.log(9)], [-1.0, -1.0, 0.0]]), {}, None)
    assert told[0]["labels"] == ["town", "sea"]
    assert told[0]["scores"] == pytest.approx([0.9, 0.75])
    assert told[1] == {"labels": [], "scores": []}


def test_hintons_soft_term_is_the_two_way_divergence_of_every_class_in_float64() -> None:
    draw = torch.Generator().manual_seed(1)
    student = torch.randn(6, 4, generator=draw, dtype=torch.float64, requires_grad=True)
    teacher, t = torch.randn(6, 4, generator=draw, dtype=torch.float64), 3.0
    [learnt] = task(*"abcd").predictions(student, batch_of([[0.0] * 4] * 6))
    value = kl(learnt.logits, teacher, t, kind=learnt.kind)
    p, q = (1 / (1 + np.exp(-side.detach().numpy() / t)) for side in (teacher, student))
    wanted = t**2 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(1).mean()
    assert value.item() == pytest.approx(wanted, rel=1e-12)
    value.backward()
    assert student.grad is not None
    np.testing.assert_allclose(student.grad.numpy(), t * (q - p) / 6, rtol=1e-10)


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_every_format_gives_the_same_run(kind: str, place: Path, tmp_path: Path) -> None:
    tables = tables_of(kind=kind, stage={"updates": 4})
    if kind == "csv":
        tables["task"] = {**tables["task"], "separator": ";"}
    result = potstill.run(tables, folder=tmp_path / kind, data_root=place)
    assert json.loads((result.model / "config.json").read_text())["id2label"] == {"0": "sea", "1": "town", "2": "wood"}
    reference = potstill.run(tables_of(stage={"updates": 4}), folder=tmp_path / "reference", data_root=place)
    assert result.metrics == reference.metrics


@pytest.mark.parametrize("plugin", ["hinton", "minilm", "tinybert", "layers", "theseus", "fgm", "pgd", "diito"])
def test_an_algorithm_trains_resumes_exactly_and_its_student_exports(plugin: str, place: Path, tmp_path: Path) -> None:
    tables = tables_of(plugin, stage={"updates": 5, "checkpoint_every": 1, "log_every": 1})
    if plugin == "theseus":
        del tables["student"]
    result = assert_resumes_exactly(tables, data=place, folder=tmp_path, stage="distil", after=2)
    assert result.metrics.keys() == {*MultiLabel.metrics, "loss"}
    onnx = {"quantize": False, "time": False, "teacher": False}
    [artifact] = export_folder(tmp_path / "whole/model", {"onnx": onnx}, tmp_path / "export", data_root=place)
    [parity] = artifact.facts["parity"].values()
    assert parity["max_difference"] < 1e-5
    assert parity["onnx"]["micro_f1"] == pytest.approx(result.metrics["micro_f1"])


def test_a_teacher_that_knows_teaches_and_is_measured_and_asked(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluate_folder(place / "teacher", "validation.jsonl", data_root=place)
    assert found["micro_f1"] > 0.9
    assert found["average_precision"] > 0.9
    sea_and_wood, none = predict(place / "teacher", ["wave tide oak pine sail moss", "the a of and"])
    assert set(sea_and_wood["labels"]) == {"sea", "wood"}
    assert none["labels"] == []
    assert all(score > 0.5 for score in sea_and_wood["scores"])
    assert potstill.cli.main(["predict", str(place / "teacher"), "wave tide anchor gull", "the a of and"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("\t")[0] == "sea"
    assert lines[1].split("\t") == ["–", "–", "the a of and"]


def test_labels_may_be_forgotten_and_the_teacher_teaches_all_rows(place: Path, tmp_path: Path) -> None:
    labels = np.array([[1, 0], [0, 0], [0, 1]], dtype=np.float32)
    assert np.isnan(forget_labels(labels, 1)).all(1).tolist() == [False, True, True]
    tables = tables_of("hinton", stage={"updates": 2}, labelled_rows=0)
    with pytest.raises(UserError, match="hinton"):  # its hard term has nothing to learn from
        potstill.run(tables, folder=tmp_path / "hard", data_root=place)
    tables["stage"][0]["hinton"] = {"temperature": 2.0, "alpha": 1.0}
    assert potstill.run(tables, folder=tmp_path / "soft", data_root=place).stages["distil"]["rows"] == 96


def test_rows_in_memory_with_lists_of_labels_are_taken_too(place: Path, tmp_path: Path) -> None:
    rows = Dataset.from_dict({"text": ["wave tide", "oak pine", "the a"], "labels": [["sea"], ["wood"], []]})
    tables = tables_of(stage={"updates": 2})
    tables["task"] = {**tables["task"], "labels": NAMES}
    result = potstill.run(tables, folder=tmp_path, data_root=place, train=rows, validation=rows)
    assert result.stages["distil"]["rows"] == 3


def test_a_classifier_of_yes_and_no_that_another_program_saved_is_recognised(tmp_path: Path) -> None:
    settings = {key: value for key, value in bert(1, 16).items() if key != "model_type"}
    names = {0: "a", 1: "b", 2: "c"}
    config = BertConfig(**settings, id2label=names, problem_type="multi_label_classification")
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    found = task_of(tmp_path)
    assert isinstance(found, MultiLabel)
    assert found.names == ["a", "b", "c"]
    (tmp_path / "rows.csv").touch()
    composed = compose(Parts(teacher=str(tmp_path), train=str(tmp_path / "rows.csv"), student_layers=(1,)))
    assert composed["task"] == {"kind": "multi-label", "labels": ["a", "b", "c"]}
