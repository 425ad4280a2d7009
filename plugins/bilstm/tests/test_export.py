"""The model in ONNX Runtime against the packed LSTM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from potstill_bilstm.modeling import BiLSTMConfig, BiLSTMForSequenceClassification
from torch import Tensor, nn

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

RAGGED = [([7, 3, 1, 5], 7), ([1], 1), ([9], 9), ([1, 1, 1], 1), ([2, 0, 4], 6), ([40] * 3 + [1] * 30, 40)]


class Logits(nn.Module):
    """Ids and mask in, logits out."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits: Tensor = self.module(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


def wrapped(pooling: str, layers: int) -> Logits:
    torch.manual_seed(1)
    config = BiLSTMConfig(
        vocab_size=50, embedding_size=12, hidden_size=16, num_labels=3, num_hidden_layers=layers, pooling=pooling
    )
    return Logits(BiLSTMForSequenceClassification(config)).eval()


def inputs(lengths: list[int], width: int) -> tuple[Tensor, Tensor]:
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    return torch.randint(1, 50, mask.shape) * mask, mask


def free_axes() -> tuple[dict[int, Any], dict[int, Any]]:
    axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    return axes, axes


@pytest.mark.parametrize(("pooling", "layers"), [("real", 1), ("real", 2), ("reference", 1)])
def test_onnx_runtime_agrees_with_the_packed_lstm_on_ragged_batches(tmp_path: Path, pooling: str, layers: int) -> None:
    module = wrapped(pooling, layers)
    program = torch.onnx.export(
        module,
        inputs([5, 2], 5),
        dynamo=True,
        dynamic_shapes=free_axes(),
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        verbose=False,
    )
    assert program is not None
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for lengths, width in RAGGED:
        ids, mask = inputs(lengths, width)
        (logits,) = session.run(["logits"], {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        np.testing.assert_allclose(logits, module(ids, mask).detach().numpy(), rtol=1e-5, atol=1e-5)
