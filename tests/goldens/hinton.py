"""Soft targets: the plugin `hinton` against RepDistiller, TextBrewer, PKD, DistilBERT's SQuAD script and kd_main.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from potstill_hinton import losses
from torch import Tensor

from tests.goldens.case import Case
from tests.goldens.registry import check


def gradient(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """The derivative of a scalar loss."""
    inputs = at.clone().requires_grad_(True)
    return torch.autograd.grad(loss(inputs), inputs)[0]


@check("hinton_kd_grid")
def hinton_kd_grid(case: Case) -> Iterator[tuple[str, Tensor]]:
    student, teacher = case["student_logits"], case["teacher_logits"]
    temperatures, alphas = case["temperatures"].tolist(), case["alphas"].tolist()
    hard = F.cross_entropy(student, case["labels"])
    kl = torch.stack([losses.kl(student, teacher, t) for t in temperatures])
    soft = torch.stack([losses.soft_ce(student, teacher, t) for t in temperatures])
    trap = torch.stack([losses.kl_mean(student, teacher, t) for t in temperatures])

    def total(terms: Tensor) -> Tensor:
        pairs = [losses.weights(alpha) for alpha in alphas]
        return torch.stack([torch.stack([a * term + b * hard for a, b in pairs]) for term in terms])

    yield "hard_ce", hard
    yield "kl_batchmean_T2", kl
    yield "soft_ce_T2", soft
    yield "soft_ce_no_T2", torch.stack([losses.soft_ce(student, teacher, t, t_squared=False) for t in temperatures])
    yield "logit_mse", torch.stack([losses.logit_mse(student, teacher, t) for t in temperatures])
    yield "kl_elementmean_T2_TRAP", trap
    yield "total_kl", total(kl)
    yield "total_soft_ce", total(soft)
    yield "total_TRAP_elementmean", total(trap)
    for loss in (losses.kl, losses.soft_ce):  # their gradients are the same
        gradients = [gradient(lambda logits, t=t, loss=loss: loss(logits, teacher, t), student) for t in temperatures]
        yield "grad_student_kl_batchmean_T2", torch.stack(gradients)


@check("kd_span_squad")
def kd_span_squad(case: Case) -> Iterator[tuple[str, Tensor]]:
    temperature = float(case.params["T"])
    soft_weight, hard_weight = losses.weights(float(case.params["alpha_ce"]), float(case.params["alpha_squad"]))
    student = (case["student_start"].requires_grad_(True), case["student_end"].requires_grad_(True))
    teacher = (case["teacher_start"], case["teacher_end"])
    positions = (case["start_positions"], case["end_positions"])
    hard = sum(F.cross_entropy(logits, gold) for logits, gold in zip(student, positions, strict=True)) / 2
    soft = losses.span_kl(student, teacher, temperature)
    total = soft_weight * soft + hard_weight * hard
    start, end = torch.autograd.grad(total, student)
    yield "loss_start", losses.kl(student[0], teacher[0], temperature)
    yield "loss_end", losses.kl(student[1], teacher[1], temperature)
    yield "loss_kd", soft
    yield "loss_hard", torch.as_tensor(hard)
    yield "loss_total", total
    yield "grad_student_start", start
    yield "grad_student_end", end


@check("bilstm_kd_loss")
def bilstm_kd_loss(case: Case) -> Iterator[tuple[str, Tensor]]:
    """The reference's soft term has no T² and is averaged over classes too; both terms weigh 1."""
    student, teacher = case["student_logits"], case["teacher_logits"]
    temperatures = case["temperatures"].tolist()
    soft_weight, hard_weight = losses.weights(1.0, hard=1.0)

    def soft(logits: Tensor, t: float) -> Tensor:
        return losses.kl_mean(logits, teacher, t, t_squared=False)

    def total(logits: Tensor, t: float) -> Tensor:
        return soft_weight * soft(logits, t) + hard_weight * F.cross_entropy(logits, case["labels"])

    yield "out.hard_loss", F.cross_entropy(student, case["labels"]).expand(len(temperatures))
    yield "out.soft_loss", torch.stack([soft(student, t) for t in temperatures])
    yield "out.loss", torch.stack([total(student, t) for t in temperatures])
    gradients = [gradient(lambda logits, t=t: total(logits, t), student) for t in temperatures]
    yield "out.grad_student_logits", torch.stack(gradients)
    yield "out.soft_loss_batchmean_T2_variant", torch.stack([losses.kl(student, teacher, t) for t in temperatures])
