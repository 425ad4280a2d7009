"""Making the hybrid of a predecessor and a student with fewer layers, and taking the student out again."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from potstill.errors import ModelError
from potstill.layers import Layers, layer_pairs
from potstill.models import Model, student_from_layers
from potstill.tasks import Task
from potstill_theseus.config import Start
from potstill_theseus.modules import Replaceable

PROBE = 8
"""Tokens of the row that shows whether the hybrid is the predecessor."""


def successor(predecessor: Model, layers: int | None, start: Start, task: Task) -> Model:
    """A model of the predecessor's kind with fewer layers, everything outside the layers copied.

    Args:
        layers: how many; None: half, or the largest divisor of an odd number.

    Raises:
        ModelError: the number does not divide the predecessor's, or this model has no layers to pick.
    """
    module = predecessor.module
    known = _layers_of(module)
    count = _largest_divisor(known.count) if layers is None else layers
    _check_count(count, known.count, f"theseus.layers = {count}")
    pairs = layer_pairs("uniform" if start == "spread" else "first", count, known.count)
    made = student_from_layers(predecessor, [layer for _, layer in pairs], task, {})
    if start == "random":
        inner: Any = made.module
        for layer, fresh in zip(Layers.of(inner).modules, Layers.of(type(inner)(inner.config)).modules, strict=True):
            layer.load_state_dict(fresh.state_dict())
    return made


def replaceable(student: Any, predecessor: Any) -> tuple[Replaceable, ...]:
    """Puts the predecessor's layers beside the student's, in place: module i holds the i-th run of them.

    Raises:
        ModelError: the student is not the predecessor with fewer layers, or layers cannot stand in for one another.
    """
    own, known = Layers.of(student), _layers_of(predecessor)
    if type(student) is not type(predecessor):
        raise ModelError(
            f"theseus replaces layers of the teacher by the student's, and the teacher is a "
            f"{type(predecessor).__name__} and the student a {type(student).__name__}; leave [student] out."
        )
    _check_count(own.count, known.count, f"The student has {own.count} layers, which")
    _check_outside(student, predecessor, own.name)
    run = known.count // own.count
    runs = [range(first, first + run) for first in range(0, known.count, run)]
    _check_kinds(student, predecessor, runs)
    if any(getattr(part, "is_causal", False) for part in student.modules()):
        student.config.use_cache = False  # a decoder's: it goes by the number of a layer, and there are more
    # The copies read the student's config, as its own layers do: it says how attention is computed.
    layers = copy.deepcopy(known.modules, {id(predecessor.config): student.config})
    modules = tuple(
        Replaceable([layers[i] for i in numbers], layer) for numbers, layer in zip(runs, own.modules, strict=True)
    )
    _put(student, own.name, modules)
    _check_same(student, predecessor, modules)
    return modules


def plain(student: nn.Module) -> nn.Module:
    """The student with its own layers alone, in place; one that is no hybrid stays as it is."""
    own = Layers.of(student)
    _put(student, own.name, [part.successor if isinstance(part, Replaceable) else part for part in own.modules])
    return student


def outside(student: nn.Module) -> list[Tensor]:
    """The parameters of all that is no layer: embeddings, last norm, pooler, head."""
    inside = {id(value) for layer in Layers.of(student).modules for value in layer.parameters()}
    return [value for value in student.parameters() if id(value) not in inside]


def _put(student: nn.Module, name: str, layers: Any) -> None:
    holder: Any = student.get_submodule(name)
    for number, layer in enumerate(layers):
        holder[number] = layer


def _layers_of(predecessor: nn.Module) -> Layers:
    found = Layers.of(predecessor)
    two_halves = getattr(getattr(predecessor, "config", None), "is_encoder_decoder", False)
    if found.count < 2 or two_halves:
        has = "has two lists of layers" if two_halves else "has one layer" if found.count else "has no list of layers"
        raise ModelError(f"theseus replaces runs of the teacher's layers, and this {type(predecessor).__name__} {has}.")
    if found.shared:
        raise ModelError(
            f"The layers of a {type(predecessor).__name__} share their weights, so theseus cannot replace them one by "
            "one."
        )
    return found


def _largest_divisor(count: int) -> int:
    return next(number for number in range(count // 2, 0, -1) if count % number == 0)


def _check_count(own: int, known: int, what: str) -> None:
    if own >= known or known % own:
        possible = ", ".join(str(number) for number in range(1, known) if known % number == 0)
        raise ModelError(f"{what} does not cut the teacher's {known} layers into equal runs; possible: {possible}.")


def _check_outside(student: nn.Module, predecessor: nn.Module, layers: str) -> None:
    """Both parts run on the same embeddings and into the same head."""
    own, known = (
        {name: value for name, value in module.state_dict().items() if not name.startswith(f"{layers}.")}
        for module in (student, predecessor)
    )
    for name in sorted(own.keys() | known.keys()):
        if name in own and name in known and torch.equal(own[name], known[name]):
            continue
        raise ModelError(
            f"theseus needs a student that is the teacher but for its layers, and another {name} is in this one; leave "
            "[student] out, or take layers of the teacher."
        )


def _check_kinds(student: Any, predecessor: Any, runs: list[range]) -> None:
    """What a config lists layer by layer (the kind of attention) is what an encoder feeds that layer with."""
    own, known = student.config.to_dict(), predecessor.config.to_dict()
    for key in known:
        if not (key.endswith("layer_types") and known[key]):
            continue
        for kind, numbers in zip(own[key], runs, strict=True):
            kinds = {known[key][number] for number in numbers}
            if kinds != {kind}:
                raise ModelError(
                    f"Layers {numbers[0] + 1} to {numbers[-1] + 1} of the teacher are of the kinds "
                    f"{', '.join(sorted(kinds))} and the layer to stand in for them is {kind}, so theseus cannot "
                    f"replace layers of this {type(predecessor).__name__}."
                )


@torch.no_grad()
def _check_same(student: nn.Module, predecessor: nn.Module, modules: tuple[Replaceable, ...]) -> None:
    """With nothing replaced the hybrid must be the predecessor; an encoder may do more between its layers."""
    device = next(student.parameters()).device
    row = torch.arange(1, PROBE + 1, device=device)[None]
    with _calm(student), _calm(predecessor):
        for module in modules:
            module.training, module.replaced = True, False
        own, known = (_hidden(part, row) for part in (student, predecessor))
    for module in modules:
        module.replaced = True
    if not torch.allclose(own, known, rtol=1e-4, atol=1e-4):
        raise ModelError(
            f"A {type(predecessor).__name__} with these settings does more than run its layers one after the other, so "
            "theseus cannot replace them."
        )


def _hidden(module: nn.Module, row: Tensor) -> Tensor:
    base: Any = getattr(module, "base_model", module)
    output: Tensor = base(input_ids=row, attention_mask=torch.ones_like(row))[0]
    return output


@contextmanager
def _calm(module: nn.Module) -> Iterator[None]:
    """Eval mode, and every part's own mode again afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
