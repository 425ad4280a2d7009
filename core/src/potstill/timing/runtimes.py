"""What runs a model inside a worker: ONNX Runtime or torch, with inputs that fit the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from potstill.errors import ModelError, UserError
from potstill.timing.locate import Place, vocabulary_size

VOCABULARY_KEY = "potstill.vocab_size"
"""In an ONNX file's metadata: how many token ids its model knows."""
_TYPES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float)": np.float32, "tensor(bool)": np.bool_}


class Runtime(Protocol):
    """A loaded model."""

    version: str

    def inputs(self, batch: int, length: int) -> Any:
        """Random token ids [batch, length], every position attended to; the same ones each time."""

    def run(self, inputs: Any) -> Any:
        """One call; returns when the output is there."""


def open_runtime(place: Place, threads: int) -> Runtime:
    """Loads a model.

    Raises: ModelError, UserError where the runtime is not installed.
    """
    return OnnxRuntime(place.path, threads) if place.runtime == "onnxruntime" else TorchRuntime(place.path, threads)


def onnx_session(path: Path, threads: int) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU with a fixed number of threads and no log lines but errors.

    Raises: UserError where onnxruntime is not installed; ModelError where the file cannot be loaded.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"{path.name} needs ONNX Runtime, which is not installed: pip install potstill-onnx") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads that spin on after a call would take the processor from the model whose turn is next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"ONNX Runtime could not load {path}: {line}") from error


class OnnxRuntime:
    """An ONNX file in ONNX Runtime."""

    def __init__(self, path: Path, threads: int) -> None:
        self._session = onnx_session(path, threads)
        import onnxruntime

        self.version = f"onnxruntime {onnxruntime.__version__}"
        stated = self._session.get_modelmeta().custom_metadata_map.get(VOCABULARY_KEY)
        self._vocabulary = int(stated) if stated else vocabulary_size(path.parent)

    def inputs(self, batch: int, length: int) -> dict[str, Any]:
        return {
            item.name: _array(item.name, _TYPES[item.type], batch, length, self._vocabulary)
            for item in map(_checked, self._session.get_inputs())
        }

    def run(self, inputs: dict[str, Any]) -> Any:
        return self._session.run(None, inputs)


class TorchRuntime:
    """A model folder in torch, as its config's architecture."""

    def __init__(self, folder: Path, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._torch = torch
        self.version = f"torch {torch.__version__}"
        self._vocabulary = vocabulary_size(folder)
        self._model = _load(folder).eval()

    def inputs(self, batch: int, length: int) -> dict[str, Any]:
        names = ("input_ids", "attention_mask")
        arrays = {name: _array(name, np.int64, batch, length, self._vocabulary) for name in names}
        return {name: self._torch.from_numpy(array) for name, array in arrays.items()}

    def run(self, inputs: dict[str, Any]) -> Any:
        with self._torch.inference_mode():
            return self._model(**inputs)


def _load(folder: Path) -> Any:
    import transformers

    from potstill.places import register_kind

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if not list(folder.glob("*.safetensors")):
        raise ModelError(f"The folder {folder} holds no model.safetensors.")
    register_kind(config.get("model_type", ""))
    architecture = (config.get("architectures") or ["AutoModel"])[0]
    # A plugin's architecture is not an attribute of transformers, but it is registered with the Auto classes.
    factory = getattr(transformers, architecture, None) or transformers.AutoModelForSequenceClassification
    try:
        return factory.from_pretrained(str(folder), use_safetensors=True, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"The model in {folder} could not be loaded: {line}") from error


def _checked(item: Any) -> Any:
    if item.type not in _TYPES or len(item.shape) != 2:
        raise ModelError(
            f"its input '{item.name}' is a {item.type} of {len(item.shape)} axes, "
            "and only inputs of the form [batch, length] can be made up"
        )
    return item


def _array(name: str, kind: Any, batch: int, length: int, vocabulary: int) -> Any:
    """What an input of this name gets: ids, ones for a mask, zeros for token types, positions."""
    if "mask" in name:
        return np.ones((batch, length), kind)
    if "type" in name or "segment" in name:
        return np.zeros((batch, length), kind)
    if "position" in name:
        return np.tile(np.arange(length, dtype=kind), (batch, 1))
    if "ids" not in name:
        raise ModelError(f"its input '{name}' is none of input_ids, attention_mask, token_type_ids, position_ids")
    return np.random.default_rng(0).integers(0, vocabulary, (batch, length)).astype(kind)
