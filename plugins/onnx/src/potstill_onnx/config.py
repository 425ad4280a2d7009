"""The plugin's options."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from potstill.plugin import PluginConfig

Kind = Literal["plain", "fused"]
Attention = Literal["auto", "plain", "fused"]
Count = Annotated[int, Field(ge=1)]


class OnnxConfig(PluginConfig):
    """The table `[export.onnx]`."""

    opset: int = Field(default=20, ge=18)
    """Version of ONNX's standard operators."""
    attention: Attention = "auto"
    """"fused" is one node a layer that only ONNX Runtime knows, faster in INT8; "plain" runs in every runtime; "auto"
    is fused where the model's attention can be, else plain."""
    tolerance: float = Field(default=1e-4, gt=0)
    """The largest absolute difference of a logit to torch's that is accepted (fp32)."""
    quantize: bool = True
    """Whether to write model.int8.onnx too."""
    per_channel: bool = True
    """In INT8, a scale for every output channel instead of one a matrix."""
    teacher: bool = True
    """Whether to export the teacher too, to compare with."""
    time: bool = True
    """Whether to time the exported models against each other."""
    lengths: tuple[Count, ...] = ()
    """Lengths in tokens to time at; empty: the longest row's (`max_length`). The first one is the table's."""
    batches: tuple[Count, ...] = Field(default=(1,), min_length=1)
    """Batch sizes to time at. The first one is the table's."""
    rounds: Count = 10
    """Turns that each model gets, one after the other."""
    threads: Count = 1
    """Threads of each model when it is timed."""
