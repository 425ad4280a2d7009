"""Small encoders of many architectures, ragged inputs, and one look at what an observer sees of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from potstill.features import Feature
from potstill.observe import Observer

BASE: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "pad_token_id": 0,
    "num_labels": 3,
}
NARROW = {**BASE, "embedding_size": 16}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": BASE,
    "roberta": BASE,
    "distilbert": {"vocab_size": 50, "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48, "num_labels": 3},
    "electra": NARROW,
    "albert": NARROW,
    "albert-groups": {**NARROW, "num_hidden_layers": 4, "num_hidden_groups": 2},
    "mobilebert": {**NARROW, "intra_bottleneck_size": 16, "num_feedforward_networks": 3},
    "ernie": BASE,
    "modernbert": {**BASE, "cls_token_id": 1, "bos_token_id": 1, "sep_token_id": 2, "eos_token_id": 2},
    "xlm-roberta": BASE,
    "qwen2": {**BASE, "num_key_value_heads": 2},
}
MASKS = {"ragged": [7, 5, 3], "full": [7, 7, 7]}


def make(name: str, **more: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(name.split("-groups")[0], **{**CONFIGS[name], **more})
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    return model.eval()


def inputs(lengths: list[int] | None = None) -> dict[str, Tensor]:
    lengths = lengths or MASKS["ragged"]
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(5, 50, mask.shape, generator=torch.Generator().manual_seed(1)) * mask
    return {"input_ids": ids, "attention_mask": mask}


def look(model: nn.Module, features: list[Feature], batch: dict[str, Tensor] | None = None) -> tuple[Any, Any]:
    observer = Observer(model, features, "teacher")
    try:
        return observer(batch or inputs())
    finally:
        observer.close()


def assert_near(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5)
