"""The plugin `amp`: models compute in bfloat16 or float16, weights and losses stay in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from potstill.plugin import Plugin, PluginConfig, hookimpl

if TYPE_CHECKING:
    from potstill.stage import Stage

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class Amp(Plugin):
    """Automatic mixed precision, and a frozen teacher in half precision."""

    name = "amp"

    class Config(PluginConfig):
        dtype: Dtype = "auto"
        """What the student's forward and backward pass compute in. "auto": what is fastest here, by a measurement."""
        teacher_dtype: Dtype = "auto"
        """What frozen teachers are converted to. "auto": the same as `dtype`."""
        teacher_tolerance: float = Field(0.05, gt=0)
        """Largest difference of a teacher's feature from float32, as a share of the feature's largest value."""
        tf32: bool = False
        """Lets float32 matrix products on CUDA use TensorFloat-32 while the stage runs; nothing on other devices."""
        init_scale: float = Field(65536.0, ge=1)
        """Factor of the loss that float16 starts with."""
        growth_interval: int = Field(2000, ge=1)
        """Updates without an overflow after which that factor doubles."""

    config: Config

    @hookimpl
    def setup(self, stage: Stage) -> None:
        from potstill_amp.precision import Mixed

        stage.claim("precision", Mixed(self.config, stage.context.ranks.device.type))
        stage.explain("dtype", self.config.dtype)
        if stage.teacher_names:
            stage.explain("teacher_dtype", self.config.teacher_dtype)
