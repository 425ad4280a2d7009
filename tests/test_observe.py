from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from potstill.errors import ModelError
from potstill.features import LOGITS, POOLED, QKV, Attention, Feature, Hidden, Scores
from potstill.observe import ATTENTION, Observer, attention_scores

BASE: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "pad_token_id": 0,
    "num_labels": 3,
}
NARROW = {**BASE, "embedding_size": 16}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": BASE,
    "roberta": BASE,
    "distilbert": {"vocab_size": 50, "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48, "num_labels": 3},
    "electra": NARROW,
    "albert": NARROW,
    "albert-groups": {**NARROW, "num_hidden_layers": 4, "num_hidden_groups": 2},
    "mobilebert": {**NARROW, "intra_bottleneck_size": 16, "num_feedforward_networks": 3},
    "ernie": BASE,
    "modernbert": {**BASE, "cls_token_id": 1, "bos_token_id": 1, "sep_token_id": 2, "eos_token_id": 2},
    "xlm-roberta": BASE,
    "qwen2": {**BASE, "num_key_value_heads": 2},
}
FINAL_NORM = {"modernbert": "model.final_norm", "qwen2": "model.norm"}
"""Where transformers' last hidden state has gone through a norm behind the last layer."""
MASKS = {"ragged": [7, 5, 3], "full": [7, 7, 7]}


