"""A frozen teacher's logits, computed once a row: for all epochs, and all runs of one teacher on the same rows.

A teacher that is looked at for its logits alone, on batches that nothing changes, answers a row the same in every
epoch. Its answers are computed before the first update and kept in the cache of tokenized data, by content.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

import potstill
from potstill import checkpoint
from potstill.context import cache_folder, model_key
from potstill.evaluate import predict
from potstill.files import new_folder, text_hash

if TYPE_CHECKING:
    from potstill.data.examples import Examples
    from potstill.stage import Stage

LIMIT = 2**28
"""Numbers that are kept at most (1 GB)."""
_NAME = "logits"


def teacher_logits(stage: Stage, rows: Examples) -> Tensor | None:
    """The teacher's logits of every row, from the cache, which is filled first where it does not hold them.

    Returns: [rows, classes] float32 on the CPU; None where a row's logits are not one vector, or are too many to keep.
    Raises: Interrupted where the run was asked to stop.
    """
    ranks = stage.context.ranks
    folder = cache_folder() / _key(stage, rows)
    known = _read(folder)
    if all(ranks.gather(known is not None)):
        return known
    classes = _classes(stage, rows)
    if classes is None or classes * len(rows) > LIMIT:
        return None
    logits = _computed(stage, rows)
    if ranks.main:
        with new_folder(folder) as draft:
            checkpoint.write_tree(draft, {_NAME: logits})
    ranks.wait()
    return logits


def _classes(stage: Stage, rows: Examples) -> int | None:
    """How many logits a row has; None where they are not one vector a row."""
    with torch.no_grad(), stage.precision.teacher():
        batch = rows.batch([0]).to(stage.context.ranks.device)
        logits = stage.task.logits(stage.teacher.module(**batch.teacher))
    return logits.shape[1] if logits.dim() == 2 else None


def _computed(stage: Stage, rows: Examples) -> Tensor:
    context, size = stage.context, stage.plan.eval_batch_size
    with context.progress.bar("the teacher's logits", -(-len(rows) // size)) as bar, stage.precision.teacher():
        logits, _, _ = predict(
            stage.teacher.module,
            rows,
            stage.task,
            context.ranks,
            batch_size=size,
            teacher_inputs=True,
            check=context.check_stop,
            bar=bar,
        )
    return torch.from_numpy(np.asarray(logits, np.float32))


def _key(stage: Stage, rows: Examples) -> str:
    """What decides the answers: the teacher, its tokens, and in what numbers it computes where."""
    facts = [
        [potstill.__version__, torch.__version__, stage.context.ranks.device.type],
        [model_key(stage.teacher), rows.teacher_key, stage.task.name],
        [stage.precision.key],
    ]
    return text_hash(json.dumps(facts))[:32]


def _read(folder: Path) -> Tensor | None:
    if checkpoint.damage(folder) is not None:
        return None
    logits: Tensor = checkpoint.read_tree(folder)[_NAME]
    return logits
