"""Tiny stages in float64 that the tests look into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from potstill import testing
from potstill.shares import shares
from potstill.stage import Stage
from potstill.step import Step
from potstill.testing.tiny import student_only


def stage_of(data: Path, folder: Path, **stage: Any) -> Stage:
    """One supervised stage of a BERT without dropout, in float64."""
    return stage_from(student_only(**stage), data, folder)


def stage_from(tables: dict[str, Any], data: Path, folder: Path) -> Stage:
    """A recipe's last stage, in float64."""
    stage = testing.stage_of(tables, data, folder)
    stage.student.module.double()
    return stage


def steps_of(stage: Stage, *groups: range) -> list[Step]:
    """One update's steps; the groups are the rows of its micro-batches. Rows 9, 19, 29, … have no label."""
    rows = stage.examples("train")
    assert rows is not None
    batches = [rows.batch(list(group)) for group in groups]
    portions = shares(batches, stage.units)
    return [Step(stage, batch, portions, 0, micro) for micro, batch in enumerate(batches)]


def run_steps(stage: Stage, *groups: range) -> list[Step]:
    """One update's steps after their passes; the gradients are on the parameters."""
    steps = steps_of(stage, *groups)
    for step in steps:
        stage.hook.on_step(step=step)
    return steps


def gradients(stage: Stage, *groups: range) -> dict[str, Tensor]:
    """An update's gradient of every parameter, by name."""
    stage.student.module.zero_grad()
    run_steps(stage, *groups)
    return {
        name: value.grad.clone() for name, value in stage.student.module.named_parameters() if value.grad is not None
    }


def table_of(stage: Stage) -> nn.Embedding:
    """The student's word vectors."""
    table = stage.student.module.get_input_embeddings()
    assert isinstance(table, nn.Embedding)
    return table
