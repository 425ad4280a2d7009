"""The stage's key `freeze`: what stays, what is refused, and what the plan says of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from potstill.errors import RecipeError
from potstill.freezing import freeze
from potstill.planning import plan
from potstill.recipe import parse
from potstill.runner import run
from potstill.testing import weights
from potstill.testing.tiny import student_only


def model() -> BertForMaskedLM:
    return BertForMaskedLM(
        BertConfig(vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=2, intermediate_size=4)
    )


def test_a_tied_weight_is_frozen_by_either_name() -> None:
    for pattern in ("*word_embeddings.weight", "cls.predictions.decoder.weight"):
        module = model()
        names = freeze(module, [pattern], "distil")
        assert names == ["bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"]
        assert not module.get_output_embeddings().weight.requires_grad


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("bert.embeddings.token_type_embedings.weight", "Did you mean 'bert.embeddings.token_type_embeddings.weight'"),
        ("nothing", "They are named like 'bert.embeddings.word_embeddings.weight'"),
        ("*", "leaves no parameter to train"),
    ],
)
def test_a_pattern_without_a_parameter_or_that_leaves_none_is_refused(pattern: str, told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        freeze(model(), [pattern], "distil")


def test_what_is_frozen_stays_and_the_next_stage_trains_it(data: Path, tmp_path: Path) -> None:
    tables = student_only(freeze=["*position_embeddings*", "*token_type_embeddings*"], keep="last")
    tables["stage"].append({**tables["stage"][0], "name": "all", "freeze": [], "student": "stage:plain"})
    told = plan(parse(tables), data).stages
    names = [f"bert.embeddings.{kind}_embeddings.weight" for kind in ("position", "token_type")]
    assert [stage["frozen"] for stage in told] == [names, []]
    tables["stage"].insert(0, {**tables["stage"][0], "name": "before", "updates": 1})
    del tables["stage"][0]["epochs"]
    run(tables, folder=tmp_path, data_root=data)
    first, frozen, every = (weights(tmp_path, name) for name in ("before", "plain", "all"))
    for name in names:
        assert torch.equal(first[name], frozen[name])
        assert not torch.equal(frozen[name], every[name])
    other = "bert.embeddings.word_embeddings.weight"
    assert not torch.equal(first[other], frozen[other])
