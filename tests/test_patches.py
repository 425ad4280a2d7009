"""Patches: what they write, where gradients go through them, and that a pass with them leaves the model as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from potstill.errors import ModelError, ShapeError
from potstill.features import LOGITS, QKV, Attention, Hidden
from potstill.models import Model
from potstill.observe import Observer, Outputs
from potstill.patches import Patch, head_columns, patched
from potstill.plugin import LossTerm, Plugin, hookimpl
from potstill.shares import shares
from potstill.stage import Stage, count_hooks
from potstill.step import Step
from potstill.testing import stage_of
from potstill.testing.tiny import recipe
from potstill.tokenizers import load_tokenizer
from tests.observing import BASE, CONFIGS, MASKS, assert_near, inputs, make

FULL = inputs(MASKS["full"])
OTHER = {**FULL, "input_ids": FULL["input_ids"].flip(0)}


def places(rows: list[int], positions: list[int]) -> dict[str, Tensor]:
    return {"rows": torch.tensor(rows), "positions": torch.tensor(positions)}


def everywhere(value: Tensor, layer: int) -> Patch:
    """A patch over the whole output of a layer."""
    rows, positions = torch.meshgrid(torch.arange(value.shape[0]), torch.arange(value.shape[1]), indexing="ij")
    return Patch(layer, rows.reshape(-1), positions.reshape(-1), value.flatten(0, 1))


# what is written


def test_a_patch_writes_its_columns_at_its_places_and_nothing_else() -> None:
    hidden = torch.zeros(2, 3, 4)
    value = torch.arange(1.0, 5).reshape(2, 2)
    written = patched(hidden, [Patch(1, **places([0, 1], [2, 0]), value=value, start=1, stop=3)], "student")
    expected = torch.zeros(2, 3, 4)
    expected[0, 2, 1:3], expected[1, 0, 1:3] = value[0], value[1]
    assert torch.equal(written, expected)
    assert not hidden.any()


def test_a_later_patch_of_one_layer_writes_over_an_earlier_one() -> None:
    first = Patch(1, **places([0], [0]), value=torch.ones(1, 4))
    second = Patch(1, **places([0], [0]), value=torch.full((1, 2), 2.0), stop=2)
    assert patched(torch.zeros(1, 1, 4), [first, second], "student").tolist() == [[[2, 2, 1, 1]]]


def test_gradients_reach_the_value_and_what_stays() -> None:
    hidden = torch.ones(1, 2, 2, requires_grad=True)
    value = torch.ones(1, 1, requires_grad=True)
    weights = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    patch = Patch(1, **places([0], [1]), value=value, start=1)
    (patched(hidden, [patch], "student") * weights).sum().backward()
    assert hidden.grad is not None
    assert value.grad is not None
    assert hidden.grad.tolist() == [[[1, 2], [3, 0]]]
    assert value.grad.tolist() == [[4]]


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"value": torch.ones(1, 5)}, "rows [1], positions [1] and value [1, 5], where [1], [1] and [1, 4] fit"),
        ({**places([0], [0, 1]), "value": torch.ones(1, 4)}, "rows [1], positions [2] and value [1, 4]"),
        ({"value": torch.ones(1, 2), "start": 3, "stop": 5}, "over columns 3 to 5 of layer 2 of the student, which"),
        ({"value": torch.ones(1, 0), "start": 2, "stop": 2}, "over columns 2 to 2 of layer 2"),
        ({**places([2], [0]), "value": torch.ones(1, 4)}, "a place that is not there: the batch has 2 rows of 3"),
        ({**places([0], [3]), "value": torch.ones(1, 4)}, "a place that is not there"),
        ({**places([0], [-1]), "value": torch.ones(1, 4)}, "a place that is not there"),
    ],
)
def test_a_patch_that_does_not_fit_is_one_sentence(told: dict[str, Any], message: str) -> None:
    with pytest.raises(ShapeError) as error:
        patched(torch.zeros(2, 3, 4), [Patch(2, **{**places([0], [0]), **told})], "student")
    assert message in str(error.value)


def test_whole_heads_are_one_range_and_parts_of_heads_one_a_head() -> None:
    assert head_columns((1, 3), 4) == ((4, 12),)
    assert head_columns((1, 3), 4, (0, 4)) == ((4, 12),)
    assert head_columns((0, 2), 4, (1, 3)) == ((1, 3), (5, 7))
    with pytest.raises(ShapeError, match="Heads 2 to 2 are no range"):
        head_columns((2, 2), 4)
    with pytest.raises(ShapeError, match="Dimensions 0 to 5 are no range within a head, which has 4"):
        head_columns((0, 1), 4, (0, 5))


# every architecture


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_a_layer_of_another_input_written_over_the_whole_makes_that_inputs_output(name: str) -> None:
    model = make(name, initializer_range=0.1)
    count = model.config.num_hidden_layers
    observer = Observer(model, [LOGITS, *(Hidden(i) for i in range(count + 1))], "teacher")
    raw, seen = observer(OTHER)
    plain, _ = observer(FULL)
    for layer in range(count + 1):
        answer, features = observer(FULL, [everywhere(seen[Hidden(layer)], layer)])
        assert_near(answer.logits, raw.logits)
        assert torch.equal(features[Hidden(layer)], seen[Hidden(layer)])
        assert not torch.allclose(answer.logits, plain.logits, atol=1e-4)
    observer.close()
    assert count_hooks(model) == 0


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_layers_that_nobody_observes_are_patched_by_hooks_for_the_one_pass(name: str) -> None:
    model = make(name, initializer_range=0.1)
    watching = Observer(model, [LOGITS, Hidden(0), Hidden(1), Hidden(-1)], "teacher")
    raw, seen = watching(OTHER)
    watching.close()
    observer = Observer(model, [LOGITS], "student")
    plain, _ = observer(FULL)
    for layer in (0, 1, -1):
        answer, _ = observer(FULL, [everywhere(seen[Hidden(layer)], layer)])
        assert_near(answer.logits, raw.logits)
        assert count_hooks(model) == 0
    assert torch.equal(observer(FULL)[0].logits, plain.logits)


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_a_pass_that_ends_early_gives_the_same_below_and_says_what_is_missing(name: str) -> None:
    model = make(name, initializer_range=0.1)
    count = model.config.num_hidden_layers
    observer = Observer(model, [LOGITS, *(Hidden(i) for i in range(count + 1)), Attention(2)], "teacher")
    _, whole = observer(FULL)
    for until in range(count + 1):
        raw, seen = observer(FULL, until=until)
        assert raw is None
        assert all(torch.equal(seen[Hidden(layer)], whole[Hidden(layer)]) for layer in range(until + 1))
        missing = [LOGITS, *(Hidden(layer) for layer in range(until + 1, count + 1))]
        for feature in missing:
            with pytest.raises(ModelError, match=f"was not computed, since this pass ended after layer {until}"):
                seen[feature]
    assert torch.equal(observer(FULL, until=-1)[1][Attention(2)], whole[Attention(2)])
    observer.close()


@torch.no_grad()
def test_a_pass_never_runs_above_what_is_observed() -> None:
    model = make("bert")
    calls: list[int] = []
    for number, layer in enumerate(model.bert.encoder.layer, 1):
        layer.output.register_forward_hook(lambda *_, number=number: calls.append(number))
    logits, inner = Observer(model, [LOGITS], "student"), Observer(model, [Hidden(1)], "teacher")
    logits(FULL, until=2)
    inner(FULL, until=3)
    inner(FULL, [everywhere(torch.zeros(3, 7, 32), 3)])
    logits(FULL, until=0)
    assert calls == [1, 2, 1, 1]
    inner.close()


@pytest.mark.parametrize("what", [{"patches": [Patch(4, **places([0], [0]), value=torch.ones(1, 32))]}, {"until": 4}])
def test_a_layer_that_is_not_there_is_told_and_leaves_the_observer_whole(what: dict[str, Any]) -> None:
    model = make("bert")
    observer = Observer(model, [LOGITS, Hidden(1)], "student")
    expected = observer(FULL)[0].logits
    with pytest.raises(ModelError, match="Layer 4 of the student is asked for, but it has layers 0 to 3"):
        observer(FULL, **what)
    broken = Patch(2, **places([0], [0]), value=torch.ones(1, 31))
    with pytest.raises(ShapeError):
        observer(FULL, [broken], until=3)
    assert count_hooks(model) == 2  # of the observed layer
    assert torch.equal(observer(FULL)[0].logits, expected)
    observer.close()


# gradients, against a forward pass written out


def layer_forward(layer: Any, hidden: Tensor) -> Tensor:
    """A BERT layer without dropout and padding, of transformers' own weights."""
    attention, output = layer.attention.self, layer.attention.output
    query, key, value = (
        F.linear(hidden, part.weight, part.bias).unflatten(-1, (4, 8)).transpose(1, 2)
        for part in (attention.query, attention.key, attention.value)
    )
    mixed = ((query @ key.mT / 8**0.5).softmax(-1) @ value).transpose(1, 2).flatten(2)
    attended = F.linear(mixed, output.dense.weight, output.dense.bias)
    hidden = F.layer_norm(attended + hidden, (32,), output.LayerNorm.weight, output.LayerNorm.bias, 1e-12)
    inner = F.gelu(F.linear(hidden, layer.intermediate.dense.weight, layer.intermediate.dense.bias))
    outer = F.linear(inner, layer.output.dense.weight, layer.output.dense.bias)
    return F.layer_norm(outer + hidden, (32,), layer.output.LayerNorm.weight, layer.output.LayerNorm.bias, 1e-12)


