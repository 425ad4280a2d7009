"""Where a stage stands."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Position:
    """Where a stage stands; all of it is in every checkpoint.

    Attributes:
        epoch, group: the group of micro-batches that comes next.
        update: updates tried so far; `applied` of them changed the weights.
        best, best_update: the best score so far, and when.
        worse: evaluations since then.
        finished: nothing is left to do.
        due: an evaluation after this update was put off, since the run was asked to stop.
        seconds: spent in updates.
    """

    epoch: int = 0
    group: int = 0
    update: int = 0
    applied: int = 0
    best: float | None = None
    best_update: int = 0
    worse: int = 0
    finished: bool = False
    due: bool = False
    seconds: float = 0.0
