"""Checkpoints: a tree of tensors and plain values as safetensors and JSON, written whole or not at all.

A checkpoint is a folder `update-00001500` with `tensors.safetensors`, `state.json` and `manifest.json`
(the hashes of the other two). One that fails its hashes is passed over for the one before.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from potstill.errors import FileError
from potstill.files import file_hash, new_folder, read_json, sweep_drafts, write_json

KEEP = 2
"""How many checkpoints of a stage stay on disk."""
FILES = ("state.json", "tensors.safetensors")


def save(folder: Path, update: int, state: dict[str, Any]) -> Path:
    """Writes a checkpoint below `folder` and drops those older than the newest `KEEP`."""
    path = folder / f"update-{update:08d}"
    with new_folder(path) as draft:
        write_tree(draft, state)
    everyone = _checkpoints(folder)
    # Those that are ahead of this one were found damaged and passed over.
    kept = [other for other in everyone if other.name <= path.name][-KEEP:]
    for other in everyone:
        if other not in kept:
            shutil.rmtree(other)
    return path


def load_newest(folder: Path, note: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest checkpoint that is whole; None where there is none.

    Args:
        note: is told of a damaged one that was passed over.

    Raises:
        FileError: there are checkpoints, and every one is damaged.
    """
    sweep_drafts(folder)
    paths = _checkpoints(folder)
    for path in reversed(paths):
        problem = damage(path)
        if problem is None:
            return read_tree(path)
        note(f"The checkpoint {path.name} is damaged ({problem}); going on from the one before.")
    if paths:
        raise FileError(f"Every checkpoint in {folder} is damaged; remove the folder to start this stage again.")
    return None


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("update-*") if path.is_dir())


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint's files; None where they are whole."""
    try:
        hashes = read_json(path / "manifest.json")
        digests = {name: hashes[name] for name in FILES}
    except (OSError, ValueError, LookupError, TypeError):
        return "manifest.json is missing or cut short"
    for name, digest in digests.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if file_hash(path / name) != digest:
            return f"{name} is not what was written"
    return None


def write_tree(folder: Path, tree: dict[str, Any]) -> None:
    """Writes a tree of dicts, lists, tensors and plain values into a folder, with a manifest of hashes."""
    tensors: dict[str, Tensor] = {}
    write_json(folder / "state.json", _without_tensors(tree, "", tensors))
    save_file(tensors, folder / "tensors.safetensors")
    write_json(folder / "manifest.json", {name: file_hash(folder / name) for name in FILES})


def read_tree(folder: Path) -> dict[str, Any]:
    """What `write_tree` wrote."""
    try:
        tensors = load_file(folder / "tensors.safetensors")
    except SafetensorError as error:
        raise FileError(f"The checkpoint {folder} cannot be read: {error}") from error
    tree: dict[str, Any] = _with_tensors(read_json(folder / "state.json"), tensors)
    return tree


def _without_tensors(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """The tree with every tensor moved into `tensors` under its path, a marker in its place.

    JSON keys are strings, so a dict is written as a list of pairs where a key is not one (optimizer states).
    """
    if isinstance(value, Tensor):
        # A path alone could come twice: the keys 1 and "1", or a key with a slash.
        name = f"{len(tensors)}{path}"
        # A clone: tied weights share memory, which safetensors refuses.
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"$tensor": name}
    if isinstance(value, dict):
        for key in value:
            if not (key is None or isinstance(key, bool | int | float | str)):
                raise TypeError(f"A checkpoint's keys are plain values; '{path}' has a {type(key).__name__}.")
        pairs = [[key, _without_tensors(part, f"{path}/{key}", tensors)] for key, part in value.items()]
        return (
            dict(pairs) if all(isinstance(key, str) and not key.startswith("$") for key in value) else {"$pairs": pairs}
        )
    if isinstance(value, tuple):
        return {"$tuple": [_without_tensors(part, f"{path}/{i}", tensors) for i, part in enumerate(value)]}
    if isinstance(value, list):
        return [_without_tensors(part, f"{path}/{i}", tensors) for i, part in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"A checkpoint holds tensors and plain values; '{path}' is a {type(value).__name__}.")


def _with_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_with_tensors(part, tensors) for part in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return tensors[value["$tensor"]]
    if "$pairs" in value:
        return {key: _with_tensors(part, tensors) for key, part in value["$pairs"]}
    if "$tuple" in value:
        return tuple(_with_tensors(part, tensors) for part in value["$tuple"])
    return {key: _with_tensors(part, tensors) for key, part in value.items()}


def random_state() -> dict[str, Any]:
    """The states of all random generators in use: Python's, NumPy's, torch's on the CPU and on CUDA."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": {"kind": kind, "keys": [int(key) for key in keys], "rest": [position, has_gauss, gauss]},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Takes back what `random_state` gave."""
    random.setstate(state["python"])
    numpy = state["numpy"]
    np.random.set_state((numpy["kind"], np.array(numpy["keys"], dtype=np.uint32), *numpy["rest"]))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def seed_everything(seed: int) -> None:
    """Seeds all random generators in use."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def own_random(seed: int) -> Iterator[None]:
    """Within the block all random generators start at `seed`; after it they go on where they were."""
    before = random_state()
    seed_everything(seed)
    try:
        yield
    finally:
        set_random_state(before)
