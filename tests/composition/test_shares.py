"""Plugins together: what each does holds in company, and a run that breaks off goes on to the same end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import potstill
from potstill.context import Context
from potstill.engine import Engine
from potstill.models import from_config
from potstill.progress import Progress
from potstill.recipe import parse
from potstill.runner import expanded
from potstill.stage import Stage
from potstill.testing import assert_resumes_exactly
from potstill.testing.tiny import bert, recipe
from potstill.tokenizers import load_tokenizer

CHARACTERS = ["<PAD>", "<UNK>", " ", *"abcdefghijklmnopqrstuvwxyz"]


@pytest.fixture
def two_tokenizers(data: Path) -> dict[str, Any]:
    """A BERT teacher that reads words, a BiLSTM student that reads characters, two micro-batches an update."""
    (data / "characters.txt").write_text("\n".join(CHARACTERS) + "\n", encoding="utf-8")
    tables = recipe("hinton")
    tables["data"]["max_length"] = 40
    tables["teacher"]["config"]["max_position_embeddings"] = 48
    tables["student"] = {
        "plugin": "bilstm",
        "vocab": "characters.txt",
        "embedding_size": 8,
        "hidden_size": 8,
    }
    tables["stage"][1].update(plugins=["hinton", "accumulate"], accumulate={"batches": 2}, checkpoint_every=2, epochs=2)
    return tables


def test_teacher_and_student_with_tokenizers_of_their_own_resume_exactly(
    two_tokenizers: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    result = assert_resumes_exactly(two_tokenizers, data=data, folder=tmp_path, stage="distil", after=5)
    lines = (tmp_path / "whole/stages/02-distil/metrics.jsonl").read_text().splitlines()
    terms = {name for line in lines for name in json.loads(line).get("terms", {})}
    assert terms == {"hinton.soft", "hinton.hard"}
    assert result.stages["distil"]["updates"] == 2 * 6


def test_rows_read_by_two_tokenizers_stay_the_same_rows(
    two_tokenizers: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    two_tokenizers["stage"] = [{"name": "distil", "plugins": ["hinton"], "teacher": "fresh", "student": "fresh"}]
    plan = expanded(parse(two_tokenizers))
    context = Context(plan, tmp_path, data, progress=Progress())
    words = load_tokenizer("vocab.txt", data)
    context.given["teacher"] = from_config(two_tokenizers["teacher"]["config"], words, context.task)
    context.given["teacher"].fresh = ()
    stage = Stage(context, plan.stages[0])
    with stage.exit:
        batch = stage.examples("train").batch([4, 0, 17])
        assert not batch.shared
        for row in range(3):
            read = stage.student.tokenizer.decode(
                batch.student["input_ids"][row][batch.student["attention_mask"][row] == 1]
            )
            teacher_read = words.decode(batch.teacher["input_ids"][row], skip_special_tokens=True)
            assert read.replace(" ", "")[:20] == teacher_read.replace(" ", "")[:20]


def trained(tables: dict[str, Any], data: Path, folder: Path) -> list[torch.Tensor]:
    plan = expanded(parse(tables))
    context = Context(plan, folder, data, progress=Progress())
    stage = Stage(context, plan.stages[-1])
    stage.student.module.double()
    if stage.looks_at_teacher:
        stage.teacher.module.double()
    with stage.exit:
        Engine(stage, folder / "stage").train()
        return [parameter.detach().clone() for parameter in stage.student.module.parameters()]


@pytest.mark.parametrize("batches", [2, 4, 8])
def test_accumulating_uneven_micro_batches_trains_the_weights_of_the_large_batch(
    batches: int, data: Path, tmp_path: Path
) -> None:
    teacher = potstill.run(
        {**recipe(), "stage": recipe()["stage"][:1]}, folder=tmp_path / "teacher", data_root=data
    ).model
    calm = bert(1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    tables = recipe("hinton", teacher={"model": str(teacher)}, student={"config": calm})

    def stage(size: int, group: int) -> list[dict[str, Any]]:
        plugins = {"plugins": ["hinton", "accumulate"], "hinton": {"alpha": 0.4}, "accumulate": {"batches": group}}
        return [{"name": "distil", "batch_size": size, "updates": 1, "warmup": 0, "schedule": "constant", **plugins}]

    # One update over the first 96 // batches * batches rows in the same order: bucketing sorts by length, so the
    # whole data set is one pool and the update takes every row.
    whole = trained({**tables, "stage": stage(96, 1)}, data, tmp_path / "whole")
    parts = trained({**tables, "stage": stage(96 // batches, batches)}, data, tmp_path / "parts")
    for one, many in zip(whole, parts, strict=True):
        torch.testing.assert_close(many, one, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", ["pair", "regression"])
def test_pairs_and_regression_distil_and_resume_exactly(kind: str, data: Path, tmp_path: Path) -> None:
    tables = recipe("hinton")
    tables["data"].update(text_pair="other", max_length=32)
    if kind == "regression":
        tables["task"] = {"kind": "regression"}
        tables["data"]["label"] = "score"
    tables["stage"][1]["checkpoint_every"] = 4
    result = assert_resumes_exactly(tables, data=data, folder=tmp_path, stage="distil", after=10)
    assert set(result.metrics) >= ({"pearson", "spearman", "mse"} if kind == "regression" else {"accuracy", "macro_f1"})


def test_the_finished_student_is_exported_with_parity(
    two_tokenizers: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    two_tokenizers["export"] = {"plugins": ["onnx"], "onnx": {"time": False}}
    result = potstill.run(two_tokenizers, folder=tmp_path / "run", data_root=data)
    facts = json.loads((tmp_path / "run/export/onnx.json").read_text())
    rows = {row["model"]: row for row in result.exports}
    student = next(row for name, row in rows.items() if "student" in name and "int8" not in name)
    assert student["accuracy"] == pytest.approx(result.metrics["accuracy"])
    assert (tmp_path / "run/export/model.onnx").is_file()
    assert facts["facts"]
