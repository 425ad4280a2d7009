"""The exported models timed against each other."""

from __future__ import annotations

from collections.abc import Sequence

from potstill.export import ExportJob
from potstill.timing import Entry, Timing, conditions, measure, over_the_first
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
    job.progress.note(f"latency at batch {first.batch} × {first.length} tokens: {conditions(timings)}")
    for timing, found in list(zip(timings, over_the_first(timings), strict=True))[: len(models)]:
        if found and not found.ranked:
            job.progress.note(
                f"{timing.name} against {found.over}: {found.verdict} ({found.interval or 'no interval'})"
            )
    return timings
