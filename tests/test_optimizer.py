from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, BertConfig, BertForMaskedLM

from potstill.errors import TrainingError
from potstill.optimizer import Precision, adamw, clip_norm, parameter_groups
from potstill.recipe import StagePlan

BERT: dict[str, Any] = {
    "vocab_size": 20,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
SPECIAL = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
DISTILBERT = {"vocab_size": 20, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 16}


def plan(**settings: Any) -> StagePlan:
    return StagePlan.model_validate({"name": "test", **settings})


def split(*modules: nn.Module) -> tuple[set[str], set[str]]:
    """Names of the parameters with weight decay, and without."""
    names = {parameter: name for module in modules for name, parameter in module.named_parameters()}
    found: dict[float, set[str]] = {0.1: set(), 0.0: set()}
    for group in parameter_groups(modules, plan(weight_decay=0.1), {}):
        found[group["weight_decay"]] |= {names[parameter] for parameter in group["params"]}
    return found[0.1], found[0.0]


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("bert", BERT),
        ("distilbert", DISTILBERT),
        ("mobilebert", {**BERT, "embedding_size": 8, "intra_bottleneck_size": 8}),
        ("modernbert", {**BERT, **dict.fromkeys(SPECIAL, 0)}),
        ("qwen2", {**BERT, "num_key_value_heads": 1}),
    ],
)
def test_only_biases_and_norms_are_free_of_weight_decay(kind: str, config: dict[str, Any]) -> None:
    """In these models the names of norms have "norm" in them, or of their layer's type; checked by what is left."""
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind, **config))
    decayed, plain = split(model)
    shapes = {name: parameter.dim() for name, parameter in model.named_parameters()}
    assert decayed | plain == set(shapes)
    assert not decayed & plain
    assert decayed == {name for name, dimensions in shapes.items() if dimensions == 2}


def test_norms_are_told_by_type_where_their_names_differ() -> None:
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("distilbert", **DISTILBERT))
    _, plain = split(model)
    layer = "distilbert.transformer.layer.0"
    assert {f"{layer}.sa_layer_norm.weight", f"{layer}.output_layer_norm.weight", f"{layer}.ffn.lin1.bias"} <= plain


def test_biases_of_an_lstm_and_of_attention_are_free_and_their_matrices_not() -> None:
    decayed, plain = split(nn.LSTM(4, 4, bidirectional=True), nn.MultiheadAttention(4, 2))
    assert {"bias_ih_l0", "bias_hh_l0_reverse", "in_proj_bias", "out_proj.bias"} <= plain
    assert {"weight_ih_l0", "weight_hh_l0_reverse", "in_proj_weight", "out_proj.weight"} == decayed & {
        "weight_ih_l0",
        "weight_hh_l0_reverse",
        "in_proj_weight",
        "out_proj.weight",
    }


@pytest.mark.parametrize("norm", [nn.LayerNorm(3), nn.RMSNorm(3), nn.GroupNorm(1, 3), nn.BatchNorm1d(3)])
def test_every_kind_of_norm_is_free_whatever_it_is_called(norm: nn.Module) -> None:
    decayed, plain = split(nn.ModuleDict({"x": norm, "y": nn.Linear(3, 3)}))
    assert decayed == {"y.weight"}
    assert plain == {"y.bias", *(f"x.{name}" for name, _ in norm.named_parameters())}


def test_tied_weights_come_once_and_frozen_ones_not_at_all() -> None:
    model = BertForMaskedLM(BertConfig(**BERT))
    tied = model.bert.embeddings.word_embeddings.weight
    assert model.cls.predictions.decoder.weight is tied
    model.bert.pooler = None
    model.bert.encoder.layer[0].requires_grad_(False)
    frozen = set(model.bert.encoder.layer[0].parameters())
    groups = parameter_groups([model, nn.ModuleList([model.bert.encoder])], plan(), {})
    together = [parameter for group in groups for parameter in group["params"]]
    assert len(together) == len(set(together))
    assert tied in set(together)
    assert set(together) == set(model.parameters()) - frozen


def test_an_empty_group_is_left_out() -> None:
    assert [group["weight_decay"] for group in parameter_groups([nn.LayerNorm(3)], plan(weight_decay=0.1), {})] == [0.0]


def test_the_optimizer_takes_its_numbers_from_the_plan() -> None:
    weight = nn.Linear(2, 2, bias=False)
    settings = plan(learning_rate=0.25, betas=[0.8, 0.9], epsilon=1e-3, weight_decay=0.5)
    optimizer = adamw(parameter_groups([weight], settings, {}), settings)
    group = optimizer.param_groups[0]
    assert (group["lr"], tuple(group["betas"]), group["eps"], group["weight_decay"]) == (0.25, (0.8, 0.9), 1e-3, 0.5)
    before = weight.weight.detach().clone()
    weight.weight.grad = torch.full((2, 2), 2.0)
    optimizer.step()
    # the first step of Adam goes lr * g / (|g| + eps), after a decay by the factor 1 - lr * weight_decay
    torch.testing.assert_close(weight.weight.detach(), before * (1 - 0.25 * 0.5) - 0.25 * 2 / (2 + 1e-3))


# clipping


def with_gradients(scale: float) -> list[Tensor]:
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in ((3, 4), (5,), (2, 2), ())]
    for parameter in parameters[:3]:
        parameter.grad = scale * torch.randn_like(parameter)
    return list(parameters)


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("limit", [0.5, 1.0, 1e6])
def test_clipping_equals_torch(limit: float, scale: float) -> None:
    ours, theirs = with_gradients(scale), with_gradients(scale)
    norm = clip_norm(limit)(ours)
    expected = nn.utils.clip_grad_norm_(theirs, limit)
    assert norm.item() == expected.item()
    assert ours[3].grad is None
    for one, two in zip(ours[:3], theirs[:3], strict=True):
        assert torch.equal(one.grad, two.grad)  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", [None, 0.0])
def test_without_a_limit_the_norm_is_only_measured(limit: float | None) -> None:
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 4.0]), torch.tensor([12.0])
    assert clip_norm(limit)(list(parameters)).item() == 13.0
    assert parameters[0].grad.tolist() == [3.0, 4.0]
    assert parameters[1].grad.tolist() == [12.0]


def test_the_norm_after_clipping_is_the_limit() -> None:
    parameters = with_gradients(10.0)
    clip_norm(0.5)(parameters)
    norm = math.sqrt(sum(float(parameter.grad.square().sum()) for parameter in parameters[:3]))  # type: ignore[union-attr]
    assert norm == pytest.approx(0.5, rel=1e-5)


def test_no_gradient_at_all_has_the_norm_zero() -> None:
    assert float(clip_norm(1.0)([nn.Parameter(torch.zeros(2))])) == 0.0


# stepping


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_gradients_that_are_not_finite_stop_the_training_before_the_weights_change(norm: float) -> None:
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    with pytest.raises(TrainingError, match="norm of the gradients"):
        Precision().step(optimizer, norm)
    assert weight.tolist() == [1.0, 1.0]
    assert Precision().step(optimizer, 1.0)
    assert weight.tolist() == [0.0, 0.0]
