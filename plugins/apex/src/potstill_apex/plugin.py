"""The plugin `apex`: NVIDIA's fused optimizers and layer norms, and apex.amp where there still is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import model_validator

from potstill.errors import ModelError
from potstill.plugin import Plugin, PluginConfig, hookimpl

if TYPE_CHECKING:
    from types import ModuleType

    from potstill.models import Model
    from potstill.stage import Stage


class Apex(Plugin):
    """Parts of NVIDIA apex, which is no dependency: it is built from source, and computes on CUDA devices alone."""

    name = "apex"

    class Config(PluginConfig):
        optimizer: Literal["adam", "lamb", "none"] = "adam"
        """FusedAdam (AdamW) or FusedLAMB in place of the core's optimizer; "none" leaves the core's."""
        layer_norm: bool = False
        """FusedLayerNorm in the student while it is trained; what is saved has torch's own again."""
        teacher_layer_norm: bool = False
        """FusedLayerNorm in the teachers."""
        opt_level: Literal["O1", "O2"] | None = None
        """Mixed precision by an apex of before May 2025; the plugin `amp` does it without apex."""

        @model_validator(mode="after")
        def _something(self) -> Apex.Config:
            norms = self.layer_norm or self.teacher_layer_norm
            if self.optimizer == "none" and not norms and self.opt_level is None:
                raise ValueError("nothing of apex is asked for: no optimizer, layer_norm or opt_level")
            return self

    config: Config

    @hookimpl
    def setup(self, stage: Stage) -> None:
        from potstill_apex import found, fused, scaled

        config = self.config
        norms = config.layer_norm or config.teacher_layer_norm
        parts = [*(["optimizers"] if config.optimizer != "none" else []), *(["layer norms"] if norms else [])]
        apex = found.find(stage.context.ranks.device.type, parts, config.opt_level)
        if config.optimizer != "none":
            stage.claim("optimizer", fused.maker(apex, config.optimizer))
        if config.opt_level is not None:
            stage.claim("precision", scaled.Scaled(apex.amp, config.opt_level))
        if config.layer_norm:
            stage.explain("layer_norms", _fuse(stage, apex, stage.student, "student"))
        if config.teacher_layer_norm:
            for name, teacher in stage.teachers.items():
                _fuse(stage, apex, teacher, f"teacher {name}".rstrip())


def _fuse(stage: Stage, apex: ModuleType, model: Model, side: str) -> int:
    """Gives a model fused layer norms until the stage is over; how many.

    Raises: ModelError where it has none to exchange.
    """
    from torch import nn

    from potstill_apex.fused import exchange

    norm = apex.normalization.FusedLayerNorm
    count = exchange(model.module, nn.LayerNorm, norm)
    if not count:
        raise ModelError(
            f"The {side}, a {type(model.module).__name__}, has no nn.LayerNorm with weight and bias that apex could "
            "fuse; leave layer_norm out."
        )
    stage.exit.callback(lambda: exchange(model.module, norm, nn.LayerNorm))
    return count
