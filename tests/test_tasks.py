"""Tasks: labels, losses, metrics; and that real data goes through."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics
from transformers import BertTokenizer

from potstill.batch import IGNORED, Batch
from potstill.data.encode import encode
from potstill.data.examples import Examples
from potstill.data.source import open_source
from potstill.errors import DataError, RecipeError
from potstill.progress import Progress
from potstill.settings import TaskConfig
from potstill.tasks import Task, better, load_task, scores
from potstill.tasks.classification import TextClassification
from potstill.tasks.names import label_names
from potstill.tasks.regression import Regression

REAL = Path(os.environ.get("POTSTILL_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
real_data = pytest.mark.skipif(
    not REAL.is_dir(), reason="the real data sets are not here (POTSTILL_DATA names their folder)"
)


def classification(*names: str, **config: Any) -> Task:
    return load_task(TaskConfig(**config), list(names))


def regression() -> Task:
    return load_task(TaskConfig(kind="regression"))


def batch_of(labels: Any) -> Batch:
    ids = {"input_ids": torch.zeros(len(labels), 1, dtype=torch.int64)}
    return Batch(ids, ids, torch.tensor(labels), torch.arange(len(labels)))


@pytest.mark.parametrize(
    ("names", "values", "expected"),
    [
        (("neg", "pos"), ["pos", "neg", None, "", float("nan"), -1], [1, 0, *[IGNORED] * 4]),
        (("neg", "pos"), [1, 0, -1], [1, 0, IGNORED]),
        (("neg", "pos"), ["1", "0", "-1"], [1, 0, IGNORED]),
        (("neg", "pos"), [1.0, 0.0, float("nan")], [1, 0, IGNORED]),
        (("neg", "pos"), [True, False, None], [1, 0, IGNORED]),
        (("False", "True"), [True, False], [1, 0]),
        (("1", "2", "3"), [1, 3, "2"], [0, 2, 1]),
        (("-1", "0", "1"), [-1, 0, 1], [0, 1, 2]),
    ],
)
def test_labels_are_names_or_else_numbers(names: tuple[str, ...], values: list[Any], expected: list[int]) -> None:
    assert classification(*names).targets(values, "data.train").tolist() == expected


@pytest.mark.parametrize("value", ["sprots", 2, -2, 1.5, [1]])
def test_a_label_outside_the_set_is_named_with_its_row(value: Any) -> None:
    known = r"is none of the 2 labels 'sports', 'world'\."
    with pytest.raises(DataError, match=rf"data\.train 'a\.csv', row 2: the label .* {known}") as raised:
        classification("sports", "world").targets(["world", value], "data.train 'a.csv'")
    assert repr(value) in str(raised.value)
    assert ("Did you mean 'sports'?" in str(raised.value)) == (value == "sprots")


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["b", "a", None, "", "b"], ["a", "b"]),
        ([10, 9, 0, -1], ["0", "9", "10"]),
        (["10", "9", "-1"], ["9", "10"]),
        ([1.0, 0.0, float("nan")], ["0", "1"]),
        ([True, False], ["False", "True"]),
        (["x", "-1"], ["-1", "x"]),
        ([None], []),
    ],
)
def test_names_found_in_the_data_are_sorted_numbers_as_numbers(values: list[Any], names: list[str]) -> None:
    assert TextClassification.names_from(values) == names


def test_names_come_from_the_recipe_its_file_or_the_data(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\ufeffworld\nsports\n\n", encoding="utf-8")
    assert label_names(TaskConfig(labels="names.txt"), tmp_path, []) == ["world", "sports"]
    assert label_names(TaskConfig(labels=["b", "a"]), tmp_path, []) == ["b", "a"]
    assert label_names(TaskConfig(), tmp_path, ["b", "a"]) == ["a", "b"]
    with pytest.raises(DataError, match=r"missing\.txt' is no file"):
        label_names(TaskConfig(labels="missing.txt"), tmp_path, [])
    with pytest.raises(DataError, match=r"task\.labels names 'a' more than once"):
        label_names(TaskConfig(labels=["a", "b", "a"]), tmp_path, [])


def test_a_single_class_is_not_a_classification() -> None:
    with pytest.raises(DataError, match=r"Classification needs at least 2 classes and has \['1'\]"):
        classification("1")


def test_unknown_kinds_and_metrics_name_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"'regresion' is not an installed task; .*Did you mean 'regression'"):
        load_task(TaskConfig(kind="regresion"))
    with pytest.raises(RecipeError, match=r"has no metric 'acuracy'; .*Did you mean 'accuracy'"):
        classification("a", "b", metric="acuracy")
    assert classification("a", "b", metric="loss").metric == "loss"
    assert regression().metric == "pearson"


def test_cross_entropy_is_a_mean_over_the_rows_that_have_a_label() -> None:
    logits = torch.tensor([[0.0, 0.0], [3.0, 1.0], [math.log(3), 0.0]], requires_grad=True)
    loss = classification("a", "b").loss(logits, batch_of([0, IGNORED, 1]))
    # -log(1/2) and -log(1/4)
    assert loss.item() == pytest.approx((math.log(2) + math.log(4)) / 2, rel=1e-6)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[1].tolist() == [0, 0]


def test_squared_error_is_a_mean_over_the_rows_that_have_a_value() -> None:
    logits = torch.tensor([[1.0], [5.0], [2.0]], requires_grad=True)
    loss = regression().loss(logits, batch_of([0.0, math.nan, 5.0]))
    assert loss.item() == (1 + 9) / 2
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.squeeze(1).tolist() == [1.0, 0.0, -3.0]


def test_a_batch_without_labels_has_a_loss_and_gradient_of_zero() -> None:
    for task, labels, width in ((classification("a", "b"), [IGNORED] * 2, 2), (regression(), [math.nan] * 2, 1)):
        logits = torch.ones(2, width, requires_grad=True)
        loss = task.loss(logits, batch_of(labels))
        loss.backward()
        assert loss.item() == 0
        assert logits.grad is not None
        assert not logits.grad.any()


def test_scores_of_a_table_worked_out_by_hand() -> None:
    # label 0: predicted 0 0 1; label 1: predicted 1 0; the last row has no label
    labels = np.array([0, 0, 0, 1, 1, IGNORED])
    logits = np.eye(2)[[0, 0, 1, 1, 0, 1]]
    scores = classification("a", "b").score(logits, labels)
    assert scores["accuracy"] == pytest.approx(3 / 5)
    assert scores["precision"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert scores["recall"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert scores["f1"] == pytest.approx(1 / 2)
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert scores["matthews"] == pytest.approx((1 * 2 - 1 * 1) / math.sqrt(2 * 2 * 3 * 3))
    assert set(scores) == set(TextClassification.metrics)
    in_parts = classification("a", "b").score([logits[:4], logits[4:]], labels)
    assert in_parts == scores


def test_three_classes_have_no_binary_f1() -> None:
    scores = classification("a", "b", "c").score(np.eye(3), np.array([0, 1, 2]))
    assert "f1" not in scores
    assert scores["macro_f1"] == 1


@pytest.mark.parametrize("seed", range(40))
def test_scores_of_classes_are_scikit_learns(seed: int) -> None:
    draw = np.random.default_rng(seed)
    classes, rows = int(draw.integers(2, 6)), int(draw.integers(1, 40))
    labels = draw.integers(0, classes, rows) if seed % 5 else np.ones(rows, dtype=np.int64)
    predicted = np.where(draw.random(rows) < 0.5, labels, draw.integers(0, classes, rows)) if seed % 7 else 0 * labels
    found = scores.classification(predicted, labels, classes)
    macro = metrics.precision_recall_fscore_support(labels, predicted, average="macro", zero_division=0)
    assert (found["precision"], found["recall"], found["macro_f1"]) == pytest.approx(macro[:3], abs=1e-12)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(labels, predicted))
    if len(set(labels) | set(predicted)) > 1:  # scikit-learn warns of less
        assert found["matthews"] == pytest.approx(metrics.matthews_corrcoef(labels, predicted), abs=1e-12)
    if classes == 2:
        assert found["f1"] == pytest.approx(metrics.f1_score(labels, predicted, zero_division=0), abs=1e-12)


def test_correlations_of_values_worked_out_by_hand() -> None:
    labels = np.array([1.0, 2.0, 3.0, math.nan], dtype=np.float32)
    scores = regression().score(np.array([[1.0], [3.0], [2.0], [9.0]]), labels)
    # of 3 values with one swap: covariance 0.5 over variance 1; ranks are the values
    assert scores["pearson"] == pytest.approx(0.5)
    assert scores["spearman"] == pytest.approx(0.5)
    assert scores["mse"] == pytest.approx(2 / 3)


def test_a_constant_prediction_has_no_correlation() -> None:
    scores = regression().score(np.ones((3, 1)), np.array([1.0, 2.0, 3.0]))
    assert math.isnan(scores["pearson"])
    assert scores["mse"] == pytest.approx(5 / 3)


def test_rows_without_any_label_have_no_scores() -> None:
    assert classification("a", "b").score(np.eye(2), np.array([IGNORED, IGNORED])) == {}
    assert regression().score(np.ones((1, 1)), np.array([math.nan])) == {}


def test_better_knows_which_way_a_metric_goes() -> None:
    assert better("accuracy", 0.9, 0.8)
    assert better("loss", 0.8, 0.9)
    assert not better("mse", 0.9, 0.8)
    assert not better("accuracy", 0.8, 0.8)
    assert better("accuracy", 0.1, None)
    assert better("loss", 0.1, math.nan)
    assert not better("accuracy", math.nan, 0.1)


def test_decoding_names_the_class_and_its_probability() -> None:
    told = classification("a", "b").decode(np.array([[0.0, math.log(3)], [1000.0, 0.0]]), {}, None)
    assert [row["label"] for row in told] == ["b", "a"]
    assert [row["score"] for row in told] == pytest.approx([0.75, 1.0])
    assert regression().decode(np.array([[2.5]]), {}, None) == [{"value": 2.5}]


def test_the_head_tells_a_model_the_labels() -> None:
    head = classification("a", "b").head()
    assert head["num_labels"] == 2
    assert head["id2label"] == {0: "a", 1: "b"}
    assert head["label2id"] == {"a": 0, "b": 1}
    assert regression().head()["num_labels"] == 1


def test_text_is_read_as_a_number_for_regression() -> None:
    values = regression().targets(["2.5", "", None, 3, float("nan")], "data.train")
    assert values.dtype == np.float32
    assert values[[0, 3]].tolist() == [2.5, 3.0]
    assert np.isnan(values[[1, 2, 4]]).all()
    for wrong in ("many", "inf"):
        with pytest.raises(DataError, match=rf"data\.train, row 1: the label '{wrong}' is not"):
            regression().targets([wrong], "data.train")


def bert() -> Any:
    tokens = (REAL / "vocab" / "bert-base-uncased-vocab.txt").read_text(encoding="utf-8").split("\n")[:30522]
    return BertTokenizer(vocab={token: number for number, token in enumerate(tokens)})


@real_data
@pytest.mark.parametrize(
    ("spec", "columns", "config", "first"),
    [
        ("sst2/train.parquet", {"text": "sentence"}, TaskConfig(labels=["negative", "positive"]), [0, 0, 1]),
        ("mrpc/train.parquet", {"text": "sentence1", "text_pair": "sentence2"}, TaskConfig(), [1, 0, 1]),
        (
            "stsb/train.parquet",
            {"text": "sentence1", "text_pair": "sentence2", "label": "score"},
            None,
            [5.0, 3.8, 3.8],
        ),
    ],
)
def test_real_rows_become_batches(
    tmp_path: Path, spec: str, columns: dict[str, str | None], config: TaskConfig | None, first: list[float]
) -> None:
    source = open_source(spec, {"label": "label", **columns}, REAL, 200, "data.train", tmp_path)
    config = config or TaskConfig(kind="regression")
    task = load_task(config, label_names(config, REAL, source.labels()) or None)
    tokenizer = bert()
    labels = task.targets(source.labels(), source.path)
    table = encode(source, task, tokenizer, 96, tmp_path, Progress())
    batch = Examples(table, None, labels, task, (0, 0)).batch([0, 1, 2])
    assert batch.labels.tolist() == pytest.approx(first)
    assert len(source) == 200
    row = source.dataset[0]
    text = " ".join(row[role] for role in ("text", "text_pair") if role in row)
    plain = tokenizer.decode(batch.student["input_ids"][0], skip_special_tokens=True)
    assert plain.replace(" ", "") == text.lower().replace(" ", "")
    assert isinstance(task, Regression) == batch.labels.is_floating_point()
