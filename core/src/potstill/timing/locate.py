"""What a path given to `potstill time` is: an ONNX file, an exported folder, or a model folder for torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from potstill.errors import ModelError, did_you_mean

EXPORTED = "model.onnx"
"""The file's name in an exported folder."""
DEFAULT_VOCABULARY = 1000


@dataclass(frozen=True)
class Place:
    """Something that can be timed.

    Attributes:
        runtime: what runs it.
        path: the ONNX file, or the folder that holds config.json and model.safetensors.
    """

    runtime: Literal["onnxruntime", "torch"]
    path: Path

    @property
    def folder(self) -> Path:
        return self.path if self.path.is_dir() else self.path.parent


def locate(path: str | Path) -> Place:
    """Finds what to run for a path.

    Raises: ModelError where there is nothing, or nothing that can be timed.
    """
    path = Path(path).expanduser()
    if path.is_file():
        if path.suffix != ".onnx":
            raise ModelError(f"{path} cannot be timed; give an .onnx file, an exported folder or a model folder.")
        return Place("onnxruntime", path)
    if not path.is_dir():
        near = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ModelError(f"There is no model at {path}.{did_you_mean(path.name, near)}")
    if (path / EXPORTED).is_file():
        return Place("onnxruntime", path / EXPORTED)
    if (path / "config.json").is_file():
        return Place("torch", path)
    inside = [str(path / name) for name in ("export", "model") if (path / name).is_dir()]
    hint = f" Did you mean {' or '.join(inside)}?" if inside else ""
    raise ModelError(f"The folder {path} holds neither {EXPORTED} nor config.json, so there is nothing to time.{hint}")


def vocabulary_size(folder: Path) -> int:
    """How many token ids a model beside `folder`'s files knows: of config.json, of tokenizer.json, else 1000."""
    config = _json(folder / "config.json")
    if isinstance(config.get("vocab_size"), int):
        return int(config["vocab_size"])
    tokenizer = _json(folder / "tokenizer.json")
    vocabulary = tokenizer.get("model", {}).get("vocab")
    # A unigram model's vocabulary is a list of pairs; added tokens may have ids beyond the vocabulary's.
    known = len(vocabulary) if isinstance(vocabulary, dict | list) else 0
    added = [int(token["id"]) + 1 for token in tokenizer.get("added_tokens", [])]
    return max([known, *added]) or DEFAULT_VOCABULARY


def positions(folder: Path) -> int | None:
    """How many positions the model beside `folder`'s files says it has; None where it says nothing."""
    stated = _json(folder / "config.json").get("max_position_embeddings")
    return stated if isinstance(stated, int) else None


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    value = json.loads(path.read_text(encoding="utf-8"))
    return value if isinstance(value, dict) else {}