def by_hand(model: Any, layer: int, columns: slice) -> Tensor:
    """The head's output where columns of layer `layer` at (0, 1) and (2, 4) come from the other input's (1, 3), (2, 0).

    The other input runs below the layer only, and the gradient reaches it.
    """
    base = model.bert.embeddings(input_ids=FULL["input_ids"])
    source = model.bert.embeddings(input_ids=OTHER["input_ids"])
    for below in model.bert.encoder.layer[:layer]:
        base, source = layer_forward(below, base), layer_forward(below, source)
    rows = [row.clone() for row in base.flatten(0, 1)]
    for (row, position), (its_row, its_position) in (((0, 1), (1, 3)), ((2, 4), (2, 0))):
        old = rows[row * 7 + position]
        new = source[its_row, its_position]
        rows[row * 7 + position] = torch.cat([old[: columns.start], new[columns], old[columns.stop :]])
    hidden = torch.stack(rows).unflatten(0, (3, 7))
    for above in model.bert.encoder.layer[layer:]:
        hidden = layer_forward(above, hidden)
    return model.classifier(model.bert.pooler(hidden))  # type: ignore[no-any-return]


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
def test_gradients_are_those_of_a_forward_pass_written_out(layer: int) -> None:
    model = make("bert").double()
    columns = slice(*head_columns((1, 3), 8)[0])
    by_hand(model, layer, columns).square().sum().backward()
    expected = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    observer = Observer(model, [LOGITS, Hidden(layer)], "student")
    _, source = observer(OTHER, until=layer)
    value = source[Hidden(layer)][torch.tensor([1, 2]), torch.tensor([3, 0]), columns]
    patch = Patch(layer, **places([0, 2], [1, 4]), value=value, start=columns.start, stop=columns.stop)
    raw, _ = observer(FULL, [patch])
    raw.logits.square().sum().backward()
    found = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-12, rtol=1e-9)
    observer.close()


