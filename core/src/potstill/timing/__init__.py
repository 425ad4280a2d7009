"""How fast models answer: `measure` times ONNX files, exported folders and model folders side by side.

Each model runs in a process of its own (two runtimes in one process spoil each other's timings), and the
rounds of the models are interleaved, so that a noisy machine favours nobody. Nothing here imports torch or
onnxruntime outside the worker processes.
"""

from __future__ import annotations

from potstill.timing.locate import Place, locate
from potstill.timing.measure import Entry, measure
from potstill.timing.rank import Speedup, over_the_first, records, speedup
from potstill.timing.result import Timing, conditions

__all__ = [
    "Entry",
    "Place",
    "Speedup",
    "Timing",
    "conditions",
    "locate",
    "measure",
    "over_the_first",
    "records",
    "speedup",
]
