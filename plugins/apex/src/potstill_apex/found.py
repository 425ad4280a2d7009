"""NVIDIA's apex where it is installed and of use, else one sentence that says what is missing and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from potstill.errors import PluginError

BUILD = (
    "build NVIDIA's in a clone of github.com/NVIDIA/apex with APEX_CPP_EXT=1 APEX_CUDA_EXT=1 pip install "
    "--no-build-isolation ., or take an NGC container"
)
INSTEAD = "without it, torch's fused AdamW is the default anyway, and the plugin 'amp' computes in mixed precision"
KERNELS = {"optimizers": "amp_C", "layer norms": "fused_layer_norm_cuda"}
"""What apex's fused parts are built into, modules of their own."""


def find(device: str, parts: Iterable[str], opt_level: str | None) -> ModuleType:
    """NVIDIA's apex, with the parts that are asked for imported.

    Args:
        device: the type of the device that the stage computes on.
        parts: keys of `KERNELS`.
        opt_level: asks for `apex.amp`.

    Raises: PluginError where apex is not there, is another project, lacks a part, or the device is no CUDA one.
    """
    spec = find_spec("apex")
    if spec is None:
        raise PluginError(
            f"The plugin 'apex' needs NVIDIA apex, which is not installed: {BUILD} (the 'apex' on PyPI is another "
            f"project); {INSTEAD}."
        )
    if not _has(spec, "optimizers"):
        raise PluginError(
            f"The package 'apex' in {_place(spec)} is not NVIDIA's but another project, a login toolkit from PyPI; "
            f"uninstall it, and {BUILD}; {INSTEAD}."
        )
    if device != "cuda":
        raise PluginError(f"NVIDIA apex computes on CUDA devices alone, and this run is on '{device}'; {INSTEAD}.")
    for part in parts:
        if find_spec(KERNELS[part]) is None:
            raise PluginError(
                f"This NVIDIA apex was built without its fused {part} ({KERNELS[part]} is missing): {BUILD}."
            )
    if opt_level is not None and not _has(spec, "amp"):
        raise PluginError(
            f"opt_level = '{opt_level}' needs apex.amp, which this NVIDIA apex does not have any more (it was deleted "
            "in May 2025); leave opt_level out, and add the plugin 'amp' with dtype = 'float16'."
        )
    return _imported(["optimizers", "normalization", *(["amp"] if opt_level is not None else [])])


def _imported(names: Iterable[str]) -> ModuleType:
    try:
        for name in names:
            import_module(f"apex.{name}")
        return import_module("apex")
    except (ImportError, RuntimeError) as error:
        told = str(error).splitlines() or [type(error).__name__]
        raise PluginError(f"NVIDIA apex cannot be imported ({told[0]}): {BUILD}.") from error


def _has(spec: ModuleSpec, name: str) -> bool:
    """Whether a package has a part of that name; asked without importing it, which might be anybody's code."""
    places = [Path(place) for place in spec.submodule_search_locations or ()]
    return any((place / name).is_dir() or (place / f"{name}.py").is_file() for place in places)


def _place(spec: ModuleSpec) -> str:
    return next(iter(spec.submodule_search_locations or ()), str(spec.origin))
