"""Algorithms that look inside, on every architecture as teacher and as student: one update that reaches the student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from potstill.errors import UserError
from potstill.models import Model
from potstill.shares import shares
from potstill.stage import Stage
from potstill.step import Step
from potstill.testing import stage_of
from potstill.testing.tiny import recipe
from potstill.tokenizers import load_tokenizer
from tests.observing import BASE, CONFIGS, make

PLUGINS: dict[str, dict[str, Any]] = {
    "minilm": {"relation_heads": 4},
    "minilm, version 1": {"version": 1},
    "pp_minilm": {"relation_heads": 4, "alpha": 0.3, "beta": 0.3},
    "tinybert": {"phase": "intermediate"},
    "layers": {"hidden": {"hidden_mse": 1.0}, "attention": {"attention_mse": 1.0}},
}
ENCODERS = [name for name in CONFIGS if name not in ("albert-groups", "qwen2")]


def model_of(kind: str) -> PreTrainedModel:
    """A small encoder, on the tiny vocabulary."""
    if kind != "deberta-v2":
        return make(kind)
    return AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind, **BASE))  # type: ignore[no-any-return]


def stage_between(teacher: str, student: str, plugin: str, data: Path, folder: Path) -> Stage:
    """A stage on models of two architectures."""
    name = plugin.split(",")[0]
    tables = recipe(stage=[{"name": "s", "plugins": [name], name: PLUGINS[plugin]}])
    tables["data"]["max_length"] = 12
    words = load_tokenizer("vocab.txt", data)
    given = {side: Model(model_of(kind), words) for side, kind in (("teacher", teacher), ("student", student))}
    return stage_of(tables, data, folder, given=given)


def gradients(stage: Stage) -> dict[str, torch.Tensor]:
    """Gradients of one micro-batch, by parameter."""
    rows = stage.examples("train")
    assert rows is not None
    batch = rows.batch([0, 3, 5])
    done = Step(stage, batch, shares([batch], stage.units), 0, 0).gradients()
    assert all(term.value.isfinite() and term.value > 0 for term in done.terms.values())
    named = stage.student.module.named_parameters()
    return {name: parameter.grad for name, parameter in named if parameter.grad is not None}


@pytest.mark.parametrize("plugin", PLUGINS)
@pytest.mark.parametrize("architecture", ENCODERS)
def test_every_architecture_teaches_and_learns(architecture: str, plugin: str, data: Path, tmp_path: Path) -> None:
    """Against BERT, which has the same widths and heads."""
    for teacher, student in ((architecture, "bert"), ("bert", architecture)):
        stage = stage_between(teacher, student, plugin, data, tmp_path)
        with stage.exit:
            found = gradients(stage)
        reached = [name for name, value in found.items() if value.abs().sum() > 0]
        assert all(value.isfinite().all() for value in found.values())
        assert any("embed" in name for name in reached), f"{teacher} → {student}: only {reached}"
        assert any("layer" in name or "group" in name for name in reached)


@pytest.mark.parametrize("plugin", PLUGINS)
def test_attention_of_its_own_is_refused_in_a_sentence(plugin: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has its own attention, so its queries, keys, values and scores cannot be"):
        gradients(stage_between("deberta-v2", "bert", plugin, data, tmp_path))
