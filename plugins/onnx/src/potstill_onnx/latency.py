"""The exported models timed against each other."""

from __future__ import annotations

from collections.abc import Sequence

from potstill.export import ExportJob
from potstill.timing import Entry, Timing, measure
from potstill_onnx.config import OnnxConfig
from potstill_onnx.exporting import Exported


def latency(models: Sequence[Exported], job: ExportJob, config: OnnxConfig) -> list[Timing]:
    """Times every model at every length and batch size of the config, shape by shape."""
    timings = measure(
        [Entry(model.name, model.files[0]) for model in models],
        lengths=config.lengths or (job.max_length,),
        batches=config.batches,
        rounds=config.rounds,
        threads=config.threads,
        progress=job.progress,
    )
    first = timings[0]
    load = "" if first.load is None else f", load {first.load:.2f}"
    threads = "1 thread" if first.threads == 1 else f"{first.threads} threads"
    job.progress.note(
        f"latency at batch {first.batch} × {first.length} tokens, {threads}, {first.runs} runs each{load}"
    )
    return timings