# within a step


class Watcher(Plugin):
    """Looks at both models, so that its stage has observers."""

    name = "watcher"
    provides = frozenset({"objective"})

    @hookimpl
    def setup(self, stage: Stage) -> None:
        stage.observe(teacher=[LOGITS, Hidden(1)], student=[Hidden(1)])

    @hookimpl
    def compute_loss(self, step: Step) -> list[LossTerm]:
        return [LossTerm("logits", step.student().logits.square().mean())]


@pytest.fixture
def step(data: Path, tmp_path: Path) -> Any:
    words = load_tokenizer("vocab.txt", data)
    given = {side: Model(make("bert"), words) for side in ("teacher", "student")}
    tables = recipe()
    tables["stage"] = tables["stage"][1:]
    stage = stage_of(tables, data, tmp_path, plugins=[Watcher(Watcher.Config())], given=given)
    with stage.exit:
        rows = stage.examples("train")
        assert rows is not None
        batch = rows.batch([0, 1, 2])
        yield Step(stage, batch, shares([batch], stage.units), 0, 0)


def test_a_run_is_computed_once_for_its_batch_patches_and_end(step: Step) -> None:
    other = step.stage.examples("train").batch([3, 4, 5])  # type: ignore[union-attr]
    for side in (step.student, step.teacher):
        source = side(other, until=1)
        assert side(other, until=1) is source
        patch = Patch(1, **places([0], [1]), value=source[Hidden(1)][:1, 0])
        twin = Patch(1, **places([0], [1]), value=source[Hidden(1)][:1, 0])
        runs: list[Outputs] = [side(), side(patches=[patch]), side(patches=(twin,)), side(until=1), side(other)]
        assert len({id(run) for run in runs}) == 5
        assert side(patches=(patch,)) is runs[1]
        assert torch.equal(runs[1][Hidden(1)][0, 1], source[Hidden(1)][0, 0])
        assert torch.equal(runs[1].logits, runs[2].logits) or side == step.student  # the student has dropout
        assert not torch.equal(runs[0].logits[0], runs[1].logits[0])
        assert runs[1].logits.requires_grad == (side == step.student)
    assert count_hooks(step.stage.student.module) == 2  # of the observed layer


