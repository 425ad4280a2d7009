"""Language models: labels made of the text, perplexity, and runs from beginning to end."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

import potstill
from potstill.batch import IGNORED, Batch
from potstill.data.random import RowRandom
from potstill.errors import DataError, ModelError
from potstill.exporting import export_folder
from potstill.recipe import TaskConfig
from potstill.saved import open_saved, predict
from potstill.tasks import load_task
from potstill.tasks.language import next_tokens
from potstill.testing import assert_resumes_exactly, stage_of
from potstill.testing.tiny import bert, student_only

GPT2 = {"model_type": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 48}


def language(kind: str, **stage: Any) -> dict[str, Any]:
    """A student that learns the text itself."""
    tables = student_only(**stage)
    tables["task"] = {"kind": kind}
    if kind == "causal-lm":
        tables["student"]["config"] = GPT2
    return tables


def batch_with(labels: torch.Tensor) -> Batch:
    inputs = {"input_ids": torch.ones_like(labels), "attention_mask": torch.ones_like(labels)}
    return Batch(inputs, inputs, labels, torch.arange(len(labels)))


def test_scores_of_parts_are_those_of_all_labels_together() -> None:
    torch.manual_seed(0)
    task = load_task(TaskConfig(kind="masked-lm"))
    logits, labels = torch.randn(6, 5, 11, dtype=torch.float64), torch.randint(0, 11, (6, 5))
    labels[torch.rand(6, 5) < 0.6] = IGNORED
    labels[2] = IGNORED  # a row without any
    parts = [task.outcome(logits[rows], batch_with(labels[rows])) for rows in (slice(0, 2), slice(2, 6))]
    found = task.score([one for one, _ in parts], torch.cat([torch.from_numpy(kept) for _, kept in parts]).numpy())
    kept = labels != IGNORED
    loss = F.cross_entropy(logits[kept], labels[kept])
    assert found["perplexity"] == pytest.approx(float(loss.exp()))
    assert found["accuracy"] == pytest.approx(float((logits[kept].argmax(-1) == labels[kept]).double().mean()))
    assert float(task.loss(logits, batch_with(labels))) == pytest.approx(float(loss))


def test_each_token_is_to_predict_the_next_and_padding_nothing() -> None:
    batch = batch_with(torch.zeros(2, 4, dtype=torch.long))
    batch.student["input_ids"] = torch.tensor([[5, 6, 7, 8], [5, 9, 0, 0]])
    batch.student["attention_mask"] = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    next_tokens(batch, RowRandom(0, 0, [0, 1]))
    assert batch.labels.tolist() == [[6, 7, 8, IGNORED], [9, IGNORED, IGNORED, IGNORED]]


@pytest.mark.parametrize(("kind", "reader"), [("masked-lm", AutoModelForMaskedLM), ("causal-lm", AutoModelForCausalLM)])
def test_a_language_model_learns_resumes_exactly_and_loads_in_transformers(
    kind: str, reader: Any, data: Path, tmp_path: Path
) -> None:
    tables = language(kind, epochs=10, learning_rate=2e-2, checkpoint_every=20)
    result = assert_resumes_exactly(tables, data=data, folder=tmp_path, stage="plain", after=50)
    assert result.metrics["perplexity"] == pytest.approx(math.exp(result.metrics["loss"]))
    module = reader.from_pretrained(tmp_path / "whole/model")
    assert result.metrics["perplexity"] < 0.9 * module.config.vocab_size  # a guess has the vocabulary


@pytest.mark.parametrize(
    ("kind", "config"),
    [("masked-lm", bert(1)), ("causal-lm", GPT2), ("causal-lm", bert(1))],
    ids=["bert", "gpt2", "bert, causal"],
)
def test_a_language_model_is_exported_with_parity_and_the_same_perplexity(
    kind: str, config: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    tables = language(kind, epochs=1)
    tables["student"]["config"] = config
    result = potstill.run(tables, folder=tmp_path / "run", data_root=data)
    onnx = {"quantize": False, "time": False, "teacher": False}
    [artifact] = export_folder(tmp_path / "run/model", {"onnx": onnx}, tmp_path / "export", data_root=data)
    [parity] = artifact.facts["parity"].values()
    assert parity["max_difference"] < 1e-5
    assert parity["onnx"]["perplexity"] == pytest.approx(result.metrics["perplexity"], rel=1e-5)


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra"])
def test_an_encoder_that_predicts_next_tokens_sees_none_of_them(kind: str, data: Path, tmp_path: Path) -> None:
    tables = language("causal-lm")
    tables["student"]["config"] = {**bert(2), "model_type": kind}
    module = stage_of(tables, data, tmp_path).student.module.eval()
    one, other = module(input_ids=torch.tensor([[5, 6, 7], [5, 6, 8]])).logits
    assert torch.equal(one[:2], other[:2])
    assert not torch.equal(one[2], other[2])
    tables["student"]["config"]["is_decoder"] = False
    with pytest.raises(ModelError, match="sees the next one too; take a model with causal attention"):
        stage_of(tables, data, tmp_path)


def test_what_counts_is_found_before_a_batch_is_on_its_device() -> None:
    batch = batch_with(torch.tensor([[IGNORED, 7], [3, IGNORED]]))
    batch.student["attention_mask"] = torch.tensor([[1, 1], [1, 0]])
    assert (batch.attended.tolist(), batch.labelled.tolist()) == ([0, 1, 2], [1, 2])
    there = batch.to(torch.device("meta"))  # which cannot tell what is not 0
    assert (there.attended.device.type, len(there.attended), len(there.labelled)) == ("meta", 3, 2)


def test_labelled_rows_mean_nothing_to_a_language_model(data: Path, tmp_path: Path) -> None:
    tables = language("masked-lm")
    tables["data"]["labelled_rows"] = 4
    with pytest.raises(DataError, match=r"data.labelled_rows = 4, and the task 'masked-lm' makes its labels of the"):
        potstill.run(tables, folder=tmp_path / "run", data_root=data)


def test_a_students_text_without_a_mask_is_no_question(data: Path, tmp_path: Path) -> None:
    task = load_task(TaskConfig(kind="masked-lm"))
    potstill.run(language("masked-lm", epochs=1), folder=tmp_path / "run", data_root=data)
    [row] = predict(tmp_path / "run/model", ["the [MASK] of the sea"])
    assert [len(place) for place in row["words"]] == [5]
    words = open_saved(tmp_path / "run/model").model.tokenizer
    ids = torch.tensor([[words.cls_token_id, words.mask_token_id, words.sep_token_id]])
    with pytest.raises(DataError, match=r"holds no \[MASK\]"):
        task.decode(torch.randn(1, 1, len(words)).numpy(), {"input_ids": ids[:, :1]}, words)
