"""One golden case: what the index says of it and the tensors of its file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

HERE = Path(__file__).parent / "cases"


@dataclass(frozen=True)
class Case:
    """A case of an index.

    Attributes:
        folder: where the files lie.
        entry: the case as the index has it.
    """

    folder: Path
    entry: dict[str, Any]

    @property
    def kind(self) -> str:
        return str(self.entry["kind"])

    @property
    def id(self) -> str:
        return str(self.entry["id"])

    @property
    def params(self) -> dict[str, Any]:
        return dict(self.entry.get("params", {}))

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The file's tensors, floats as float64."""
        tensors = load_file(self.folder / self.entry["file"])
        return {name: value.double() if value.is_floating_point() else value for name, value in tensors.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    @property
    def outputs(self) -> list[str]:
        """The names of the tensors that must be reproduced."""
        return [name for name, about in self.entry["tensors"].items() if about["role"] == "output"]

    def tolerance(self, name: str) -> tuple[float, float]:
        """rtol and atol for a check in float64; what the reference computed in float32 says so in its name.

        Where tolerances are given by name (`frequency_atol`), an output without one has to be exact.
        """
        named = self.entry["tolerance"].get("other")
        if named is not None:
            return _named(named, name, "_rtol"), _named(named, name, "_atol")
        numbers = self.entry["tolerance"]["float32" if name.endswith("_float32") else "float64"]
        return float(numbers["rtol"]), float(numbers["atol"])

    def error(self, name: str, got: Tensor) -> float:
        """The largest |got − want| / (atol + rtol |want|) of an output; up to 1 is right.

        inf where the shape is another, a value is not finite that should be, or one of the tolerances is missed at 0.
        """
        want = self[name].double()
        got = got.detach().double()
        if got.shape != want.shape:
            return float("inf")
        rtol, atol = self.tolerance(name)
        apart = torch.where((got == want) | (got.isnan() & want.isnan()), 0.0, (got - want).abs())
        ratio = torch.where(apart == 0, 0.0, apart / (atol + rtol * want.abs()))
        return float(ratio.nan_to_num(nan=float("inf"), posinf=float("inf")).max()) if ratio.numel() else 0.0


def _named(tolerances: dict[str, Any], name: str, kind: str) -> float:
    fitting = [float(value) for key, value in tolerances.items() if key.endswith(kind) and key[: -len(kind)] in name]
    return max(fitting, default=0.0)


def read_cases(folder: Path) -> Iterator[Case]:
    """The cases of the index in a folder.

    Raises: FileNotFoundError where there is no index.
    """
    for entry in json.loads((folder / "index.json").read_text(encoding="utf-8"))["cases"]:
        yield Case(folder, entry)
