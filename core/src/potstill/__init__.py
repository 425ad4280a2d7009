"""potstill: knowledge distillation of transformer encoders, every algorithm a plugin.

`potstill.run(recipe)` runs a recipe from Python; the rest of the surface is imported on first use, so
that importing this package loads neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from potstill.batch import BATCH as BATCH
    from potstill.batch import EXAMPLE as EXAMPLE
    from potstill.batch import TARGET as TARGET
    from potstill.batch import TOKEN as TOKEN
    from potstill.batch import Batch as Batch
    from potstill.batch import Unit as Unit
    from potstill.export import Artifact as Artifact
    from potstill.export import ExportJob as ExportJob
    from potstill.features import LOGITS as LOGITS
    from potstill.features import POOLED as POOLED
    from potstill.features import QKV as QKV
    from potstill.features import Attention as Attention
    from potstill.features import Hidden as Hidden
    from potstill.features import Scores as Scores
    from potstill.models import Model as Model
    from potstill.plugin import LossTerm as LossTerm
    from potstill.plugin import Plugin as Plugin
    from potstill.plugin import PluginConfig as PluginConfig
    from potstill.plugin import hookimpl as hookimpl
    from potstill.recipe import StagePlan as StagePlan
    from potstill.runner import Result as Result
    from potstill.runner import run as run
    from potstill.stage import Stage as Stage
    from potstill.step import Pass as Pass
    from potstill.step import Step as Step
    from potstill.step import Update as Update

__version__ = "0.1.0"

_HOMES = {
    "batch": ("BATCH", "EXAMPLE", "TARGET", "TOKEN", "Batch", "Unit"),
    "export": ("Artifact", "ExportJob"),
    "features": ("LOGITS", "POOLED", "QKV", "Attention", "Hidden", "Scores"),
    "models": ("Model",),
    "plugin": ("LossTerm", "Plugin", "PluginConfig", "hookimpl"),
    "recipe": ("StagePlan",),
    "runner": ("Result", "run"),
    "stage": ("Stage",),
    "step": ("Pass", "Step", "Update"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *_HOME_OF]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'potstill' has no attribute '{name}'")
    return getattr(import_module(f"potstill.{_HOME_OF[name]}"), name)
