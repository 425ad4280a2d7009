"""The plugin `onnx`: the student as ONNX in fp32 and INT8, proved equal and timed against its teacher."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.export import Artifact, ExportJob
from potstill.plugin import Plugin, hookimpl
from potstill_onnx.config import OnnxConfig

if TYPE_CHECKING:
    from potstill.timing import Timing
    from potstill_onnx.exporting import Exported

VERSIONS = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime")


class Onnx(Plugin):
    """Exports the student to ONNX."""

    name = "onnx"
    Config = OnnxConfig
    config: OnnxConfig

    @hookimpl
    def export(self, job: ExportJob) -> Artifact:
        """Writes model.onnx, model.int8.onnx, teacher.onnx and what a program needs beside them.

        Raises: PotstillError where the student cannot be exported or its logits are off by more than `tolerance`.
        """
        # Listing plugins and checking recipes must not wait for torch and ONNX Runtime.
        from potstill.timing import records
        from potstill_onnx.exporting import TEACHER, Exporter
        from potstill_onnx.latency import latency
        from potstill_onnx.sidecars import write_sidecars

        exporter = Exporter(job, self.config)
        models = exporter.models()
        timings = latency(models, job, self.config) if self.config.time else []
        files = [file for model in models for file in model.files] + write_sidecars(job, exporter.student.like)
        first = {timing.name: timing for timing in timings[: len(models)]}
        facts = {
            "opset": self.config.opset,
            "attention": {model.name: model.attention for model in models},
            "tolerance": self.config.tolerance,
            "parity": {model.name: model.parity for model in models},
            # The folder may be moved once it is complete.
            "timing": [record | {"path": Path(record["path"]).name} for record in records(timings)],
            "versions": {name: import_module(name).__version__ for name in VERSIONS},
        }
        return Artifact(
            "onnx",
            tuple(files),
            tuple(_row(model, first.get(model.name), first.get(TEACHER)) for model in models),
            facts,
        )


def _row(model: Exported, timing: Timing | None, teacher: Timing | None) -> dict[str, Any]:
    """The model's row in the run's table; latency at the first shape timed, the speed-up over the teacher's."""
    row: dict[str, Any] = {
        "model": model.name,
        **model.scores,
        "parameters": model.parameters,
        "bytes": sum(file.stat().st_size for file in model.files),
    }
    if timing:
        row |= {"p50_ms": timing.p50_ms, "p95_ms": timing.p95_ms}
    if timing and teacher:
        from potstill.timing import speedup

        found = speedup(teacher.name, teacher.round_p50_ms, timing.round_p50_ms)
        row["speedup"] = 1.0 if timing is teacher else found.shown
    return row
