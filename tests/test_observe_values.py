"""Observed features are what transformers itself computes, for every architecture."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from potstill.features import LOGITS, QKV, Attention, Hidden, Scores
from potstill.observe import attention_scores
from tests.observing import CONFIGS, MASKS, assert_near, inputs, look, make

FINAL_NORM = {"modernbert": "model.final_norm", "qwen2": "model.norm"}
"""Where transformers' last hidden state has gone through a norm behind the last layer."""


def eager(model: PreTrainedModel, batch: dict[str, Tensor]) -> Any:
    """What transformers itself hands back, with its plain attention."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        return model(**batch, output_hidden_states=True, output_attentions=True)
    finally:
        model.set_attn_implementation(before)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_hidden_states_are_those_of_transformers(name: str, mask: str) -> None:
    model, batch = make(name), inputs(MASKS[mask])
    count = model.config.num_hidden_layers
    expected = list(eager(model, batch).hidden_states)
    assert len(expected) == count + 1
    raw, seen = look(model, [LOGITS, *(Hidden(i) for i in range(count + 1))], batch)
    last = seen[Hidden(count)]
    if name in FINAL_NORM:
        last = model.get_submodule(FINAL_NORM[name])(last)
    for layer in range(count):
        assert_near(seen[Hidden(layer)], expected[layer])
    assert_near(last, expected[count])
    assert_near(raw.logits, eager(model, batch).logits)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_attention_is_that_of_eager_transformers(name: str, mask: str) -> None:
    """Each layer by itself beside the logits, so that no later layer may write over it."""
    model, batch = make(name), inputs(MASKS[mask])
    expected = eager(model, batch)
    real = batch["attention_mask"].bool()
    for layer in range(1, model.config.num_hidden_layers + 1):
        raw, seen = look(model, [LOGITS, Attention(layer), Scores(layer)], batch)
        ours, theirs = (part.transpose(1, 2)[real] for part in (seen[Attention(layer)], expected.attentions[layer - 1]))
        assert_near(ours, theirs)
        assert_near(seen[Scores(layer)].softmax(-1), seen[Attention(layer)])
        assert_near(raw.logits, expected.logits)


@torch.no_grad()
def test_bert_queries_keys_and_values_are_the_projections_of_the_hidden_state_below() -> None:
    model = make("bert")
    _, seen = look(model, [LOGITS, Hidden(1), QKV(2), Scores(2)])
    attention = model.bert.encoder.layer[1].attention.self
    for ours, linear in zip(seen[QKV(2)], (attention.query, attention.key, attention.value), strict=True):
        assert ours.shape == (3, 4, 7, 8)
        flat = seen[Hidden(1)] @ linear.weight.T + linear.bias
        expected = torch.stack(flat.split(8, dim=-1), dim=1)
        assert_near(ours, expected)
    query, key, _ = seen[QKV(2)]
    plain = torch.einsum("bhqd,bhkd->bhqk", query, key) / math.sqrt(8)
    kept = inputs()["attention_mask"].bool()[:, None, None].expand_as(plain)
    assert_near(seen[Scores(2)][kept], plain[kept])
    assert (seen[Scores(2)][~kept] == torch.finfo(torch.float32).min).all()


@torch.no_grad()
def test_without_padding_the_scores_are_plain_products() -> None:
    _, seen = look(make("bert"), [QKV(1), Scores(1)], inputs(MASKS["full"]))
    query, key, _ = seen[QKV(1)]
    assert_near(seen[Scores(1)], query @ key.mT / math.sqrt(8))


@torch.no_grad()
def test_inputs_without_a_mask_count_every_position() -> None:
    batch = inputs(MASKS["full"])
    _, seen = look(make("bert"), [Attention(1)], {"input_ids": batch["input_ids"]})
    _, masked = look(make("bert"), [Attention(1)], batch)
    assert torch.equal(seen.mask, batch["attention_mask"])
    assert_near(seen[Attention(1)], masked[Attention(1)])


@torch.no_grad()
def test_with_fewer_key_heads_every_query_head_has_its_scores() -> None:
    model = make("qwen2")
    _, seen = look(model, [QKV(2), Scores(2)], inputs(MASKS["full"]))
    query, key, value = seen[QKV(2)]
    assert query.shape == (3, 4, 7, 8)
    assert key.shape == value.shape == (3, 2, 7, 8)
    # query heads 0 and 1 share key head 0; the third position may not see the fourth
    assert_near(seen[Scores(2)][:, 1, 2, 0], (query[:, 1, 2] * key[:, 0, 0]).sum(-1) / math.sqrt(8))
    assert_near(seen[Scores(2)][:, 2, 2, 2], (query[:, 2, 2] * key[:, 1, 2]).sum(-1) / math.sqrt(8))
    assert (seen[Scores(2)][:, :, 2, 3] == torch.finfo(torch.float32).min).all()


def test_scores_are_those_before_dropout_in_training_too() -> None:
    model = make("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.9)
    _, calm = look(model, [Hidden(1), Scores(1), Attention(1)])
    _, shaken = look(model.train(), [Hidden(1), Scores(1), Attention(1)])
    assert_near(shaken[Scores(1)], calm[Scores(1)])
    assert_near(shaken[Attention(1)].sum(-1), torch.ones(3, 4, 7))
    assert not torch.allclose(shaken[Hidden(1)], calm[Hidden(1)], atol=1e-2)  # dropout did act


def test_masks_may_be_booleans_numbers_or_absent_and_a_bias_is_added() -> None:
    torch.manual_seed(0)
    projections = tuple(torch.randn(1, 2, 3, 4) for _ in range(3))
    plain = attention_scores(projections, 0.5, None)  # type: ignore[arg-type]
    assert_near(plain, 0.5 * projections[0] @ projections[1].mT)
    seen = torch.tensor([True, True, False])
    added = torch.tensor([0.0, 0.0, -1e9])
    by_bool = attention_scores(projections, 0.5, seen).softmax(-1)  # type: ignore[arg-type]
    by_number = attention_scores(projections, 0.5, added).softmax(-1)  # type: ignore[arg-type]
    assert_near(by_bool, by_number)
    bias = torch.randn(1, 2, 3, 3)
    assert_near(attention_scores(projections, 0.5, None, bias), plain + bias)  # type: ignore[arg-type]
