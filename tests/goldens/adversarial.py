"""The plugins `fgm` and `pgd` against utils/attack_utils.py of taishan1994/pytorch_knowledge_distillation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, cast

import torch
import torch.nn.functional as F
from potstill_adversarial.attack import TableAttack
from potstill_adversarial.embedding import find_embedding
from potstill_adversarial.perturbation import TABLE, ascended
from potstill_adversarial.plugin import FGM, PGD, Adversarial
from torch import Tensor, nn

from potstill.batch import EXAMPLE, Batch
from potstill.errors import ModelError
from potstill.shares import Shares
from potstill.stage import Stage
from potstill.step import Pass, Step, Weighed
from tests.goldens.case import Case
from tests.goldens.registry import check


class Bag(nn.Module):
    """The cases' model: a linear head on the tanh of the mean word vector; id 0 is padding."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        words, width = case["model.embedding.weight"].shape
        self.embedding = nn.Embedding(words, width, padding_idx=0)
        self.fc = nn.Linear(width, len(case["model.fc.bias"]))
        self.double()
        self.load_state_dict({name: case[f"model.{name}"] for name in self.state_dict()})

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        real = (input_ids != 0).double()[..., None]
        mean = (self.embedding(input_ids) * real).sum(1) / real.sum(1)
        return cast(Tensor, self.fc(mean.tanh()))

    def gradients(self) -> dict[str, Tensor]:
        """Of every parameter, copied."""
        return {name: cast(Tensor, value.grad).clone() for name, value in self.named_parameters()}


class Passes(Step):
    """A micro-batch of the cases: real isolation, and passes whose losses and shifts of the table are kept."""

    def __init__(self, model: Bag, ids: Tensor, labels: Tensor, scale: float = 1.0) -> None:
        stage = cast(Stage, SimpleNamespace(parameters=list(model.parameters())))
        batch = Batch({"input_ids": ids}, {}, labels, torch.arange(len(labels)))
        super().__init__(stage, batch, Shares((), {}), 0, 0)
        self.model, self.scale = model, scale
        self.table = model.embedding.weight.detach().clone()
        self.losses: list[Tensor] = []
        self.shifts: list[Tensor] = []

    def gradients(self, tag: str = "clean", batch: Batch | None = None) -> Pass:
        loss = F.cross_entropy(self.model(self.batch.student["input_ids"]), self.batch.labels)
        (loss * self.scale).backward()
        self.losses.append(loss.detach())
        self.shifts.append(self.model.embedding.weight.detach() - self.table)
        done = Pass(tag, {"supervised": Weighed(loss.detach(), self.scale, EXAMPLE)})
        self.passes.append(done)
        return done

    def attacked(self, plugin: Adversarial) -> dict[str, Tensor]:
        """The clean gradient; afterwards every parameter's `.grad` is what the plugin makes of it."""
        wrapper = plugin.on_step(self)
        next(wrapper)
        clean = self.gradients()
        found = self.model.gradients()
        with suppress(StopIteration):
            wrapper.send(clean)
        assert torch.equal(self.model.embedding.weight, self.table), "the table is not as it was"
        return found


def plugin_for(cls: type[Adversarial], model: Bag, **options: Any) -> Adversarial:
    """The plugin, attacking a model's table."""
    plugin = cls(cls.Config(**options))
    plugin.attack = TableAttack(model.embedding.weight)
    return plugin


@check("fgm")
def fgm(case: Case) -> Iterator[tuple[str, Tensor]]:
    epsilon, scale = case.params["epsilon"], case.params["loss_scale_check"]
    for factor, mark in ((1.0, ""), (scale, f"_scaled_{scale:.0f}")):
        model = Bag(case)
        step = Passes(model, case["input_ids"], case["labels"], factor)
        clean = step.attacked(plugin_for(FGM, model, epsilon=epsilon))
        yield "out.clean_loss", step.losses[0]
        yield "out.adv_loss", step.losses[1]
        yield f"out.perturbation{mark}", step.shifts[1]
        yield f"out.perturbation{mark}", ascended(None, clean["embedding.weight"], epsilon, epsilon, TABLE)
        yield "out.perturbation_norm", step.shifts[1].norm()
        yield from named("out.grad_clean", {name: value / factor for name, value in clean.items()})
        yield from named(f"out.grad_accumulated{mark}", model.gradients())


@check("pgd")
def pgd(case: Case) -> Iterator[tuple[str, Tensor]]:
    model = Bag(case)
    step = Passes(model, case["input_ids"], case["labels"])
    options = {"epsilon": case.params["epsilon"], "alpha": case.params["alpha"], "steps": case.params["K"]}
    clean = step.attacked(plugin_for(PGD, model, **options))
    yield "out.clean_loss", step.losses[0]
    yield "out.adv_loss_per_step", torch.stack(step.losses[1:])
    yield "out.perturbation_per_step", torch.stack(step.shifts[1:])
    yield "out.perturbation_norm_per_step", torch.stack([shift.norm() for shift in step.shifts[1:]])
    yield from named("out.grad_clean", clean)
    yield from named("out.grad_accumulated", model.gradients())
    assert [done.tag for done in step.passes] == ["clean", "adversarial"], "discarded passes are in the log"


@check("fgm_gradient_accumulation")
def fgm_gradient_accumulation(case: Case) -> Iterator[tuple[str, Tensor]]:
    """The plugin isolates; the class as the reference uses it takes the direction of the running sum."""
    scale = 1 / case.params["loss_divided_by"]
    batches = list(zip(case["input_ids"], case["labels"], strict=True))

    model = Bag(case)
    steps = [Passes(model, *batch, scale) for batch in batches]
    for step in steps:
        step.attacked(plugin_for(FGM, model, epsilon=case.params["epsilon"]))
    yield "out.perturbation_isolated", torch.stack([step.shifts[1] for step in steps])
    yield from named("out.grad_isolated", model.gradients())

    model = Bag(case)
    attack = plugin_for(FGM, model).attack
    shifts = []
    for batch in batches:
        step = Passes(model, *batch, scale)
        with attack.passing() as summed:
            step.gradients()
        with attack.passing(attack.ascended(None, summed, case.params["epsilon"], case.params["epsilon"])):
            step.gradients("adversarial")
        shifts.append(step.shifts[1])
    yield "out.perturbation_naive", torch.stack(shifts)
    yield from named("out.grad_naive", model.gradients())


@check("adversarial_silent_noop")
def adversarial_silent_noop(case: Case) -> Iterator[tuple[str, Tensor]]:
    """Where the name matches nothing, the reference makes its passes and moves nothing; here it is an error."""
    assert refused(Bag(case), case.params["emb_name"]), "a name that matches nothing is taken"
    for name, cls in (("fgm", FGM), ("pgd", PGD)):
        model = Bag(case)
        step = Passes(model, case["input_ids"], case["labels"])
        plugin = plugin_for(cls, model)
        plugin.attack.ascended = lambda *_: None  # type: ignore[method-assign]
        yield from named("out.grad_clean", step.attacked(plugin))
        yield from named(f"out.grad_{name}", model.gradients())


def refused(model: Bag, wanted: str) -> bool:
    """Whether a table that is not there is an error."""
    try:
        find_embedding(model, wanted, "fgm")
    except ModelError:
        return True
    return False


def named(prefix: str, gradients: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Outputs of one kind, a parameter each."""
    return ((f"{prefix}.{name}", value) for name, value in gradients.items())
