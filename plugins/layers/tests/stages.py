"""Tiny stages that the tests look into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from potstill import testing
from potstill.shares import shares
from potstill.stage import Stage
from potstill.step import Step
from potstill.testing.tiny import bert, recipe

CALM = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def tables_of(options: dict[str, Any], teacher: Any = None, student: dict[str, Any] | None = None) -> dict[str, Any]:
    """One stage, "distil", with the plugin's options.

    Args:
        teacher: the stage's key `teacher` (a folder), or `teachers` (a dict of folders); None is a fresh one of 4
            layers and 4 heads, 48 wide, whose logits nobody may look at.
        student: its config; None is 2 layers and 2 heads, 32 wide.
    """
    who = {} if teacher is None else {"teachers" if isinstance(teacher, dict) else "teacher": teacher}
    return recipe(
        teacher={"config": bert(4, 48, **{**CALM, "num_attention_heads": 4}), "tokenizer": "vocab.txt"},
        student={"config": student or bert(2, **CALM), "tokenizer": "vocab.txt"},
        stage=[{"name": "distil", "plugins": ["layers"], "layers": options, "batch_size": 8, "updates": 8, **who}],
    )


def stage_of(tables: dict[str, Any], data: Path, folder: Path) -> Stage:
    """The last stage, set up and counted."""
    stage = testing.stage_of(tables, data, folder)
    rows = stage.examples("train")
    assert rows is not None
    stage.count_updates(rows)
    return stage


def step_of(stage: Stage, update: int = 0, rows: int = 8) -> Step:
    """The first rows as a step."""
    examples = stage.examples("train")
    assert examples is not None
    batch = examples.batch(np.arange(rows))
    return Step(stage, batch, shares([batch], stage.units), update, 0)


def matches_of(stage: Stage) -> list[str]:
    """What a stage explains of its matches, one line each."""
    return [", ".join(f"{key} {value}" for key, value in one.items()) for one in stage.explained["layers"]["matches"]]
