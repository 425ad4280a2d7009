"""The plugin `tinybert` against huawei-noah's code: task_distill.py, modeling.py, optimization.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from potstill_tinybert import losses
from potstill_tinybert.optimizer import BertAdam, clip_each
from potstill_tinybert.projection import Projection
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from potstill.features import POOLED, QKV, Hidden
from potstill.observe import Observer, Outputs, attention_scores
from potstill.schedule import multiplier
from tests.goldens.case import Case
from tests.goldens.registry import check


def attention_losses(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> list[Tensor]:
    return [losses.attention_mse(s, t, mask, padding="reference") for s, t in zip(student, teacher, strict=True)]


def hidden_losses(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> list[Tensor]:
    return [losses.hidden_mse(s, t, mask, padding="reference") for s, t in zip(student, teacher, strict=True)]


def each(case: Case, pattern: str, numbers: Sequence[int]) -> list[Tensor]:
    return [case[pattern.format(number)].clone().requires_grad_(True) for number in numbers]


def hidden_terms(terms: list[Tensor]) -> Iterator[tuple[str, Tensor]]:
    yield "out.rep_loss", sum(terms, torch.zeros(()))
    yield "out.rep_loss_per_index", torch.stack(terms)
    yield "out.embedding_loss", terms[0]
    yield "out.hidden_loss", sum(terms[1:], torch.zeros(()))


@check("tinybert_intermediate_loss")
def intermediate_loss(case: Case) -> Iterator[tuple[str, Tensor]]:
    """The index counts attention from 0 and representations from the embedding output, as the reference does."""
    own_attention, known_attention = zip(*case.params["attention_index_pairs_student_teacher"], strict=True)
    own_hidden, known_hidden = zip(*case.params["representation_index_pairs_student_teacher"], strict=True)
    scores, hidden = each(case, "student_att.{}", own_attention), each(case, "student_rep.{}", own_hidden)
    mask = case["attention_mask"]
    attention_terms = attention_losses(scores, [case[f"teacher_att.{layer}"] for layer in known_attention], mask)
    terms = hidden_losses(hidden, [case[f"teacher_rep.{layer}"] for layer in known_hidden], mask)
    loss = sum([*attention_terms, *terms], torch.zeros(()))
    gradients = torch.autograd.grad(loss, [*scores, *hidden])
    yield "out.loss", loss
    yield "out.att_loss", sum(attention_terms, torch.zeros(()))
    yield "out.att_loss_per_layer", torch.stack(attention_terms)
    yield from hidden_terms(terms)
    names = [f"att.{layer}" for layer in own_attention] + [f"rep.{layer}" for layer in own_hidden]
    yield from ((f"out.grad_student_{name}", grad) for name, grad in zip(names, gradients, strict=True))


def fit_dense(weight: Tensor, bias: Tensor, layers: Sequence[int]) -> tuple[Projection, nn.Linear]:
    """The shared projection with the reference's weights, and its one linear map."""
    projection = Projection("shared", weight.shape[1], weight.shape[0], layers).double()
    (linear,) = projection.maps.values()
    assert isinstance(linear, nn.Linear)
    linear.load_state_dict({"weight": weight, "bias": bias})
    return projection, linear


@check("tinybert_projection")
def projection(case: Case) -> Iterator[tuple[str, Tensor]]:
    own, step = range(case.params["student_layers"] + 1), case.params["teacher_layers"] // case.params["student_layers"]
    projection, linear = fit_dense(case["fit_dense.weight"], case["fit_dense.bias"], own)
    hidden = each(case, "student_hidden.{}", own)
    mask = torch.ones(hidden[0].shape[:2])
    learnt = [projection(state, layer) for layer, state in enumerate(hidden)]
    terms = hidden_losses(learnt, [case[f"teacher_rep.{layer * step}"] for layer in own], mask)
    *gradients, weight, bias = torch.autograd.grad(sum(terms), [*hidden, linear.weight, linear.bias])
    yield from hidden_terms(terms)
    yield from ((f"out.grad_student_hidden.{layer}", grad) for layer, grad in enumerate(gradients))
    yield "out.grad_fit_dense.weight", weight
    yield "out.grad_fit_dense.bias", bias


def model(case: Case, side: str) -> BertForSequenceClassification:
    config = {**case.params[f"{side}_config"], "hidden_act": "gelu", "pad_token_id": 0}
    made = BertForSequenceClassification(BertConfig(**config, attn_implementation="sdpa")).double().eval()
    weights = {name.removeprefix(f"{side}."): value for name, value in case.tensors.items() if name.startswith(side)}
    missing, unknown = made.load_state_dict(weights, strict=False)
    assert not [name for name in missing if "position_ids" not in name], missing
    assert all(name.startswith("fit_dense") for name in unknown), unknown
    return made


def observed(module: BertForSequenceClassification, case: Case, layers: Sequence[int], side: str) -> Outputs:
    """Hidden states, queries and keys of these layers, and what the pooler puts out."""
    features = [Hidden(0), *(Hidden(layer) for layer in layers), *(QKV(layer) for layer in layers), POOLED]
    observer = Observer(module, features, side)
    _, outputs = observer({name: case[name] for name in ("input_ids", "token_type_ids", "attention_mask")})
    observer.close()
    return outputs


