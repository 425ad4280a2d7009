"""The plugin `bilstm` against models/bilstmForClassification.py of taishan1994/pytorch_knowledge_distillation."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from potstill_bilstm.modeling import BiLSTMConfig, BiLSTMForSequenceClassification
from torch import Tensor

from tests.goldens.case import Case
from tests.goldens.registry import check


@check("bilstm_forward")
def bilstm_forward(case: Case) -> Iterator[tuple[str, Tensor]]:
    ids, lengths = case["input_ids"], case["lengths"]
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    rows = [(ids[row : row + 1, :length], mask[row : row + 1, :length]) for row, length in enumerate(lengths.tolist())]
    with torch.no_grad():
        reference, real = _model(case, "reference"), _model(case, "real")
        yield "out.logits", reference(ids, mask).logits
        # Without padding both ways of pooling are one; with it, only the real one is untouched by the batch.
        yield "out.logits_without_batch_padding", torch.cat([reference(*row).logits for row in rows])
        yield "out.logits_without_batch_padding", torch.cat([real(*row).logits for row in rows])
        yield "out.logits_without_batch_padding", real(ids, mask).logits


def _model(case: Case, pooling: str) -> BiLSTMForSequenceClassification:
    config = BiLSTMConfig(
        vocab_size=case.params["vocab_size"],
        embedding_size=case.params["word_embedding_dimension"],
        hidden_size=case.params["hidden_dim"],
        num_hidden_layers=case.params["layers"],
        num_labels=case.params["num_labels"],
        pooling=pooling,
    )
    model = BiLSTMForSequenceClassification(config).double().eval()
    weights = {name.removeprefix("model."): value for name, value in case.tensors.items() if name.startswith("model.")}
    model.load_state_dict({name.replace("fc.", "classifier."): value for name, value in weights.items()})
    return model
