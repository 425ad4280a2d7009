"""A model in ONNX Runtime, fed with torch tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from potstill.timing.runtimes import onnx_session


class Session:
    """An ONNX file on the CPU.

    Args:
        path: the file.
        threads: of ONNX Runtime; torch's number by default.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self._session = onnx_session(path, threads or torch.get_num_threads())
        self.inputs: list[str] = [item.name for item in self._session.get_inputs()]

    def logits(self, inputs: Mapping[str, Tensor]) -> npt.NDArray[Any]:
        """The model's only output, for those of the inputs that it takes."""
        outputs = self._session.run(None, {name: inputs[name].numpy() for name in self.inputs})
        return np.asarray(outputs[0])
