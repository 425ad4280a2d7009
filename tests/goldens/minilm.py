"""MiniLM and MiniLMv2: the plugin `minilm` against bloomberg/minilmv2.bb and PaddleNLP's calc_minilm_loss."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from potstill_minilm.losses import Normalisation, pair_loss
from torch import Tensor
from transformers import BertConfig, BertModel

from potstill.features import QKV, Projections
from potstill.observe import Observer
from tests.goldens.case import Case
from tests.goldens.registry import check

LETTERS = ("q", "k", "v")


def projections(case: Case, side: str, heads: int | None = None) -> Projections:
    """Queries, keys and values of a side, [B, H, L, D]; joined ones are split into `heads`, 1 where left out."""
    found = [case[f"{letter}_{side}"].clone() for letter in LETTERS]
    split = [x if x.dim() == 4 else x.unflatten(-1, (heads or 1, -1)).transpose(1, 2) for x in found]
    return Projections(*(x.detach().requires_grad_(side == "s") for x in split))


def gradients(case: Case, loss: Tensor, student: Projections) -> Iterator[tuple[str, Tensor]]:
    found = torch.autograd.grad(loss, student)
    for letter, gradient in zip(LETTERS, found, strict=True):
        joined = gradient.transpose(1, 2).flatten(2) if case[f"{letter}_s"].dim() == 3 else gradient
        yield f"grad_{letter}_s", joined


@check("minilm_v1")
def minilm_v1(case: Case) -> Iterator[tuple[str, Tensor]]:
    heads, mask = int(case.params["attention_heads"]), case["attention_mask"]
    teacher, student = projections(case, "t"), projections(case, "s")

    def loss(pair: str, normalisation: Normalisation = "example") -> Tensor:
        return pair_loss(teacher, student, pair, mask, heads, normalisation)

    attention, values = loss("qk"), loss("vv")
    yield "loss_at", attention
    yield "loss_vr", values
    yield "loss_total", attention + values
    yield "numpy_token_mean_loss_at", loss("qk", "token")
    yield "numpy_token_mean_loss_vr", loss("vv", "token")
    yield "numpy_allrows_loss_at", loss("qk", "all_rows")
    yield "numpy_allrows_loss_vr", loss("vv", "all_rows")
    yield from gradients(case, attention + values, student)


@check("minilm_v2")
def minilm_v2(case: Case) -> Iterator[tuple[str, Tensor]]:
    heads, mask = int(case.params["relation_heads"]), case["attention_mask"]
    for own in (1, 2, 4):  # the number of attention heads does not matter
        teacher, student = projections(case, "t", own), projections(case, "s", own)
        losses = {letter * 2: pair_loss(teacher, student, letter * 2, mask, heads) for letter in LETTERS}
        total = torch.stack([losses[pair] * float(w) for pair, w in case.params["relation_weights"].items()]).sum()
        for pair, loss in losses.items():
            yield f"loss_{pair}", loss
        yield "loss_total", total
        yield from gradients(case, total, student)


@check("minilm_v2_all_rows")
def minilm_v2_all_rows(case: Case) -> Iterator[tuple[str, Tensor]]:
    """The reference gives sums; the division by relation heads, length and rows is its training script's."""
    heads, mask = int(case.params["relation_heads"]), case["attention_mask"]
    teacher, student = projections(case, "t"), projections(case, "s")
    losses = [pair_loss(teacher, student, letter * 2, mask, heads, "all_rows") for letter in LETTERS]
    count = heads * mask.numel()
    total = torch.stack(losses).sum()
    for letter, loss in zip(LETTERS, losses, strict=True):
        yield f"loss_{letter}", loss * count
    yield "loss_total", total
    yield "loss_total_reference_float32", total
    yield from gradients(case, total, student)


@check("minilm_v2_end_to_end")
def minilm_v2_end_to_end(case: Case) -> Iterator[tuple[str, Tensor]]:
    """Two BERT encoders, observed as in training."""
    models = {side: encoder(case, side) for side in ("teacher", "student")}
    inputs = {name: case[name] for name in ("input_ids", "token_type_ids", "attention_mask") if name in case.tensors}
    layers = {side: QKV(int(case.params[f"{side}_layer_1based"])) for side in models}
    found = {}
    for side, model in models.items():
        with torch.set_grad_enabled(side == "student"):
            found[side] = Observer(model, [layers[side]], side)(inputs)[1][layers[side]]
    heads = int(case.params["relation_heads"])
    weights = case.params["relation_weights"].items()
    losses = [
        float(weight) * pair_loss(found["teacher"], found["student"], pair, case["attention_mask"], heads)
        for pair, weight in weights
    ]
    total = torch.stack(losses).sum()
    total.backward()
    yield "loss", total
    for name, parameter in models["student"].named_parameters():
        if parameter.grad is not None:
            yield f"grad.{name}", parameter.grad


def encoder(case: Case, side: str) -> BertModel:
    shape = case.params[side]
    config = BertConfig(
        vocab_size=case.params["vocab"],
        hidden_size=shape["hidden"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        intermediate_size=shape["intermediate"],
        max_position_embeddings=case.params["max_position_embeddings"],
        layer_norm_eps=case.params["layer_norm_eps"],
    )
    model = BertModel(config, add_pooling_layer=False).double().eval()
    weights = {
        name.removeprefix(f"{side}."): value for name, value in case.tensors.items() if name.startswith(f"{side}.")
    }
    model.load_state_dict(weights)
    return model
