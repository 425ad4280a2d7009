"""Matched layers: the plugin `layers` against TextBrewer 0.2.1.post1 and KnowledgeDistillation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from potstill_layers import attention, gram, hidden, schedules, soft
from potstill_layers.projection import Projection
from torch import Tensor

from tests.goldens.case import Case
from tests.goldens.registry import check

ATTENTION = {
    "attention_mse": attention.attention_mse,
    "attention_mse_sum": attention.attention_mse_sum,
    "attention_ce": attention.attention_ce,
    "attention_ce_mean": attention.attention_ce_mean,
}
FEATURES = {
    "scores": ("scores_s", "scores_t"),
    "probs": ("probs_s", "probs_t"),
    "otherheads": ("scores_s_otherheads", "scores_t"),
}


def gradients(loss: Callable[..., Tensor], *at: Tensor) -> tuple[Tensor, ...]:
    """The derivatives of a scalar loss."""
    inputs = [tensor.clone().requires_grad_(True) for tensor in at]
    return torch.autograd.grad(loss(*inputs), inputs)


def masks(case: Case) -> Iterator[tuple[str, Tensor | None]]:
    """With the mask of the inputs, and without."""
    yield "masked", case["inputs_mask"]
    yield "nomask", None


@check("textbrewer_attention")
def textbrewer_attention(case: Case) -> Iterator[tuple[str, Tensor]]:
    for name, loss in ATTENTION.items():
        for kind, mask in masks(case):
            for feature, (student, teacher) in FEATURES.items():
                if feature == "otherheads" and name in ("attention_mse", "attention_ce"):
                    continue
                yield f"out.{name}.{feature}.{kind}", loss(case[student], case[teacher], mask, reference="textbrewer")
            (found,) = gradients(lambda s: loss(s, case["scores_t"], mask, reference="textbrewer"), case["scores_s"])  # noqa: B023
            yield f"grad.{name}.scores.{kind}", found
            if mask is not None:  # scores that are masked already: ours is the same
                yield f"out.{name}.scores.{kind}", loss(case["scores_s"], case["scores_t"], mask)


@check("textbrewer_hidden")
def textbrewer_hidden(case: Case) -> Iterator[tuple[str, Tensor]]:
    student, teacher = case["state_s"], case["state_t"]
    yield "out.pkd.vectors", hidden.pkd(student[:, 0], teacher[:, 0])
    for kind, mask in masks(case):
        for loss in (hidden.hidden_mse, hidden.cos, hidden.pkd):
            yield f"out.{loss.__name__}.{kind}", loss(student, teacher, mask)
            yield f"grad.{loss.__name__}.{kind}", gradients(lambda s: loss(s, teacher, mask), student)[0]  # noqa: B023
        yield from products(case, kind, mask)


def products(case: Case, kind: str, mask: Tensor | None) -> Iterator[tuple[str, Tensor]]:
    """fsp and nst, of two layers and of one with itself."""
    student = (case["state_s"], case["state_s_b"])
    teacher, wide = (case["state_t"], case["state_t_b"]), (case["state_t_wide"], case["state_t_wide_b"])
    yield f"out.fsp.{kind}", gram.fsp(student, teacher, mask)
    first, second = gradients(lambda a, b: gram.fsp((a, b), teacher, mask), *student)
    yield f"grad.fsp.{kind}.state_s", first
    yield f"grad.fsp.{kind}.state_s_b", second
    yield f"out.nst.pypi.{kind}", gram.nst(student, wide, mask, reference="textbrewer")
    yield f"out.nst.githead.{kind}", gram.nst(student, wide, mask, reference="textbrewer-head")
    yield f"out.nst.githead.{kind}", gram.nst(student, wide, mask)
    (found,) = gradients(lambda a: gram.nst((a, student[1]), wide, mask, reference="textbrewer"), student[0])
    yield f"grad.nst.pypi.{kind}.state_s", found
    same = gram.nst((student[0],) * 2, (wide[0],) * 2, mask, reference="textbrewer")
    yield f"out.nst_samelayer.pypi.{kind}", same


@check("textbrewer_kd")
def textbrewer_kd(case: Case) -> Iterator[tuple[str, Tensor]]:
    base, flsw, cwsm = float(case.params["temperature"]), case.params["flsw"], case.params["cwsm"]
    student, teacher = case["logits_s"], case["logits_t"]
    weights = {
        "flsw": (schedules.flsw_weights(student, teacher, flsw["gamma"], flsw["eps"]), flsw["beta"]),
        "cwsm": (schedules.cwsm_weights(student, cwsm["eps"]), cwsm["beta"]),
    }
    rows = {
        name: schedules.row_temperatures(base, weight, beta, lowest=None) for name, (weight, beta) in weights.items()
    }
    for name, tensor in rows.items():
        yield f"temperature.{name}", tensor
    temperatures: dict[str, soft.Temperature] = {"constant": base, **rows}
    for name, temperature in temperatures.items():
        for kind, loss in KD.items():
            yield f"out.{kind}.{name}", loss(student, teacher, temperature)
            (found,) = gradients(lambda s: loss(s, teacher, temperature), student)  # noqa: B023
            yield f"grad.{kind}.{name}", found
    yield from kd_of_sequences(case, base)
    shifted = soft.probability_shift(teacher, case["labels"])
    yield "out.shifted_logits_t", shifted
    yield "out.shifted_seq_logits_t", soft.probability_shift(case["seq_logits_t"], case["seq_labels"])
    yield "out.kd_ce.shifted", soft.kd_ce(student, shifted, base, t_squared=False)


def kd_of_sequences(case: Case, base: float) -> Iterator[tuple[str, Tensor]]:
    """Logits for every token: all of them, and those of the mask."""
    student, teacher, kept = case["seq_logits_s"], case["seq_logits_t"], case["logits_mask"].bool()
    for kind, loss in KD.items():
        yield f"out.{kind}.seq_nomask", loss(student, teacher, base)
        yield f"out.{kind}.seq_masked", loss(student[kept], teacher[kept], base)
        (found,) = gradients(lambda s: loss(s[kept], teacher[kept], base), student)  # noqa: B023
        yield f"grad.{kind}.seq_masked", found


def kd_ce(student: Tensor, teacher: Tensor, temperature: soft.Temperature) -> Tensor:
    """TextBrewer's, without T²."""
    return soft.kd_ce(student, teacher, temperature, t_squared=False)


