"""An exported model in the place of the one in torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from potstill.errors import ModelError
from potstill.tasks import Task
from potstill.timing.runtimes import VOCABULARY_KEY, onnx_session

SUFFIX = ".onnx"


class OnnxModel(nn.Module):
    """An ONNX file on the CPU as a module that takes a batch's inputs by name and returns its logits.

    Args:
        path: the file.
        task: what its logits are for.
        tokenizer: makes what it reads.

    Raises: UserError where ONNX Runtime is not installed; ModelError where the file cannot be loaded, or is not made
        for this task and tokenizer.
    """

    def __init__(self, path: Path, task: Task, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self._session = onnx_session(path, torch.get_num_threads())
        self._names: list[str] = [item.name for item in self._session.get_inputs()]
        wrong = self._strange_input(tokenizer) or self._strange_logits(task)
        if wrong:
            raise ModelError(f"{path} {wrong}; it is not the file that was exported into this folder.")

    def _strange_input(self, tokenizer: PreTrainedTokenizerBase) -> str | None:
        """What tells by its inputs that the file is another model's."""
        made = ["input_ids", "attention_mask", "token_type_ids"]
        made = [name for name in made if name in tokenizer.model_input_names or name == "attention_mask"]
        for name in self._names:
            if name not in made:
                return f"reads '{name}', and the tokenizer beside it makes {', '.join(made)}"
        stated = self._session.get_modelmeta().custom_metadata_map.get(VOCABULARY_KEY)
        if stated and int(stated) < len(tokenizer):
            return f"knows {stated} tokens, and the tokenizer beside it has {len(tokenizer)}"
        return None

    def _strange_logits(self, task: Task) -> str | None:
        """What tells by the declared shape of its logits that the file is another task's; a size may be left open."""
        shape, classes = list(self._session.get_outputs()[0].shape), task.head().get("num_labels")
        wanted = [*task.axes[:-1], task.axes[-1] if classes is None else classes]
        other = bool(shape) and isinstance(shape[-1], int) and classes is not None and shape[-1] != classes
        if shape and (other or len(shape) != len(wanted)):
            return f"gives {_listed(shape)}, and the logits of the task '{task.name}' are {_listed(wanted)}"
        return None

    def forward(self, **inputs: Tensor) -> dict[str, Any]:
        """{"logits": as the task has them}, where the inputs are; what the file does not take is left out."""
        fed = {name: inputs[name].cpu().numpy() for name in self._names}
        [logits, *_] = self._session.run(None, fed)
        return {"logits": torch.from_numpy(logits).to(inputs["input_ids"].device)}


def _listed(sizes: Sequence[Any]) -> str:
    return f"[{', '.join(map(str, sizes))}]"
