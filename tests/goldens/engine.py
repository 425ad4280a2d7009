"""The core's shares and schedule against the references' training loops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from potstill_hinton import losses
from torch import Tensor

from potstill.batch import IGNORED, TARGET, Batch
from potstill.schedule import multiplier
from potstill.shares import shares
from tests.goldens.case import Case
from tests.goldens.registry import check

Loss = Callable[[int, Tensor], Tensor]
"""(number of the micro-batch, weight) -> its mean loss."""


@check("pp_minilm_schedule")
def pp_minilm_schedule(case: Case) -> Iterator[tuple[str, Tensor]]:
    """PaddleNLP's LinearDecayWithWarmup: `start` = 0, so that its first update learns nothing."""
    peak, total = case.params["peak"], case.params["total_steps"]
    for name in case.outputs:
        warmup = case.params[name.removeprefix("lr.")]
        rates = [peak * multiplier("linear", update, total, warmup, start=0.0) for update in range(len(case[name]))]
        yield name, torch.tensor(rates, dtype=torch.float64)


@check("gradient_accumulation")
def gradient_accumulation(case: Case) -> Iterator[tuple[str, Tensor]]:
    temperature = float(case.params["temperature"])
    valid = case["labels"] != case.params["ignore_index"]
    own_labels = case["labels"].where(valid, IGNORED)
    batches = [_batch(labels, mask) for labels, mask in zip(own_labels, case["mask"], strict=True)]

    def logits(micro: int, weight: Tensor) -> Tensor:
        return case["features"][micro][valid[micro]] @ weight.T

    def hard(micro: int, weight: Tensor) -> Tensor:
        return F.cross_entropy(logits(micro, weight), case["labels"][micro][valid[micro]])

    def soft(micro: int, weight: Tensor) -> Tensor:
        return losses.kl(logits(micro, weight), case["teacher_logits"][micro][valid[micro]], temperature)

    yield "out.valid_tokens", torch.tensor([TARGET.count(batch) for batch in batches])
    for name, loss in (("hard", hard), ("soft", soft)):
        yield from _named(f"out.{name}.{{}}_naive", mean_of_means(loss, len(batches), case["weight"]))
        yield from _named(f"out.{name}.{{}}_correct", by_shares(loss, batches, case["weight"]))


def mean_of_means(loss: Loss, count: int, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The references' loop: every micro-batch's mean divided by the number of micro-batches, whatever they hold."""
    weight = weight.clone().requires_grad_(True)
    total = torch.zeros((), dtype=weight.dtype)
    for micro in range(count):
        value = loss(micro, weight) / count
        value.backward()
        total += value.detach()
    return total, _gradient(weight)


def by_shares(loss: Loss, batches: Sequence[Batch], weight: Tensor) -> tuple[Tensor, Tensor]:
    """An update as potstill makes it: every micro-batch's mean times its share of the labels."""
    weight = weight.clone().requires_grad_(True)
    update = shares(batches)
    total = torch.zeros((), dtype=weight.dtype)
    for micro in range(len(batches)):
        if update.count(TARGET, micro):
            value = loss(micro, weight) * update.share(TARGET, micro)
            value.backward()
            total += value.detach()
    return total, _gradient(weight)


def _gradient(weight: Tensor) -> Tensor:
    return torch.zeros_like(weight) if weight.grad is None else weight.grad


def _named(pattern: str, loss_and_gradient: tuple[Tensor, Tensor]) -> Iterator[tuple[str, Tensor]]:
    yield pattern.format("loss"), loss_and_gradient[0]
    yield pattern.format("grad"), loss_and_gradient[1]


def _batch(labels: Tensor, mask: Tensor) -> Batch:
    inputs = {"input_ids": torch.zeros_like(mask), "attention_mask": mask}
    return Batch(inputs, inputs, labels, torch.arange(len(labels)))