def test_a_pass_forgets_the_students_patched_runs_and_a_step_the_teachers(step: Step) -> None:
    patch = Patch(0, **places([0], [0]), value=torch.zeros(1, BASE["hidden_size"]))
    learnt, known = step.student(patches=[patch]), step.teacher(patches=[patch])
    step.gradients()
    assert step.student(patches=[patch]) is not learnt
    assert step.teacher(patches=[patch]) is known
    step.release()
    assert step.teacher(patches=[patch]) is not known


def test_logits_known_beforehand_are_only_for_the_whole_run_of_the_steps_batch(step: Step) -> None:
    known = torch.arange(96.0)[:, None].expand(96, 3)
    step.stage._known_logits = known
    assert step.teacher().logits.tolist() == known[:3].tolist()
    patch = Patch(1, **places([0], [0]), value=torch.zeros(1, BASE["hidden_size"]))
    assert step.teacher(patches=[patch]).logits.abs().max() < 1
    with pytest.raises(ModelError, match="LOGITS|logits"):
        _ = step.teacher(until=1).logits


def test_a_patch_for_several_teachers_at_once_is_refused(data: Path, tmp_path: Path) -> None:
    tables = recipe()
    table = {**tables.pop("teacher"), "tokenizer": "vocab.txt"}
    tables["stage"] = [{**tables["stage"][1], "teachers": {"one": table, "two": table}}]
    stage = stage_of(tables, data, tmp_path)
    with stage.exit:
        stage.observe(teacher=[LOGITS])
        rows = stage.examples("train")
        assert rows is not None
        batch = rows.batch([0, 1])
        step = Step(stage, batch, shares([batch], stage.units), 0, 0)
        patch = Patch(1, **places([0], [0]), value=torch.zeros(1, 32))
        for what in ({"patches": [patch]}, {"until": 1}):
            with pytest.raises(ModelError, match="has the teachers one, two; say with of= which one is patched"):
                step.teacher(**what)
        one = step.teacher(of="one", patches=[patch])
        assert not torch.equal(one.logits[0], step.teacher(of="one").logits[0])
        assert torch.equal(one.logits[1], step.teacher(of="one").logits[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_a_patch_takes_on_the_numbers_of_the_layer(dtype: torch.dtype) -> None:
    model = make("bert")
    observer = Observer(model, [LOGITS, Hidden(2), QKV(3)], "student")
    with torch.autocast("cpu", dtype):
        _, source = observer(OTHER, until=2)
        raw, seen = observer(FULL, [everywhere(source[Hidden(2)], 2)])
        expected, _ = observer(OTHER)
    assert torch.equal(raw.logits, expected.logits)
    seen[QKV(3)].key.sum().backward()
    assert model.bert.encoder.layer[0].output.dense.weight.grad.abs().sum() > 0
    observer.close()
