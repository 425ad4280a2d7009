"""Where a model errs: the tables against numbers worked out by hand and by other libraries, and in a run's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import seqeval.scheme
from seqeval.metrics import classification_report
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

import potstill
from potstill.batch import IGNORED
from potstill.details import bootstrap, by_class, by_length, mistakes, points, wilson
from potstill.errors import Interrupted
from potstill.progress import Progress
from potstill.settings import TaskConfig
from potstill.tasks import load_task
from potstill.testing.tiny import recipe, write_data
from potstill.testing.words import asking, write_questions

NAMES = ["owl", "wren", "gull", "crow"]
LABELS = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 2])
PREDICTED = np.array([0, 0, 1, 1, 0, 2, 2, 2, 2, 0])


def test_classes_stand_worst_first_with_their_support() -> None:
    rows = by_class(PREDICTED, LABELS, NAMES)
    assert [(row["class"], row["support"]) for row in rows] == [("wren", 2), ("owl", 3), ("gull", 5)]
    assert [row["precision"] for row in rows] == pytest.approx([1 / 2, 2 / 4, 1])
    assert [row["recall"] for row in rows] == pytest.approx([1 / 2, 2 / 3, 4 / 5])
    assert [row["f1"] for row in rows] == pytest.approx([1 / 2, 4 / 7, 8 / 9])


def test_classes_and_mistakes_are_scikit_learns_on_300_classes() -> None:
    random = np.random.default_rng(3)
    labels = random.integers(0, 300, 5000)
    predicted = np.where(random.random(5000) < 0.7, labels, random.integers(0, 300, 5000))
    names = [f"c{number}" for number in range(300)]
    expected = precision_recall_fscore_support(labels, predicted, labels=range(300), zero_division=0)
    found = {row["class"]: row for row in by_class(predicted, labels, names)}
    for column, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        assert [found[name][column] for name in names] == pytest.approx(values)
    matrix = confusion_matrix(labels, predicted)
    cells = mistakes(predicted, labels, names)
    assert len(cells) == min(2000, np.count_nonzero(matrix - np.diag(np.diag(matrix))))
    for cell in cells[:50]:
        assert matrix[names.index(cell["label"]), names.index(cell["predicted"])] == cell["count"]
    assert [cell["count"] for cell in cells] == sorted((cell["count"] for cell in cells), reverse=True)


def test_a_class_that_is_never_predicted_and_one_without_a_row() -> None:
    rows = by_class(np.array([3, 3]), np.array([1, 3]), NAMES)
    assert rows == [
        {"class": "wren", "precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1},
        {"class": "crow", "precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "support": 1},
    ]


def test_every_row_is_in_one_bucket_of_length_and_equal_lengths_are_together() -> None:
    lengths = np.array([9, 3, 3, 3, 4, 5, 6, 7, 8, 8, 8, 9, 60, 61])
    table = by_length(lengths, lambda rows: {"sum": float(lengths[rows].sum())})
    assert [(row["from"], row["to"], row["rows"]) for row in table] == [
        (3, 3, 3), (4, 5, 2), (6, 7, 2), (8, 8, 3), (9, 9, 2), (60, 61, 2),
    ]  # fmt: skip
    assert sum(row["sum"] for row in table) == lengths.sum()
    assert by_length(np.full(5, 7), lambda rows: {"nan": float("nan")}) == [
        {"from": 7, "to": 7, "rows": 5, "nan": None}
    ]
    assert by_length([], lambda rows: {}) == []


def test_wilsons_interval_is_the_published_one() -> None:
    # Newcombe 1998, table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29
    for right, count, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611),
                                    (1, 29, 0.0061, 0.1718)):  # fmt: skip
        assert wilson(right, count) == pytest.approx((low, high), abs=5e-5)
    assert wilson(0, 0) == (0.0, 1.0)


def test_the_bootstrap_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    values = np.random.default_rng(1).normal(5, 2, 400)
    low, high = bootstrap(lambda rows: float(values[rows].mean()), 400)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)
    assert bootstrap(lambda rows: float(values[rows].mean()), 400) == (low, high)


def test_points_are_all_or_a_thousand_spread_over_the_rows() -> None:
    values = np.arange(5000.0)
    assert points(values[:3], values[:3] + 1) == [{"label": n + 1.0, "predicted": float(n)} for n in range(3)]
    chosen = [row["label"] for row in points(values, values)]
    assert (len(chosen), chosen[0], chosen[-1]) == (1000, 0, 4999)


def test_rows_without_a_label_are_in_no_table() -> None:
    task = load_task(TaskConfig(kind="text-classification"), ["no", "yes"])
    logits = np.array([[2.0, 1.0], [0.0, 3.0], [5.0, 0.0]])
    found = task.details(logits, np.array([0, IGNORED, 1]), np.array([4, 90, 6]))
    assert [row["support"] for row in found["classes"]] == [1, 1]
    assert [(row["from"], row["accuracy"]) for row in found["lengths"]] == [(4, 1.0), (6, 0.0)]
    (interval,) = found["intervals"]
    assert (interval["value"], interval["rows"], interval["how"]) == (0.5, 2, "Wilson, 95 %")
    assert task.details(logits, np.full(3, IGNORED), np.ones(3)) == {}
    parts = [logits[:2], logits[2:]]
    assert task.details(parts, np.array([0, IGNORED, 1]), np.array([4, 90, 6])) == found


def test_what_one_answer_for_all_rows_scores_stands_beside() -> None:
    random = np.random.default_rng(5)
    labels = random.choice(4, 200, p=[0.1, 0.5, 0.3, 0.1])
    labels[:20] = IGNORED
    task = load_task(TaskConfig(kind="text-classification"), NAMES)
    found = task.details(random.normal(size=(200, 4)), labels, np.ones(200))["constant"]
    always = task.score(np.tile([0, 1, 0, 0], (200, 1)), labels)
    assert {row["metric"]: row["value"] for row in found} == pytest.approx(always)
    assert always["accuracy"] == (labels[20:] == 1).mean()
    assert always["matthews"] == 0
    several = (random.random((200, 3)) < [0.2, 0.7, 0.4]).astype(np.float32)
    multi = load_task(TaskConfig(kind="multi-label"), NAMES[:3])
    told = {row["metric"]: row["value"] for row in multi.details(several - 0.5, several, np.ones(200))["constant"]}
    assert told["subset_accuracy"] == (several == [0, 1, 0]).all(-1).mean()
    values = random.normal(size=200)
    [mse] = load_task(TaskConfig(kind="regression")).details(values[::-1, None], values, np.ones(200))["constant"]
    assert mse == {"metric": "mse", "value": pytest.approx(values.var())}


def test_a_value_has_its_error_by_length_and_an_interval_of_its_correlation() -> None:
    task = load_task(TaskConfig(kind="regression"))
    random = np.random.default_rng(0)
    labels = random.normal(size=300).astype(np.float32)
    labels[7] = np.nan
    logits = (labels + random.normal(size=300)).astype(np.float32)[:, None]
    found = task.details(logits, labels, np.arange(300) // 10)
    assert sum(row["rows"] for row in found["lengths"]) == len(found["points"]) == 299
    mean = sum(row["mse"] * row["rows"] for row in found["lengths"]) / 299
    assert mean == pytest.approx(task.score(logits, labels)["mse"])
    (interval,) = found["intervals"]
    assert interval["value"] == pytest.approx(task.score(logits, labels)["pearson"])
    # Fisher's z gives nearly the same for normal variables
    z, half = np.arctanh(interval["value"]), 1.96 / np.sqrt(296)
    assert (interval["low"], interval["high"]) == pytest.approx((np.tanh(z - half), np.tanh(z + half)), abs=0.03)


def test_constant_predictions_have_no_interval_and_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    task = load_task(TaskConfig(kind="regression"))
    found = task.details(np.zeros((4, 1)), np.array([1.0, 2.0, 3.0, 4.0]), np.ones(4))
    assert found["intervals"] == []
    assert found["lengths"][0]["pearson"] is None
    assert not recwarn.list


def test_a_language_model_has_its_perplexity_by_length() -> None:
    task = load_task(TaskConfig(kind="masked-lm"))
    sums, counts = np.array([[2.0, 1.0], [4.0, 1.0], [0.0, 0.0]]), np.array([2, 2, 0])
    found = task.details(sums, counts, np.array([5, 9, 9]))
    assert [row["perplexity"] for row in found["lengths"]] == pytest.approx([np.e, np.e**2])
    assert found["intervals"][0]["value"] == pytest.approx(np.exp(1.5))
    assert task.details(sums[2:], counts[2:], np.array([1])) == {}


# in a run


def details_of(stage: Path) -> dict[str, Any]:
    return json.loads((stage / "details.json").read_text())


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a teacher and a student, whose test rows are its validation rows."""
    tables = recipe("hinton")
    tables["data"]["test"] = "validation.csv"
    return potstill.run(tables, folder=tmp_path_factory.mktemp("runs") / "run", data_root=data).folder


