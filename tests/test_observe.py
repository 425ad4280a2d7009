"""The observer: what it refuses, where it stops, and that it leaves the model as it was."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from potstill.errors import ModelError
from potstill.features import LOGITS, POOLED, QKV, Attention, Feature, Hidden, Scores
from potstill.observe import ATTENTION, Observer
from tests.observing import BASE, MASKS, assert_near, inputs, look, make


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
