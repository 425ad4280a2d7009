"""Swaps through a stage's step against a forward pass written out by hand, in float64, gradients too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from potstill_diito.plugin import SOURCE, Diito
from torch import Tensor

import potstill
from potstill.collate import Collation
from potstill.engine import Engine
from potstill.shares import shares
from potstill.step import Step
from potstill.testing import engine_of
from potstill.testing.tiny import bert, recipe, write_data

CALM = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
HEADS = 2
Weights = Mapping[str, Tensor]
Swap = tuple[Tensor, Tensor, Tensor, slice]
"""Rows, positions, value, columns."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = write_data(tmp_path_factory.mktemp("data"))
    tables = recipe(teacher={"config": bert(4, **CALM), "tokenizer": "vocab.txt"})
    tables["stage"] = tables["stage"][:1]
    potstill.run(tables, folder=place / "run", data_root=place)
    (place / "run/model").rename(place / "teacher")
    return place


def engine_with(data: Path, folder: Path, **options: Any) -> Engine:
    tables = recipe(teacher={"model": "teacher"}, student={"config": bert(2, **CALM)})
    tables["stage"] = [{**tables["stage"][1], "supervised": 0.0}]
    return engine_of(tables, data, folder, plugins=[Diito(Diito.Config(**options))])


def norm(weights: Weights, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-12)


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def by_hand(weights: Weights, inputs: Mapping[str, Tensor], swaps: Mapping[int, Swap]) -> tuple[list[Tensor], Tensor]:
    """A BERT classifier, operation by operation: hidden states 0 to n, and the logits."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    embeddings = "bert.embeddings"
    x = weights[f"{embeddings}.word_embeddings.weight"][ids]
    x = x + weights[f"{embeddings}.position_embeddings.weight"][: ids.shape[1]]
    x = x + weights[f"{embeddings}.token_type_embeddings.weight"][0]
    states = [norm(weights, f"{embeddings}.LayerNorm", x)]
    hidden = (1 - mask[:, None, None, :].double()) * -1e30
    for number in range(len({name.split(".")[3] for name in weights if name.startswith("bert.encoder.layer.")})):
        x, layer = states[-1], f"bert.encoder.layer.{number}"
        query, key, value = (
            linear(weights, f"{layer}.attention.self.{name}", x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1]) + hidden
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        attended = linear(weights, f"{layer}.attention.output.dense", mixed)
        x = norm(weights, f"{layer}.attention.output.LayerNorm", x + attended)
        inner = F.gelu(linear(weights, f"{layer}.intermediate.dense", x))
        x = norm(weights, f"{layer}.output.LayerNorm", x + linear(weights, f"{layer}.output.dense", inner))
        if number + 1 in swaps:
            rows, positions, value, columns = swaps[number + 1]
            written = x.unbind(-1)
            for offset, column in enumerate(range(*columns.indices(x.shape[-1]))):
                one = written[column].index_put((rows, positions), value[:, offset])
                written = (*written[:column], one, *written[column + 1 :])
            x = torch.stack(written, -1)
        states.append(x)
    pooled = torch.tanh(linear(weights, "bert.pooler.dense", states[-1][:, 0]))
    return states, linear(weights, "classifier", pooled)


@pytest.mark.parametrize("read", ["aligned", "released"])
def test_losses_and_gradients_are_those_of_a_swap_by_hand(read: Any, data: Path, tmp_path: Path) -> None:
    mapping = [{"teacher": {"layers": [2, 3]}, "student": {"layers": 2, "heads": 1, "dims": "3:9"}}]
    engine = engine_with(data, tmp_path, mapping=mapping, read=read, positions="random", causal_cos=0.5)
    stage = engine.stage
    with stage.exit:
        stage.student.module.double()
        stage.teacher.module.double()
        batch = Collation(stage, engine.train_rows).batch(engine.train_rows.lengths.argsort()[::7][:6].copy(), 0)
        step = Step(stage, batch, shares([batch], stage.units), 0, 0)
        step.gradients()
    rows, at, source_at = (batch.notes[f"diito_{name}"] for name in ("rows", "base", "source"))
    assert len(rows) > 6
    below = read == "released"
    outcome = {}
    leaves = {name: value.detach().clone().requires_grad_() for name, value in stage.student.module.named_parameters()}
    known = dict(stage.teacher.module.named_parameters())
    whole, part = slice(0, 32), slice(19, 25)
    for side, weights, swapped in (("teacher", known, {2: whole, 3: whole}), ("student", leaves, {2: part})):
        states, _ = by_hand(weights, batch.companions[SOURCE].student, {})
        swaps = {
            layer: (rows, at, states[layer - below][rows, source_at][:, columns], columns)
            for layer, columns in swapped.items()
        }
        states, logits = by_hand(weights, batch.student, swaps)
        outcome[side] = states[-1], logits
    (known_state, known_logits), (state, logits) = outcome["teacher"], outcome["student"]
    log_p, log_q = (known_logits / 2).log_softmax(-1), (logits / 2).log_softmax(-1)
    ce = 4 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    tokens = batch.student["attention_mask"].bool()
    cos = (1 - F.cosine_similarity(state[tokens], known_state[tokens], dim=-1)).mean()
    terms = step.passes[0].terms
    torch.testing.assert_close(terms["diito.causal_ce"].value, ce.detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(terms["diito.causal_cos"].value, cos.detach(), rtol=1e-9, atol=1e-12)
    (ce + 0.5 * cos).backward()
    for name, parameter in stage.student.module.named_parameters():
        torch.testing.assert_close(parameter.grad, leaves[name].grad, rtol=1e-7, atol=1e-11)
    assert terms.keys() >= {"diito.causal_ce", "diito.causal_cos"}