KD = {"kd_ce": kd_ce, "kd_mse": soft.kd_mse}


@check("textbrewer_general_distiller")
def textbrewer_general_distiller(case: Case) -> Iterator[tuple[str, Tensor]]:
    params = case.params
    wanted = [name.removeprefix("grad.") for name in case.outputs if name.startswith("grad.")]
    leaves = {name: tensor.clone() for name, tensor in case.tensors.items()}
    for name in wanted:
        leaves[name].requires_grad_(True)
    logits, labels = leaves["logits_s"], leaves["labels"]
    taught = soft.probability_shift(leaves["logits_t"], labels) if params["probability_shift"] else leaves["logits_t"]
    kd = KD[f"kd_{params['kd_loss_type']}"](logits, taught, float(params["temperature"]))
    hard = F.cross_entropy(logits, labels)
    total = params["kd_loss_weight"] * kd + params["hard_label_weight"] * hard
    for number, match in enumerate(params["intermediate_matches"]):
        name, value = matched(match, leaves, number)
        total = total + match["weight"] * value
        yield f"out.unweighted_{name}", value
    yield "out.unweighted_kd_loss", kd
    yield "out.unweighted_hard_label_loss", hard
    yield "out.total_loss", total
    found = torch.autograd.grad(total, [leaves[name] for name in wanted])
    yield from ((f"grad.{name}", gradient) for name, gradient in zip(wanted, found, strict=True))


def matched(match: dict[str, Any], tensors: dict[str, Tensor], number: int) -> tuple[str, Tensor]:
    """The reference's name of a match and its loss."""
    feature, mask = match["feature"], tensors["inputs_mask"]
    student, teacher = (layers_of(match[f"layer_{side.upper()}"], tensors, f"{feature}_{side}") for side in "st")
    if "proj" in match:
        kind, own, others = match["proj"][:3]
        projection = Projection(kind, own, others).double()
        given = {f"linear.{part}": tensors[f"proj.{number}.{part}"] for part in ("weight", "bias")}
        student = [torch.func.functional_call(projection, given, state) for state in student]
    name = f"{feature}_{match['loss']}_{told(match['layer_S'])}_{told(match['layer_T'])}"
    if match["loss"] == "nst":
        return name, gram.nst((student[0], student[1]), (teacher[0], teacher[1]), mask, reference="textbrewer")
    loss = {"hidden_mse": hidden.hidden_mse, **ATTENTION}[match["loss"]]
    return name, loss(student[0], teacher[0], mask)


def layers_of(layer: int | list[int], tensors: dict[str, Tensor], prefix: str) -> list[Tensor]:
    return [tensors[f"{prefix}.{number}"] for number in ([layer] if isinstance(layer, int) else layer)]


def told(layer: int | list[int]) -> str:
    return str(layer) if isinstance(layer, int) else "-".join(map(str, layer))


