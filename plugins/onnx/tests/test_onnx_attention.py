"""Attention in the exported graph: fused where it can be, plain where not, and equal to torch's either way."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from potstill_onnx.attention import fused as fused_attention
from potstill_onnx.convert import convert
from potstill_onnx.session import Session
from transformers import (
    DistilBertConfig,
    DistilBertForSequenceClassification,
    Qwen3Config,
    Qwen3ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from plugins.onnx.tests.jobs import CLASSES, LONGEST, NAMES, VOCABULARY, Bag, export, inputs, job_for, task_of
from potstill.errors import ModelError
from potstill.export import Artifact, ExportJob


def test_fused_attention_is_one_node_a_layer_and_answers_the_same(fused: tuple[ExportJob, Artifact]) -> None:
    job, artifact = fused
    operators = [node.op_type for node in onnx.load(job.folder / "model.onnx").graph.node]
    assert operators.count("MultiHeadAttention") == 2
    assert "Softmax" not in operators
    assert artifact.facts["parity"]["student (onnx)"]["max_difference"] < 5e-6
    assert artifact.facts["attention"] == {"student (onnx)": "fused", "student (onnx int8)": "fused"}


def test_a_model_without_attention_is_exported_plain_and_refused_fused(tmp_path: Path) -> None:
    job = job_for(tmp_path / "auto", Bag())
    artifact = export(job, time=False)
    assert artifact.facts["parity"]["student (onnx)"]["max_difference"] < 1e-6
    assert artifact.facts["attention"]["student (onnx)"] == "plain"
    assert "student (onnx): a Bag has no attention that can be fused; its graph is plain" in job.progress.notes
    assert Session(tmp_path / "auto" / "model.onnx").inputs == NAMES[:2]
    with pytest.raises(ModelError, match="A Bag has no attention that can be fused"):
        export(job_for(tmp_path / "fused", Bag()), attention="fused", time=False)


def test_an_attention_that_the_fused_node_cannot_express_is_exported_plain(tmp_path: Path) -> None:
    config = Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, intermediate_size=32, num_labels=CLASSES, pad_token_id=0, max_position_embeddings=LONGEST,
    )  # fmt: skip
    module = Qwen3ForSequenceClassification(config).eval()
    written = convert(module, task_of(), inputs(3, 9), tmp_path / "a.onnx", max_length=LONGEST)
    assert (written.attention, written.files) == ("plain", [tmp_path / "a.onnx"])


def test_other_families_of_encoders_are_exported_too(tmp_path: Path) -> None:
    small = {"vocab_size": VOCABULARY, "num_labels": CLASSES, "initializer_range": 0.3}
    distilbert = DistilBertForSequenceClassification(
        DistilBertConfig(dim=32, n_layers=1, n_heads=2, hidden_dim=64, max_position_embeddings=LONGEST, **small)
    )
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    roberta = RobertaForSequenceClassification(
        RobertaConfig(max_position_embeddings=LONGEST + 2, type_vocab_size=1, pad_token_id=1, **shape, **small)
    )
    for kind, module in (("plain", distilbert), ("fused", roberta)):
        job = job_for(tmp_path / kind, module)
        parity = export(job, attention=kind, time=False, quantize=False).facts["parity"]["student (onnx)"]
        assert parity["max_difference"] < 5e-6
        assert max(case["max_difference"] for case in parity["grid"]) < 5e-6


def test_fewer_key_heads_and_scores_that_are_more_than_scaled_and_masked_cannot_be_fused() -> None:
    query = torch.zeros(1, 4, 3, 8)
    with pytest.raises(ModelError, match="^Attention with 4 query heads and 2 key heads cannot be fused"):
        fused_attention(Bag(), query, query[:, :2], query[:, :2], None)
    with pytest.raises(ModelError, match="Attention with softcap cannot be fused; use attention = 'plain'."):
        fused_attention(Bag(), query, query, query, None, softcap=30.0)
