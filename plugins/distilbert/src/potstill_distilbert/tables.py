"""Which layers of the teacher a student starts as, counted from 1: the authors' lists, and rules for any depth."""

from __future__ import annotations

from typing import Literal, get_args

from potstill.errors import ModelError
from potstill.layers import layer_pairs

Strategy = Literal["published", "table", "supervised", "even", "first", "last"]

PUBLISHED = (1, 3, 5, 8, 10, 12)
"""DistilBERT's six of twelve (extract_distilbert.py); the first n of them for a shallower student, as DIITO has it."""
PUBLISHED_DEEPER = (1, 3, 4, 5, 8, 9, 10, 11, 12)
"""DIITO's for more than six."""
COPIED: dict[tuple[int, int], tuple[int, ...]] = {
    (12, 1): (1,),
    (12, 2): (1, 7),
    (12, 3): (1, 7, 12),
    (12, 4): (1, 5, 9, 12),
    (12, 6): (1, 3, 5, 8, 10, 12),
    (12, 9): (1, 2, 3, 5, 6, 8, 10, 11, 12),
    (16, 6): (1, 4, 7, 10, 13, 16),
    (16, 8): (1, 3, 5, 7, 9, 11, 13, 16),
    (6, 3): (1, 3, 6),
}
"""By the teacher's and the student's depth (make_student.py, LAYERS_TO_COPY)."""
SUPERVISED: dict[tuple[int, int], tuple[int, ...]] = {
    (6, 1): (6,),
    (6, 2): (4, 6),
    (6, 3): (2, 5, 6),
    (6, 4): (2, 3, 5, 6),
    (12, 1): (12,),
    (12, 2): (6, 12),
    (12, 3): (4, 8, 12),
    (12, 6): (2, 4, 6, 9, 11, 12),
    (16, 1): (16,),
    (16, 4): (5, 10, 13, 16),
    (16, 8): (2, 4, 6, 8, 10, 12, 14, 16),
}
"""The same for the layers that a student's are compared with (LAYERS_TO_SUPERVISE)."""


def chosen_layers(strategy: Strategy, student: int, teacher: int) -> tuple[int, ...]:
    """The teacher's layers, from 1, that the student's start as.

    - "published": DistilBERT's fixed list, meant for 12 layers; of 24 it takes lower ones only, as the authors' code.
    - "table": make_student.py's table; the first ones for depths that are not in it.
    - "supervised": its table of the layers to compare with.
    - "even": layer N * m / M; "first" and "last": those.

    Args:
        student, teacher: how many layers they have.

    Raises: ModelError where there is no such choice.
    """
    if strategy not in get_args(Strategy):
        raise ModelError(f"layers = '{strategy}' is none of {', '.join(get_args(Strategy))}.")
    if strategy == "published":
        return _published(student, teacher)
    if strategy == "supervised":
        return _supervised(student, teacher)
    if strategy == "table" and (teacher, student) in COPIED:
        return COPIED[teacher, student]
    rule = {"table": "first", "even": "uniform"}.get(strategy, strategy)
    return tuple(layer for _, layer in layer_pairs(rule, student, teacher))  # type: ignore[arg-type]


def _published(student: int, teacher: int) -> tuple[int, ...]:
    known = PUBLISHED if student <= len(PUBLISHED) else PUBLISHED_DEEPER
    if student > len(known):
        raise ModelError(
            f"The published list has {len(known)} layers and the student {student}; take layers = 'even', or name them."
        )
    if max(known[:student]) > teacher:
        raise ModelError(
            f"The published list takes layer {max(known[:student])} of 12, and the teacher has {teacher} layers; take "
            "layers = 'even', or name them."
        )
    return known[:student]


def _supervised(student: int, teacher: int) -> tuple[int, ...]:
    if (teacher, student) not in SUPERVISED:
        pairs = ", ".join(f"{known} to {own}" for known, own in SUPERVISED)
        raise ModelError(
            f"The table of supervised layers has no student of {student} layers for a teacher of {teacher}, only "
            f"{pairs}; take layers = 'even', or name them."
        )
    return SUPERVISED[teacher, student]
