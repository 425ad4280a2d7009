"""An exported model in the place of the one in torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from potstill.timing.runtimes import onnx_session

SUFFIX = ".onnx"


class OnnxModel(nn.Module):
    """An ONNX file on the CPU as a module that takes a batch's inputs by name and returns its logits.

    Raises: UserError where ONNX Runtime is not installed; ModelError where the file cannot be loaded.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._session = onnx_session(path, torch.get_num_threads())
        self._names: list[str] = [item.name for item in self._session.get_inputs()]

    def forward(self, **inputs: Tensor) -> dict[str, Any]:
        """{"logits": as the task has them}, where the inputs are; what the file does not take is left out."""
        fed = {name: inputs[name].cpu().numpy() for name in self._names}
        [logits, *_] = self._session.run(None, fed)
        return {"logits": torch.from_numpy(logits).to(inputs["input_ids"].device)}
