"""Evaluation during a stage: what is kept, and when it is time to stop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from potstill.engine import Engine
from potstill.judge import Judge
from potstill.position import Position
from potstill.testing import stage_of
from potstill.testing.tiny import student_only


def judged(accuracies: list[float], data: Path, folder: Path, **stage: object) -> tuple[Position, Judge]:
    """A stage judged by made-up accuracies, one an evaluation; its classifier's bias tells which evaluation it was."""
    judge = Judge(stage_of(student_only(**stage), data, folder), folder)
    at = Position()
    for number, accuracy in enumerate(accuracies, start=1):
        at.update = number
        with torch.no_grad():
            judge._stage.student.module.classifier.bias.fill_(number)
        judge.judge({"accuracy": accuracy, "loss": 1 - accuracy}, at)
        if at.finished:
            break
    return at, judge


def kept(judge: Judge, at: Position) -> float:
    judge.load_best(at)
    return float(judge._stage.student.module.classifier.bias[0].detach())


def test_the_best_evaluation_is_kept_and_the_first_of_equal_ones(data: Path, tmp_path: Path) -> None:
    at, judge = judged([0.5, 0.8, 0.8, 0.7], data, tmp_path)
    assert (at.best, at.best_update, at.worse) == (0.8, 2, 2)
    assert kept(judge, at) == 2


def test_a_metric_where_less_is_better_is_told_apart(data: Path, tmp_path: Path) -> None:
    at, judge = judged([0.5, 0.8, 0.7], data, tmp_path, metric="loss")
    assert (at.best, at.best_update) == (pytest.approx(0.2), 2)
    assert kept(judge, at) == 2


def test_the_last_model_is_handed_on_where_the_stage_says_so(data: Path, tmp_path: Path) -> None:
    at, judge = judged([0.5, 0.8, 0.7], data, tmp_path, keep="last")
    assert at.best == 0.8
    assert kept(judge, at) == 3
    assert not judge.weights.exists()


@pytest.mark.parametrize(("patience", "evaluations"), [(1, 3), (2, 6), (3, 7), (None, 7)])
def test_early_stopping_counts_evaluations_without_a_better_one(
    patience: int | None, evaluations: int, data: Path, tmp_path: Path
) -> None:
    at, _ = judged([0.5, 0.8, 0.7, 0.9, 0.8, 0.7, 0.6], data, tmp_path, early_stopping=patience)
    assert at.update == evaluations
    assert at.finished == (patience is not None)


def test_a_stage_ends_when_its_metric_does_not_rise(data: Path, tmp_path: Path) -> None:
    # a learning rate of nothing: every evaluation is as good as the first
    tables = student_only(epochs=50, learning_rate=1e-12, evaluate_every=3, early_stopping=4)
    stage = stage_of(tables, data, tmp_path)
    with stage.exit:
        position = Engine(stage, tmp_path / "s").train()
    assert position.update == 3 * 5
    assert position.best_update == 3


def test_the_modules_of_plugins_are_kept_and_put_back_with_the_student(data: Path, tmp_path: Path) -> None:
    judge = Judge(stage_of(student_only(), data, tmp_path), tmp_path)
    projection = torch.nn.Linear(2, 2)
    judge._stage.add_module("projection", projection)
    at = Position(update=1)
    best = projection.weight.detach().clone()
    judge.judge({"accuracy": 0.5}, at)
    with torch.no_grad():
        projection.weight.zero_()
    judge.load_best(at)
    assert torch.equal(projection.weight, best)
