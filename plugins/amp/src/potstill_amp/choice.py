"""Which dtype is fastest on this machine: a few of the student's steps in each, without leaving a trace."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from potstill.errors import ModelError
from potstill.places import first_line

if TYPE_CHECKING:
    from potstill.data.examples import Examples
    from potstill.stage import Stage

GAIN = 1.1
"""How many times faster than float32 a dtype must be to be taken."""
REPEATS = 3
"""Whole steps in each dtype, of which the fastest counts."""
PATIENCE = 1.0
"""Seconds that any dtype may take, however fast float32 is: the first step in it loads kernels."""

Times = dict[str, float | None]
"""Seconds a step takes, by dtype; None for one that was given up."""


def candidates(device: str) -> tuple[str, ...]:
    """What is measured on a device, float32 first. float16 is fast on GPUs alone."""
    return ("float32", "bfloat16", "float16") if device == "cuda" else ("float32", "bfloat16")


def step_times(
    step: Callable[[str, int], None], dtypes: Sequence[str], rows: int, clock: Callable[[], float] = perf_counter
) -> Times:
    """Times a step in each dtype; one that takes longer than float32 took altogether, or cannot be done, is given up.

    The batch grows from one row by doubling, so that a dtype far slower than float32 is found out by a small one.

    Args:
        step: does one step in a dtype on so many rows.
        dtypes: float32 first.
        rows: of a whole step.
        clock: in seconds.
    """
    times: Times = {}
    limit = math.inf
    for dtype in dtypes:
        times[dtype], spent = _time(functools.partial(step, dtype), rows, limit, clock)
        if dtype == "float32":
            limit = max(spent, PATIENCE)
    return times


def _time(
    step: Callable[[int], None], rows: int, limit: float, clock: Callable[[], float]
) -> tuple[float | None, float]:
    """Seconds of the fastest whole step, None where all together take longer than `limit`; and of all together."""
    spent, whole = 0.0, []
    for count in _growing(rows):
        begun = clock()
        try:
            step(count)
        except RuntimeError:
            if limit == math.inf:  # float32
                raise
            return None, spent
        seconds = clock() - begun
        spent += seconds
        if count == rows:
            whole.append(seconds)
        if spent > limit:
            return None, spent
    return min(whole), spent


def _growing(rows: int) -> list[int]:
    return [*(2**power for power in range(rows.bit_length()) if 2**power < rows), *[rows] * REPEATS]


def fastest(times: Times) -> str:
    """The dtype to take: the fastest where it is `GAIN` times faster than float32, else float32."""
    known = {dtype: seconds for dtype, seconds in times.items() if seconds is not None}
    best = min(known, key=lambda dtype: known[dtype])
    return best if known[best] * GAIN <= known["float32"] else "float32"


def slowest_rank(everyone: Sequence[Times]) -> Times:
    """The times of several ranks as one: all wait for the slowest."""
    joined: Times = {}
    for dtype in everyone[0]:
        seconds = [times[dtype] for times in everyone]
        joined[dtype] = max((one for one in seconds if one is not None), default=None) if None not in seconds else None
    return joined


def measured(stage: Stage, rows: Examples) -> Times:
    """Times the student's forward and backward pass on a batch of middling size, the same on all ranks.

    Gradients and buffers stay as they are; random draws are the caller's to undo.
    """
    ranks = stage.context.ranks
    indices = _middling(stage, rows, ranks.world)
    with _buffers_kept(stage.student.module):
        times = step_times(_student_step(stage, rows, indices), candidates(ranks.device.type), len(indices))
    return slowest_rank(ranks.gather(times))


def try_out(stage: Stage, rows: Examples, dtype: str) -> None:
    """Does one step on one row.

    Raises: ModelError where the device has an operation of the student's not in this dtype.
    """
    with _buffers_kept(stage.student.module):
        try:
            _student_step(stage, rows, np.arange(1))(dtype, 1)
        except RuntimeError as error:
            raise ModelError(
                f"The student, a {type(stage.student.module).__name__}, cannot be trained in {dtype} on this machine "
                f'({first_line(error).split(". ")[0]}); set dtype = "auto" or "float32" in [stage.amp].'
            ) from error


def _student_step(stage: Stage, rows: Examples, indices: np.ndarray) -> Callable[[str, int], None]:
    """A function that runs the student forward and backward, in a dtype, on so many of the rows."""
    device, observer = stage.context.ranks.device, stage.observer("student")
    trained = [parameter for parameter in stage.student.module.parameters() if parameter.requires_grad]

    def step(dtype: str, count: int) -> None:
        batch = rows.batch(indices[:count]).to(device)
        with torch.autocast(device.type, getattr(torch, dtype), enabled=dtype != "float32"):
            raw, outputs = observer(batch.student)
        logits = stage.with_logits(raw, outputs).logits
        torch.autograd.grad(logits.float().square().mean(), trained, allow_unused=True)
        if device.type != "cpu":
            torch.accelerator.synchronize()  # what is timed is the work, not its being asked for

    return step


def _middling(stage: Stage, rows: Examples, world: int) -> np.ndarray:
    """The rows of one rank's share of the micro-batch of the first epoch that is the median in tokens."""
    batches = [batch for group in stage.batches(rows, 0) for batch in group]
    batches.sort(key=lambda batch: len(batch) * int(rows.lengths[batch].max()))
    batch = batches[len(batches) // 2]
    return batch[: max(1, len(batch) // world)]


@contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    """Within the block batch norms and the like may count; after it they stand where they were."""
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)
