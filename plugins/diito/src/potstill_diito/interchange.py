"""Interchange interventions: which tokens and columns are swapped, and the patches that swap them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from potstill.batch import IGNORED, Batch
from potstill.data.random import RowRandom
from potstill.features import Hidden
from potstill.observe import Outputs
from potstill.patches import Patch
from potstill_diito.config import DiitoConfig
from potstill_diito.mapping import Alignment, Read, Shape, Site
from potstill_diito.positions import Swaps, consecutive, count_of, fitted, paired, pasted, scattered


class Choice(NamedTuple):
    """Of one entry of a mapping, the sites of each of the teacher's variables and of each of the student's."""

    teacher: tuple[tuple[Site, ...], ...]
    student: tuple[tuple[Site, ...], ...]


def choices(mapping: Sequence[Alignment], teacher: Shape, student: Shape, read: Read) -> list[Choice]:
    """A mapping on two models.

    Raises: ModelError where a model lacks something that the mapping names.
    """
    return [
        Choice(
            tuple(teacher.sites(variable, read) for variable in entry.teacher),
            tuple(student.sites(variable, read) for variable in entry.student),
        )
        for entry in mapping
    ]


def drawn(found: Sequence[Choice], seed: int, update: int, key: int) -> tuple[tuple[Site, ...], tuple[Site, ...]]:
    """The sites of the teacher and of the student: an entry, then a variable of each side, independently.

    The same arguments draw the same, whatever was drawn before, on any rank and in any pass.

    Args:
        update: its number.
        key: tells apart what draws in one update.
    """
    draw = RowRandom(seed, update, [key], "diito mapping").generator(0)
    entry = found[draw.integers(len(found))]
    return entry.teacher[draw.integers(len(entry.teacher))], entry.student[draw.integers(len(entry.student))]


def swaps_of(base: Batch, source: Batch, config: DiitoConfig, rng: RowRandom, pad: int = 0) -> Swaps:
    """Draws the tokens that are swapped. With padding = "reference" the source is cut to the base's width first.

    Args:
        base, source: row by row; both corrupted already, where the task does that.
        rng: of the base's rows.
        pad: id of the padding.
    """
    width = base.student["input_ids"].shape[1]
    if config.padding == "reference":
        source.student.update(fitted(source.student, width, pad))
    own, other = (batch.student["attention_mask"] for batch in (base, source))
    count = count_of(own.sum(1), other.sum(1), config.interchange_prop, config.max_tokens)
    if config.positions == "consecutive":
        return paired(*(consecutive(mask.sum(1), count, mask.shape[1], rng) for mask in (own, other)))
    allowed, others = own > 0, other > 0
    if config.padding == "reference":
        allowed, others = own >= 0, other >= 0
    if config.positions == "masked":
        allowed = base.labels != IGNORED
        count = count_of(allowed.sum(1), others.sum(1), 1.0, config.max_tokens)
    return paired(scattered(allowed, count, rng), scattered(others, count, rng))


def interchanged(source: Outputs, sites: Sequence[Site], swaps: Swaps) -> tuple[Patch, ...]:
    """The patches that put a source run's activations into a run over the base; gradients flow back through them."""
    return tuple(
        Patch(
            site.write,
            swaps.rows,
            swaps.base,
            source[Hidden(site.read)][swaps.rows, swaps.source, site.start : site.stop],
            site.start,
            site.stop,
        )
        for site in sites
    )


def augmented(base: Batch, source: Batch, swaps: Swaps) -> Batch:
    """The base's batch with the source's tokens put in; mask, types and labels stay the base's."""
    inputs = {**base.student, "input_ids": _pasted(base.student, source.student, swaps)}
    return replace(base, student=inputs, teacher=inputs)


def _pasted(base: dict[str, Tensor], source: dict[str, Tensor], swaps: Swaps) -> Tensor:
    return pasted(base["input_ids"], source["input_ids"], swaps)
