"""PP-MiniLM: the plugin `pp_minilm` in its mode "reference" against PaddleNLP; what is observed of an encoder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import torch
from potstill_pp_minilm.losses import Relation, relation_loss, vectors_loss
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from potstill.features import QKV, Hidden, Scores
from potstill.observe import Observer
from tests.goldens.case import Case
from tests.goldens.minilm import LETTERS, gradients, projections
from tests.goldens.registry import check


@check("pp_minilm")
def pp_minilm(case: Case) -> Iterator[tuple[str, Tensor]]:
    """The losses of queries, keys and values are sums in the reference, and their sum is divided."""
    heads, mask = int(case.params["relation_heads"]), case["attention_mask"]
    alpha, beta = case.params["alpha"], case.params["beta"]
    weights = dict(zip(get_args(Relation), (1 - alpha - beta, alpha, beta), strict=True))
    teacher, student = projections(case, "t"), projections(case, "s")
    for letter, known, learnt in zip(LETTERS, teacher, student, strict=True):
        parts = [w * vectors_loss(known, learnt, relation, mask, heads, "reference") for relation, w in weights.items()]
        yield f"loss_{letter}", torch.stack(parts).sum() * heads * mask.numel()
    total = torch.stack(
        [w * relation_loss(teacher, student, relation, mask, heads, "reference") for relation, w in weights.items()]
    ).sum()
    yield "loss_total", total
    yield "loss_total_reference_float32", total
    yield from gradients(case, total, student)


class Given(nn.Module):
    """In the place of a model's embeddings: the encoder's input as it is given."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.hidden


@check("pp_minilm_capture")
def pp_minilm_capture(case: Case) -> Iterator[tuple[str, Tensor]]:
    """The reference adds -10,000 to the scores of padding, where ours are minus infinity."""
    params, mask = case.params, case["attention_mask"]
    model = encoder(case)
    layers = range(1, params["layers"] + 1)
    features = [*map(QKV, layers), *map(Scores, layers), *map(Hidden, (0, *layers))]
    inputs = {"input_ids": torch.zeros_like(mask), "attention_mask": mask}
    with torch.no_grad():
        found = Observer(model, features, "teacher")(inputs)[1]
    chosen = found[QKV(params["layer_index_0based"] + 1)]
    yield from zip(("out.q", "out.k", "out.v"), chosen, strict=True)
    for layer in layers:
        query, key, _ = found[QKV(layer)]
        padding = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5 + params["additive_mask_value"]
        yield f"out.attentions.{layer - 1}", torch.where(mask[:, None, None] == 1, found[Scores(layer)], padding)
    for layer in (0, *layers):
        yield f"out.hidden_states.{layer}", found[Hidden(layer)]
    yield "out.encoder", found[Hidden(-1)]


def encoder(case: Case) -> BertModel:
    params = case.params
    config = BertConfig(
        vocab_size=5,
        hidden_size=params["hidden"],
        num_hidden_layers=params["layers"],
        num_attention_heads=params["heads"],
        intermediate_size=params["intermediate"],
        hidden_act=params["activation"],
        layer_norm_eps=params["layer_norm_eps"],
    )
    model = BertModel(config, add_pooling_layer=False).double().eval()
    model.encoder.load_state_dict({name: case[name] for name in case.tensors if name.startswith("layer.")})
    model.embeddings = Given(case["hidden_in"])
    return model