def reference_scores(outputs: Outputs, layer: int) -> Tensor:
    """Scores with the reference's mask: -10000 is added where ours are set to the lowest number."""
    projections = outputs[QKV(layer)]
    mask = (1 - outputs.mask.double())[:, None, None] * -10000
    return attention_scores(projections, projections.query.shape[-1] ** -0.5, mask)


def reference_logits(module: BertForSequenceClassification, outputs: Outputs) -> Tensor:
    """The reference's head has a ReLU between pooler and classifier, and no dropout."""
    logits: Tensor = module.classifier(outputs[POOLED].relu())
    return logits


@check("tinybert_end_to_end")
def end_to_end(case: Case) -> Iterator[tuple[str, Tensor]]:
    layers = range(1, case.params["student_config"]["num_hidden_layers"] + 1)
    step = case.params["teacher_config"]["num_hidden_layers"] // len(layers)
    student, teacher = model(case, "student"), model(case, "teacher")
    own = observed(student, case, layers, "student")
    with torch.no_grad():
        known = observed(teacher, case, [layer * step for layer in layers], "teacher")
        teacher_logits = reference_logits(teacher, known)
    student_logits = reference_logits(student, own)
    yield "out.student_logits", student_logits
    yield "out.teacher_logits", teacher_logits
    for layer in layers:  # the reference counts attention from 0
        yield f"out.student_att.{layer - 1}", reference_scores(own, layer)
        yield f"out.teacher_att.{layer * step - 1}", reference_scores(known, layer * step)
    yield "out.teacher_rep_0", known[Hidden(0)]
    yield "out.teacher_rep_last", known[Hidden(layers[-1] * step)]
    projection, linear = fit_dense(case["student.fit_dense.weight"], case["student.fit_dense.bias"], [0, *layers])
    learnt = [projection(own[Hidden(layer)], layer) for layer in (0, *layers)]
    yield "out.student_rep_last", learnt[-1]
    prediction = losses.soft_ce(student_logits, teacher_logits, case.params["temperature"], reduction="reference")
    yield f"out.pred_loss_T{case.params['temperature']:g}", prediction
    (gradient,) = torch.autograd.grad(prediction, student.classifier.weight, retain_graph=True)
    yield "out.grad_student_pred.classifier.weight", gradient
    terms = hidden_losses(learnt, [known[Hidden(layer * step)] for layer in (0, *layers)], own.mask)
    yield "out.rep_loss", sum(terms, torch.zeros(()))
    yield "out.rep_loss_per_index", torch.stack(terms)
    pairs = [(layer, layer * step) for layer in layers]
    attention_terms = attention_losses(
        [reference_scores(own, layer) for layer, _ in pairs],
        [reference_scores(known, layer) for _, layer in pairs],
        own.mask,
    )
    yield "out.att_loss", sum(attention_terms, torch.zeros(()))
    yield "out.att_loss_per_layer", torch.stack(attention_terms)
    loss = sum([*attention_terms, *terms], torch.zeros(()))
    yield "out.loss", loss
    loss.backward()
    parameters = {**dict(student.named_parameters()), "fit_dense.weight": linear.weight, "fit_dense.bias": linear.bias}
    for name in case.outputs:
        if name.startswith("out.grad_student."):
            yield name, parameters[name.removeprefix("out.grad_student.")].grad


@check("tinybert_soft_cross_entropy")
def soft_cross_entropy(case: Case) -> Iterator[tuple[str, Tensor]]:
    student, teacher = case["student_logits"].requires_grad_(True), case["teacher_logits"]
    temperatures = case["temperatures"].tolist()
    values = [losses.soft_ce(student, teacher, t, reduction="reference") for t in temperatures]
    yield "out.loss", torch.stack(values)
    yield "out.grad_student_logits", torch.stack([torch.autograd.grad(value, student)[0] for value in values])
    textbook = [losses.soft_ce(student, teacher, t) / t**2 for t in temperatures]
    yield "out.loss_batchmean_variant", torch.stack(textbook)


@check("tinybert_bertadam")
def bertadam(case: Case) -> Iterator[tuple[str, Tensor]]:
    """The schedule is the core's, from a learning rate of 0, as the reference's first update has."""
    params = case.params
    decayed, plain = (nn.Parameter(case[f"param_{name}.init"].clone()) for name in ("decay", "nodecay"))
    groups = [
        {"params": [parameter], "weight_decay": decay}
        for parameter, decay in zip((decayed, plain), params["weight_decay"], strict=True)
    ]
    optimizer = BertAdam(groups, lr=params["lr"], betas=tuple(params["betas"]), eps=params["eps"])
    clip = clip_each(params["max_grad_norm_per_parameter"])
    rates, paths = [], ([], [])  # type: tuple[list[float], tuple[list[Tensor], list[Tensor]]]
    for update in range(params["steps"]):
        rates.append(params["lr"] * multiplier("linear", update, params["t_total"], params["warmup"], start=0.0))
        decayed.grad, plain.grad = case["grad_decay"][update].clone(), case["grad_nodecay"][update].clone()
        clip([decayed, plain])
        for group in optimizer.param_groups:
            group["lr"] = rates[-1]
        optimizer.step()
        for path, parameter in zip(paths, (decayed, plain), strict=True):
            path.append(parameter.detach().clone())
    yield "out.lr", torch.tensor(rates, dtype=torch.float64)
    yield "out.param_decay", torch.stack(paths[0])
    yield "out.param_nodecay", torch.stack(paths[1])