def test_a_run_leaves_the_tables_of_teacher_and_student_that_agree_with_their_scores(finished: Path) -> None:
    for stage in ("01-teacher", "02-distil"):
        found = details_of(finished / "stages" / stage)
        assert list(found) == ["model"]
        assert found["model"]["validation"] == found["model"]["test"]
        result = json.loads((finished / "stages" / stage / "result.json").read_text())
        classes = found["model"]["validation"]["classes"]
        right = sum(row["recall"] * row["support"] for row in classes)
        assert right / 40 == pytest.approx(result["metrics"]["accuracy"])
        assert np.mean([row["f1"] for row in classes]) == pytest.approx(result["metrics"]["macro_f1"])
        assert result["taught"] is (stage == "02-distil")


def test_a_teacher_that_came_trained_has_tables_beside_the_students(data: Path, finished: Path, tmp_path: Path) -> None:
    tables = {**recipe("hinton"), "teacher": {"model": str(finished / "stages/01-teacher/best")}}
    tables["stage"] = tables["stage"][1:]
    potstill.run(tables, folder=tmp_path / "run", data_root=data)
    found = details_of(tmp_path / "run/stages/01-distil")
    result = json.loads((tmp_path / "run/result.json").read_text())
    (interval,) = found["teacher"]["validation"]["intervals"]
    assert interval["value"] == pytest.approx(result["teacher"]["metrics"]["accuracy"])


