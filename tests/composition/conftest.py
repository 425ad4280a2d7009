"""A teacher for all of them, and an eye on what every training leaves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import potstill
from potstill import training
from potstill.engine import Engine
from potstill.position import Position
from potstill.stage import Stage, count_hooks
from potstill.testing.tiny import bert, recipe, write_data
from tests.composition.plugins import CHARACTERS


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, vocabularies, and a trained teacher of four layers in "teacher"."""
    place = write_data(tmp_path_factory.mktemp("composition"))
    (place / "characters.txt").write_text("\n".join(CHARACTERS) + "\n", encoding="utf-8")
    tables = recipe(teacher={"config": bert(4), "tokenizer": "vocab.txt"})
    tables["stage"] = [{**tables["stage"][0], "epochs": 4}]
    potstill.run(tables, folder=place / "run", data_root=place)
    (place / "run/model").rename(place / "teacher")
    return place


@pytest.fixture(autouse=True)
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every training leaves no hook behind and no parameter changed that the optimizer does not have."""
    train, check = Engine.train, training._check_hooks

    def watched_train(self: Engine) -> Position:
        optimized = {parameter for group in self.optimizer.param_groups for parameter in group["params"]}
        others = {name: value for name, value in _parameters(self.stage) if value not in optimized}
        before = {name: value.detach().clone() for name, value in others.items()}
        position = train(self)
        for name, value in others.items():
            assert torch.equal(before[name].to(value.dtype), value), name
        return position

    def watched_check(stage: Stage) -> None:
        check(stage)
        assert not any(count_hooks(model.module) for model in stage._models._teachers.values())

    monkeypatch.setattr(Engine, "train", watched_train)
    monkeypatch.setattr(training, "_check_hooks", watched_check)


def _parameters(stage: Stage) -> Iterator[tuple[str, Tensor]]:
    sides: dict[str, Any] = {"student": stage.student, **stage._models._teachers}
    for side, model in sides.items():
        for name, value in model.module.named_parameters():
            yield f"{side}: {name}", value