def make(name: str, **more: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(name.split("-groups")[0], **{**CONFIGS[name], **more})
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    return model.eval()


def inputs(lengths: list[int] | None = None) -> dict[str, Tensor]:
    lengths = lengths or MASKS["ragged"]
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(5, 50, mask.shape, generator=torch.Generator().manual_seed(1)) * mask
    return {"input_ids": ids, "attention_mask": mask}


def look(model: nn.Module, features: list[Feature], batch: dict[str, Tensor] | None = None) -> tuple[Any, Any]:
    observer = Observer(model, features, "teacher")
    try:
        return observer(batch or inputs())
    finally:
        observer.close()


def eager(model: PreTrainedModel, batch: dict[str, Tensor]) -> Any:
    """What transformers itself hands back, with its plain attention."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        return model(**batch, output_hidden_states=True, output_attentions=True)
    finally:
        model.set_attn_implementation(before)


@contextmanager
def counted(*modules: nn.Module) -> Any:
    """How often each module's forward runs."""
    calls = [0] * len(modules)

    def count(number: int) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            calls[number] += 1

        return hook

    handles = [module.register_forward_hook(count(number)) for number, module in enumerate(modules)]
    yield calls
    for handle in handles:
        handle.remove()


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def assert_near(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5)


# the values


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


# pooled, gradients, negative layers


@torch.no_grad()
@pytest.mark.parametrize("name", ["bert", "albert", "ernie", "mobilebert"])
def test_pooled_is_the_pooler_output_after_its_activation(name: str) -> None:
    model = make(name)
    _, seen = look(model, [POOLED])
    assert_near(seen[POOLED], model.base_model(**inputs()).pooler_output)


def test_a_model_without_a_pooler_says_so_and_keeps_its_own_attention() -> None:
    model = make("distilbert")
    with pytest.raises(ModelError, match="DistilBertForSequenceClassification, has no pooler to observe"):
        Observer(model, [POOLED, QKV(1)], "teacher")
    assert model.config._attn_implementation == "sdpa"
    assert hooks(model) == 0


@pytest.mark.parametrize(
    ("feature", "reached"),
    [(Hidden(2), [True, True, False]), (QKV(2), [True, True, False]), (Scores(3), [True, True, True])],
)
def test_gradients_flow_from_observed_features_to_the_layers_below(feature: Feature, reached: list[bool]) -> None:
    model = make("bert").train()
    _, seen = look(model, [LOGITS, feature], inputs(MASKS["full"]))
    value = seen[feature].key if isinstance(feature, QKV) else seen[feature]
    value.square().sum().backward()
    keys = [layer.attention.self.key.weight.grad for layer in model.bert.encoder.layer]
    assert [grad is not None and bool(grad.abs().sum() > 0) for grad in keys] == reached
    assert model.classifier.weight.grad is None


def test_no_gradient_is_kept_under_no_grad() -> None:
    with torch.no_grad():
        _, seen = look(make("bert"), [Hidden(1), Attention(1)])
    assert not seen[Hidden(1)].requires_grad
    assert not seen[Attention(1)].requires_grad
    assert not seen[Attention(1)].is_inference()


@torch.no_grad()
@pytest.mark.parametrize("name", ["bert", "albert"])
def test_negative_layers_count_from_the_end(name: str) -> None:
    model = make(name)
    _, seen = look(model, [LOGITS, Hidden(-1), QKV(-2), Hidden(-4)])
    _, front = look(model, [LOGITS, Hidden(3), QKV(2), Hidden(0)])
    assert torch.equal(seen[Hidden(-1)], front[Hidden(3)])
    assert seen[Hidden(3)] is seen[Hidden(-1)]
    assert torch.equal(seen[QKV(-2)].value, front[QKV(2)].value)
    assert torch.equal(seen[Hidden(-4)], front[Hidden(0)])


# errors


@pytest.mark.parametrize(("feature", "first"), [(Hidden(4), 0), (QKV(4), 1), (Attention(0), 1), (Scores(-4), 1)])
def test_a_layer_that_is_not_there_is_one_sentence(feature: Any, first: int) -> None:
    with pytest.raises(ModelError) as error:
        Observer(make("bert"), [feature], "teacher")
    assert str(error.value) == f"Layer {feature.layer} of the teacher is asked for, but it has layers {first} to 3."


def test_a_feature_that_nobody_observes_says_how_to_ask_for_it() -> None:
    _, seen = look(make("bert"), [Hidden(1)])
    with pytest.raises(ModelError, match=r"is not observed; ask for it in setup: stage\.observe\(teacher="):
        seen[Hidden(2)]
    with pytest.raises(ModelError, match="is not observed"):
        _ = seen.logits


def deberta() -> PreTrainedModel:
    config = AutoConfig.for_model("deberta-v2", **BASE)
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    return model.eval()


@pytest.mark.parametrize("feature", [QKV(1), Scores(1), Attention(1)])
def test_attention_of_deberta_is_refused_before_it_runs(feature: Feature) -> None:
    model = deberta()
    with pytest.raises(ModelError, match="DebertaV2ForSequenceClassification, has its own attention, so its queries"):
        Observer(model, [feature], "teacher")
    assert model.config._attn_implementation == "eager"


@torch.no_grad()
def test_hidden_states_of_deberta_are_observed() -> None:
    model = deberta()
    _, seen = look(model, [LOGITS, *(Hidden(i) for i in range(4))])
    for ours, theirs in zip([seen[Hidden(i)] for i in range(4)], eager_free(model), strict=True):
        assert_near(ours, theirs)


def eager_free(model: PreTrainedModel) -> list[Tensor]:
    return list(model(**inputs(), output_hidden_states=True).hidden_states)


class Deaf(nn.Module):
    """An attention that never calls the attention function."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        return hidden_states, None


@pytest.mark.parametrize("feature", [QKV(2), Scores(2), Attention(2)])
def test_a_model_that_silently_delivers_no_attention_is_an_error(feature: Feature) -> None:
    model = make("bert")
    model.bert.encoder.layer[1].attention.self = Deaf()
    with pytest.raises(ModelError, match=r"did not deliver .*layer=2.*although it ran: its attention"):
        look(model, [LOGITS, Hidden(1), feature])


def test_a_layer_that_is_skipped_is_an_error() -> None:
    model = make("bert")
    layers = model.bert.encoder.layer
    observer = Observer(model, [LOGITS, Hidden(3)], "student")
    model.bert.encoder.layer = nn.ModuleList(layers[:2])
    with pytest.raises(ModelError, match=r"did not deliver Hidden\(layer=3\), although it ran: that part"):
        observer(inputs())
    observer.close()


# nobody pays for what nobody looks at


@pytest.mark.parametrize(
    ("features", "calls"),
    [
        ([Hidden(0)], [0, 0, 0]),
        ([Hidden(1)], [1, 0, 0]),
        ([Hidden(0), Hidden(2)], [1, 1, 0]),
        ([Hidden(2), QKV(1)], [1, 1, 0]),
        ([Attention(2)], [1, 0, 0]),  # stops inside the second layer, once its scores are there
        ([LOGITS, Hidden(1)], [1, 1, 1]),
    ],
)
def test_the_teacher_stops_above_the_highest_layer_observed(features: list[Feature], calls: list[int]) -> None:
    model = make("bert")
    observer = Observer(model, features, "teacher")
    # Hooks run in order: a layer is counted only where the observer's own hook let it pass, so count its inside.
    with counted(*(layer.output for layer in model.bert.encoder.layer), model.classifier, model.bert.pooler) as seen:
        raw, _ = observer(inputs())
    observer.close()
    assert seen[:3] == calls
    assert seen[3:] == ([1, 1] if LOGITS in features else [0, 0])
    assert (raw is None) == (LOGITS not in features)


def test_a_pooled_output_alone_runs_no_head() -> None:
    model = make("bert")
    with counted(model.classifier) as seen:
        raw, _ = look(model, [POOLED])
    assert (raw, seen) == (None, [0])


@torch.no_grad()
def test_shared_layers_stop_too() -> None:
    model = make("albert")
    with counted(model.albert.encoder.albert_layer_groups[0].albert_layers[0].ffn, model.classifier) as seen:
        look(model, [Hidden(2)])
    assert seen == [2, 0]


def test_only_logits_install_no_hook_and_leave_the_attention_alone() -> None:
    model = make("bert")
    observer = Observer(model, [LOGITS], "student")
    assert hooks(model) == 0
    assert model.config._attn_implementation == "sdpa"
    raw, _ = observer(inputs())
    assert torch.equal(raw.logits, model(**inputs()).logits)
    observer.close()


def test_hidden_states_hook_one_layer_and_leave_the_attention_alone() -> None:
    model = make("bert")
    observer = Observer(model, [LOGITS, Hidden(2)], "student")
    assert [hooks(layer) for layer in model.bert.encoder.layer] == [0, 2, 0]
    assert hooks(model) == 2
    assert model.config._attn_implementation == "sdpa"
    observer.close()


# closing


@pytest.mark.parametrize("before", ["sdpa", "eager"])
def test_closing_leaves_no_hook_and_gives_the_attention_back(before: str) -> None:
    model = make("bert")
    model.set_attn_implementation(before)
    observer = Observer(model, [POOLED, Hidden(1), QKV(2)], "teacher")
    assert model.config._attn_implementation == ATTENTION
    observer(inputs())
    observer.close()
    assert hooks(model) == 0
    assert model.config._attn_implementation == before
    observer.close()
    assert model.config._attn_implementation == before


def test_two_observers_of_one_model_close_in_reverse_order() -> None:
    model = make("bert")
    first, second = Observer(model, [QKV(1)], "teacher"), Observer(model, [LOGITS, Scores(2)], "student")
    _, one = first(inputs())
    _, two = second(inputs())
    assert set(one._values) == {QKV(1)}
    assert set(two._values) == {Scores(2)}
    second.close()
    first.close()
    assert hooks(model) == 0
    assert model.config._attn_implementation == "sdpa"


class Broken(nn.Module):
    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        raise RuntimeError("broken on purpose")


def test_after_an_exception_inside_the_forward_the_model_is_as_before() -> None:
    model = make("bert")
    whole, expected = model.bert.encoder.layer[1].output, model(**inputs()).logits
    observer = Observer(model, [LOGITS, QKV(1), Hidden(2)], "teacher")
    model.bert.encoder.layer[1].output = Broken()
    with pytest.raises(RuntimeError, match="broken on purpose"):
        observer(inputs())
    model.bert.encoder.layer[1].output = whole
    _, seen = observer(inputs())
    assert seen[QKV(1)].query.shape == (3, 4, 7, 8)
    observer.close()
    assert hooks(model) == 0
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(model(**inputs()).logits, expected)


def test_a_run_outside_the_observer_notes_nothing() -> None:
    model = make("bert")
    observer = Observer(model, [Hidden(1), QKV(1)], "teacher")
    assert model(**inputs()).logits.shape == (3, 3)
    assert observer._values == {}
    observer.close()


def test_logits_of_the_task_are_added_to_the_outputs() -> None:
    raw, seen = look(make("bert"), [LOGITS, Hidden(1)])
    whole = seen.with_logits(raw.logits)
    assert whole.logits is raw.logits
    assert whole[Hidden(1)] is seen[Hidden(1)]
    assert whole.mask is seen.mask
