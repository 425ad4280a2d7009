"""The plugin in a stage: what it looks at, what it says, what it refuses, and that updates are exact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from potstill_minilm.plugin import MiniLM
from pydantic import ValidationError

from potstill.errors import ModelError
from potstill.features import LOGITS, QKV
from potstill.planning import plan
from potstill.recipe import parse
from potstill.stage import Stage
from potstill.testing import assert_resumes_exactly, stage_of
from potstill.testing.tiny import bert, recipe, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def tables(student: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    made = recipe("minilm", student={"config": student or bert(1, 48)})
    made["stage"][1].update(minilm=options)
    return made


def stage_with(data: Path, folder: Path, student: dict[str, Any] | None = None, **options: Any) -> Stage:
    made = tables(student, **options)
    made["stage"] = [{**made["stage"][1], "teacher": "fresh"}]
    return stage_of(made, data, folder)


def test_nothing_but_one_layer_of_each_is_looked_at(data: Path, tmp_path: Path) -> None:
    stage = stage_with(data, tmp_path, teacher_layer=1)
    assert stage.observed["teacher"] == [QKV(1)]
    assert set(stage.observed["student"]) == {LOGITS, QKV(-1)}
    assert stage.explained == {
        "minilm": {
            "layers": "student 1 ← teacher 1",
            "relations": {"qq": 1.0, "kk": 1.0, "vv": 1.0},
            "relation_heads": 16,
        }
    }


def test_version_1_takes_the_attention_heads_and_needs_them_equal(data: Path, tmp_path: Path) -> None:
    stage = stage_with(data, tmp_path, version=1)
    assert stage.explained["minilm"]["relation_heads"] == 2
    assert stage.explained["minilm"]["relations"] == {"qk": 1.0, "vv": 1.0}
    with pytest.raises(ModelError, match="the teacher has 2 and the student 4; give the student 2 heads"):
        stage_with(data, tmp_path, bert(1, 48, num_attention_heads=4), version=1)


def test_relation_heads_that_do_not_fit_are_refused_with_some_that_do(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="relation_heads = 12 does not divide the teacher's width 32; .* is 16"):
        stage_with(data, tmp_path, relation_heads=12)


def test_a_layer_that_is_not_there_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Layer 3 of the teacher is asked for, but it has layers 1 to 2"):
        stage_with(data, tmp_path, teacher_layer=3)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"relations": {"qx": 1.0}}, "'qx' is no pair of q, k and v"),
        ({"relations": {"qq": -1.0}}, "the weight of 'qq' is -1"),
        ({"relations": {"qq": 0.0}}, "no relation has a weight above 0"),
        ({"version": 3}, "version"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        MiniLM.Config(**options)


def test_the_plan_shows_layers_heads_and_terms(data: Path) -> None:
    told = plan(parse(tables(normalisation="token")), data).stages[1]
    assert told["explained"]["minilm"]["layers"] == "student 1 ← teacher 2"
    assert told["loss_terms"] == {f"minilm.{pair}": "1 per token" for pair in ("qq", "kk", "vv")}


def test_a_run_resumes_exactly_and_learns(data: Path, tmp_path: Path) -> None:
    made = tables(relation_heads=8)
    made["stage"][1].update(epochs=3, plugins=["minilm", "accumulate"], accumulate={"batches": 2}, checkpoint_every=2)
    assert_resumes_exactly(made, data=data, folder=tmp_path, stage="distil", after=5)
    lines = map(json.loads, (tmp_path / "whole/stages/02-distil/metrics.jsonl").read_text().splitlines())
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.8 * losses[0]