@check("textbrewer_multi_teacher")
def textbrewer_multi_teacher(case: Case) -> Iterator[tuple[str, Tensor]]:
    params, names = case.params, sorted(name for name in case.tensors if name.startswith("logits_t."))
    taught = torch.stack([case[name] for name in names]).mean(0)

    def parts(student: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        kd = KD[f"kd_{params['kd_loss_type']}"](student, taught, float(params["temperature"]))
        hard = F.cross_entropy(student, case["labels"])
        return params["kd_loss_weight"] * kd + params["hard_label_weight"] * hard, kd, hard

    total, kd, hard = parts(case["logits_s"])
    yield "out.total_loss", total
    yield "out.unweighted_kd_loss", kd
    yield "out.unweighted_hard_label_loss", hard
    yield "grad.logits_s", gradients(lambda student: parts(student)[0], case["logits_s"])[0]


@check("textbrewer_training_trajectory")
def textbrewer_training_trajectory(case: Case) -> Iterator[tuple[str, Tensor]]:
    """Its loop in short: what an epoch leaves over is run, and its gradients are dropped."""
    params = case.params
    window, updates = int(params["gradient_accumulation_steps"]), int(params["total_optimizer_steps"])
    rate = float(params["optimizer"].split()[-1])
    weight, bias = (case[f"student_{part}_init"].clone().requires_grad_(True) for part in ("weight", "bias"))
    update, losses, used = 0, [], []
    for number in range(int(params["epochs"]) * int(params["batches_per_epoch"])):
        place = number % int(params["batches_per_epoch"])
        if place == 0:
            weight.grad = bias.grad = None
        x, y = case["x"][place], case["y"][place]
        student, teacher = F.linear(x, weight, bias), F.linear(x, case["teacher_weight"], case["teacher_bias"])
        terms = kd_ce(student, teacher, float(params["temperature"])), F.cross_entropy(student, y)
        weights = [
            schedules.scheduled(
                params[f"{term}_weight"], params[f"{term}_weight_scheduler"], update / updates, replaces=True
            )
            for term in ("kd_loss", "hard_label")
        ]
        total = weights[0] * terms[0] + weights[1] * terms[1]
        (total / window).backward()  # type: ignore[no-untyped-call]
        losses.append(torch.stack([total, *terms]).detach())
        used.append(torch.tensor(weights, dtype=torch.float64))
        if (place + 1) % window == 0:
            torch.nn.utils.clip_grad_norm_([weight, bias], float(params["max_grad_norm"]))
            for parameter in (weight, bias):
                assert parameter.grad is not None
                parameter.data -= rate * max(0.0, 1 - update / updates) * parameter.grad
            weight.grad = bias.grad = None
            update += 1
    yield "out.losses", torch.stack(losses)
    yield "out.weights_used", torch.stack(used)
    yield "out.student_weight_final", weight
    yield "out.student_bias_final", bias


KNOWLEDGE_DISTILLATION: dict[str, Callable[..., Tensor]] = {
    "mse": lambda student, teacher, mask: hidden.hidden_mse(student, teacher),
    "mse_with_mask": hidden.hidden_mse,
    "attention_mse_with_mask": attention.attention_mse,
}


@check("knowledge_distillation_library")
def knowledge_distillation_library(case: Case) -> Iterator[tuple[str, Tensor]]:
    mask, entries = case["attention_mask"], case.params["distill_config"]
    wanted = [name.removeprefix("out.grad_") for name in case.outputs if name.startswith("out.grad_")]
    leaves = {name: tensor.clone() for name, tensor in case.tensors.items()}
    for name in wanted:
        leaves[name].requires_grad_(True)
    weighted = [
        entry["weight"]
        * KNOWLEDGE_DISTILLATION[entry["loss"]["loss_function"]](
            leaves[output_name(entry, "student")], leaves[output_name(entry, "teacher")], mask
        )
        for entry in entries
    ]
    total = torch.stack(weighted).sum()
    yield "out.loss", total
    yield "out.weighted_loss_per_config_entry", torch.stack(weighted)
    found = torch.autograd.grad(total, [leaves[name] for name in wanted])
    yield from ((f"out.grad_{name}", gradient) for name, gradient in zip(wanted, found, strict=True))
    states = leaves["student.hidden_states.0"], leaves["teacher.hidden_states.0"]
    yield "out.mse", hidden.hidden_mse(*states)
    yield "out.mse_with_mask", hidden.hidden_mse(*states, mask)
    yield (
        "out.attention_mse_with_mask",
        attention.attention_mse(leaves["student.attention.0"], leaves["teacher.attention.1"], mask),
    )
    pooled = leaves["student.pooler_output"], leaves["teacher.pooler_output"]
    yield "out.cos_direct_call", hidden.cosine_distances(*pooled) / 2


def output_name(entry: dict[str, Any], side: str) -> str:
    """The tensor that an entry of distill_config means: its layers count from 1, the attention tensors from 0."""
    layer, output = entry[f"{side}_layer_name"], entry[f"{side}_layer_output_name"]
    if output == "pooler_output":
        return f"{side}.pooler_output"
    number = 0 if layer == "embedding_layer" else int(layer.removeprefix("bert_layer"))
    return f"{side}.attention.{number - 1}" if output == "attention" else f"{side}.hidden_states.{number}"
