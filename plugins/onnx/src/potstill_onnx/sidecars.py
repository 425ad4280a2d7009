"""What a program needs beside the ONNX file: tokenizer, config, label names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from potstill.export import ExportJob
from potstill.files import write_json
from potstill_onnx.inputs import input_names

CARD = "potstill.json"


def write_sidecars(job: ExportJob, like: Mapping[str, Tensor]) -> list[Path]:
    """Writes the tokenizer, the model's config.json and potstill.json into the job's folder."""
    before = set(job.folder.rglob("*"))
    job.student.tokenizer.save_pretrained(str(job.folder))
    config: Any = getattr(job.student.module, "config", None)
    if config is not None:
        config.save_pretrained(str(job.folder))
    card = {
        "task": {**job.task.config.model_dump(mode="json"), "labels": job.task.names},
        "labels": job.task.names,
        "max_length": job.max_length,
        "inputs": input_names(job.student.module, like),
        "output": "logits",
        **job.columns,
    }
    write_json(job.folder / CARD, card)
    return sorted(path for path in set(job.folder.rglob("*")) - before if path.is_file())