def test_a_run_stopped_at_its_end_leaves_the_tables_that_it_would_have(data: Path, tmp_path: Path) -> None:
    class StopsBeforeTheSecondStage(Progress):
        def note(self, text: str) -> None:
            if text.startswith("teacher: "):
                raise Interrupted("stopped")

    tables = recipe("hinton")
    with pytest.raises(Interrupted):
        potstill.run(tables, folder=tmp_path / "stopped", data_root=data, progress=StopsBeforeTheSecondStage())
    (tmp_path / "stopped/stages/01-teacher/result.json").unlink()
    (tmp_path / "stopped/stages/01-teacher/details.json").write_text('{"mo')
    for name in ("stopped", "whole"):
        potstill.run(tables, folder=tmp_path / name, data_root=data)
    for stage in ("01-teacher", "02-distil"):
        one, other = (tmp_path / name / "stages" / stage / "details.json" for name in ("stopped", "whole"))
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("scheme", [None, "IOB2"])
def test_entities_by_kind_are_seqeval_s_own_report(scheme: str | None, tmp_path: Path) -> None:
    names, random = ["O", "B-a", "I-a", "B-b", "I-b"], np.random.default_rng(1)
    task = load_task(TaskConfig(kind="token-classification", options={"scheme": scheme} if scheme else {}), names)
    lengths = random.integers(1, 9, 60)
    known, found = ([[names[tag] for tag in random.integers(0, 5, n)] for n in lengths] for _ in range(2))

    class Read(type(task)):
        def _told(self, *_: Any) -> Any:
            return list(range(60)), known, found

    task.__class__ = Read
    tables = task.details(None, None, lengths, None)
    strict = {"mode": "strict", "scheme": getattr(seqeval.scheme, scheme)} if scheme else {}
    report = classification_report(known, found, output_dict=True, zero_division=0, **strict)
    for row in tables["classes"]:
        theirs = report[row["class"]]
        assert [row["precision"], row["recall"], row["f1"], row["support"]] == pytest.approx(
            [theirs["precision"], theirs["recall"], theirs["f1-score"], theirs["support"]]
        )
    [interval] = tables["intervals"]
    assert interval["value"] == pytest.approx(report["micro avg"]["f1-score"])
    assert task.rescore(*task.kept(None, None, None))["f1"] == pytest.approx(report["micro avg"]["f1-score"])
    assert sum(row["rows"] for row in tables["lengths"]) == 60


def test_answers_have_tables_by_length_and_an_interval(tmp_path: Path) -> None:
    write_questions(write_data(tmp_path))
    tables = asking()
    tables["stage"] = [{**tables["stage"][0], "epochs": 1}]
    result = potstill.run(tables, data_root=tmp_path, folder=tmp_path / "run")
    found = json.loads((tmp_path / "run/stages/01-teacher/details.json").read_text())["model"]["validation"]
    [interval] = found["intervals"]
    assert interval["value"] == pytest.approx(result.metrics["f1"])
    mean = sum(row["f1"] * row["rows"] for row in found["lengths"]) / interval["rows"]
    assert mean == pytest.approx(result.metrics["f1"])
