"""The hybrid on many architectures: eval is the student, kept is the predecessor, what learns is reached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from potstill_theseus.hybrid import outside, plain, replaceable, successor
from potstill_theseus.modules import Replaceable, move_unsampled
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from potstill.errors import ModelError, PluginError
from potstill.layers import Layers
from potstill.models import Model
from potstill.recipe import TaskConfig
from potstill.tasks import load_task
from tests.observing import BASE, CONFIGS, NARROW, inputs

TASK = load_task(TaskConfig(labels=["a", "b", "c"]), None)
RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8, "share_att_key": True}
KINDS: dict[str, dict[str, Any]] = {
    **{name: CONFIGS[name] for name in ("bert", "roberta", "distilbert", "electra", "mobilebert", "ernie", "qwen2")},
    "xlm-roberta": BASE,
    "deberta-v2": {**BASE, **RELATIVE},
    "modernbert": {**CONFIGS["modernbert"], "global_attn_every_n_layers": 1},
    "eurobert": {**BASE, "bos_token_id": 1, "eos_token_id": 2, "mask_token_id": 4},
    "gpt2": {"vocab_size": 50, "n_embd": 32, "n_layer": 4, "n_head": 4, "num_labels": 3, "pad_token_id": 0},
    "convbert": NARROW,
}


def teacher(kind: str, layers: int = 4, **more: Any) -> Any:
    torch.manual_seed(0)
    settings = {
        key: value for key, value in KINDS.get(kind, BASE).items() if key not in ("num_hidden_layers", "n_layers")
    }
    config = AutoConfig.for_model(kind, **{**settings, "num_hidden_layers": layers, **more})
    return AutoModelForSequenceClassification.from_config(config).eval().requires_grad_(False)


def hybrid(kind: str, layers: int = 4, own: int | None = None, **more: Any) -> tuple[Any, Any, tuple[Replaceable, ...]]:
    """Predecessor, hybrid and its modules; only the successor's layers learn, and none is like the predecessor's."""
    predecessor = teacher(kind, layers, **more)
    student: Any = successor(Model(predecessor, None), own, "random", TASK).module  # type: ignore[arg-type]
    modules = replaceable(student, predecessor)
    for parameter in [*outside(student), *(value for module in modules for value in module.predecessor.parameters())]:
        parameter.requires_grad_(False)
    return predecessor, student, modules


def logits(module: Any, **more: Any) -> Tensor:
    found: Tensor = module(**inputs(), **more).logits
    return found


def calm(student: nn.Module, modules: tuple[Replaceable, ...], *replaced: bool | Tensor) -> None:
    """Train mode for the draw alone: no dropout."""
    student.eval()
    for module, which in zip(modules, replaced, strict=True):
        module.training, module.replaced = True, which


@pytest.mark.parametrize("kind", KINDS)
def test_any_encoder_with_a_list_of_layers_is_replaced(kind: str, tmp_path: Path) -> None:
    predecessor, student, modules = hybrid(kind)
    assert (Layers.of(student).count, Layers.of(student).modules) == (2, modules)
    calm(student, modules, False, False)
    torch.testing.assert_close(logits(student), logits(predecessor), rtol=1e-5, atol=1e-6)

    # Kept on top, replaced below: the gradient goes through the kept layers.
    calm(student, modules, True, False)
    logits(student).square().sum().backward()
    assert all(value.grad is None for value in modules[1].successor.parameters())
    assert any(value.grad is not None and value.grad.abs().sum() > 0 for value in modules[0].successor.parameters())

    # Every row goes its own way.
    each = {which: _drawn(student, modules, which) for which in ((True, True), (False, True), (True, False))}
    rows = torch.tensor([[True, True], [False, True], [True, False]])
    calm(student, modules, *rows.T)
    mixed = logits(student)
    for row, which in enumerate(each):
        torch.testing.assert_close(mixed[row], each[which][row], rtol=1e-5, atol=1e-6)

    evaluated = logits(student.eval())
    finished = plain(student)
    assert not any(isinstance(part, Replaceable) for part in finished.modules())
    assert torch.equal(logits(finished), evaluated)
    finished.save_pretrained(tmp_path)  # type: ignore[operator]
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert type(loaded) is type(predecessor)
    assert torch.equal(logits(loaded), evaluated)


def _drawn(student: nn.Module, modules: tuple[Replaceable, ...], which: tuple[bool, ...]) -> Tensor:
    calm(student, modules, *which)
    return logits(student).detach()


def test_modules_are_runs_of_the_predecessor_s_layers_and_start_as_asked() -> None:
    predecessor = teacher("bert", 6)
    known = [layer.output.dense.weight for layer in predecessor.bert.encoder.layer]
    starts = {"bottom": [0, 1, 2], "spread": [1, 3, 5]}
    for start, numbers in starts.items():
        student: Any = successor(Model(predecessor, None), None, start, TASK).module  # type: ignore[arg-type]
        modules = replaceable(student, predecessor)
        runs = [[layer.output.dense.weight for layer in module.predecessor] for module in modules]  # type: ignore[union-attr]
        assert all(torch.equal(a, b) for a, b in zip([w for run in runs for w in run], known, strict=True))
        assert [len(run) for run in runs] == [2, 2, 2]
        for module, number in zip(modules, numbers, strict=True):
            assert torch.equal(module.successor.output.dense.weight, known[number])  # type: ignore[union-attr, arg-type]
    random: Any = successor(Model(predecessor, None), 2, "random", TASK).module  # type: ignore[arg-type]
    layers = random.bert.encoder.layer
    assert len(layers) == 2
    assert not any(torch.equal(layer.output.dense.weight, weight) for layer in layers for weight in known)
    assert torch.equal(
        random.bert.embeddings.word_embeddings.weight, predecessor.bert.embeddings.word_embeddings.weight
    )


@pytest.mark.parametrize(("layers", "own"), [(2, 1), (3, 1), (4, 2), (6, 3), (7, 1), (9, 3), (12, 6)])
def test_left_alone_the_successor_has_the_largest_part_of_the_layers_that_divides_them(layers: int, own: int) -> None:
    student = successor(Model(teacher("bert", layers), None), None, "bottom", TASK).module  # type: ignore[arg-type]
    assert Layers.of(student).count == own


@pytest.mark.parametrize(
    ("kind", "more", "own", "sentence"),
    [
        ("bert", {"layers": 6}, 4, "layers = 4 does not cut the teacher's 6 layers into equal runs; possible: 1, 2, 3"),
        ("bert", {"layers": 6}, 6, "theseus.layers = 6 does not cut"),
        ("bert", {"layers": 1}, None, "this BertForSequenceClassification has one layer"),
        ("albert", NARROW, None, "share their weights"),
        ("modernbert", {"global_attn_every_n_layers": 3}, None, "of the kinds full_attention, sliding_attention"),
        ("deberta-v2", {"conv_kernel_size": 3}, None, "does more than run its layers one after the other"),
        ("bart", {"d_model": 32, "encoder_layers": 4, "decoder_layers": 4}, None, "has two lists of layers"),
    ],
)
def test_what_cannot_be_replaced_is_one_sentence(
    kind: str, more: dict[str, Any], own: int | None, sentence: str
) -> None:
    predecessor = teacher(kind, **more)

    def make() -> None:
        replaceable(successor(Model(predecessor, None), own, "bottom", TASK).module, predecessor)  # type: ignore[arg-type]

    with pytest.raises(ModelError) as caught:
        make()
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_teacher_without_a_list_of_layers_is_refused() -> None:
    with pytest.raises(ModelError, match="this Linear has no list of layers"):
        successor(Model(nn.Linear(2, 2), None), None, "bottom", TASK)  # type: ignore[arg-type]


def test_a_student_that_is_another_model_is_refused() -> None:
    predecessor = teacher("bert")
    other: Any = successor(Model(predecessor, None), 2, "bottom", TASK).module  # type: ignore[arg-type]
    other.bert.embeddings.word_embeddings.weight.data.add_(1)
    with pytest.raises(ModelError, match="another bert.embeddings.word_embeddings.weight is in this one"):
        replaceable(other, predecessor)
    with pytest.raises(ModelError, match="is a BertForSequenceClassification and the student a RobertaFor"):
        replaceable(teacher("roberta", 2), predecessor)


def test_with_everything_kept_an_anchor_lets_the_loss_have_a_gradient_that_reaches_nothing() -> None:
    _, student, modules = hybrid("bert")
    calm(student, modules, False, False)
    assert not logits(student).requires_grad
    modules[0].anchored = True
    logits(student).sum().backward()
    assert all(value.grad is None for value in student.parameters())
    with torch.no_grad():
        assert not logits(student).requires_grad


def test_a_pass_with_other_rows_than_were_drawn_for_is_refused() -> None:
    _, student, modules = hybrid("bert")
    calm(student, modules, torch.tensor([True, False]), True)
    with pytest.raises(PluginError, match="drew for the 2 rows of the batch and a pass has 3"):
        logits(student)


def test_unsampled_layers_move_on_only_after_they_were_sampled() -> None:
    _, student, modules = hybrid("bert")
    sampled: set[int] = set()
    calm(student, modules, True, False)
    logits(student).sum().backward()
    move_unsampled(modules, sampled)
    assert sampled == {0}
    assert all(value.grad is None for value in modules[1].successor.parameters())
    student.zero_grad(set_to_none=True)
    move_unsampled(modules, sampled)
    grads = [value.grad for value in modules[0].successor.parameters()]
    assert all(grad is not None and not grad.any() for grad in grads)
