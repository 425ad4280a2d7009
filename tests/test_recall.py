"""The teacher's logits, asked for once a row: the same training, and only where nothing else is looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import potstill
from potstill import loader
from potstill.context import cache_folder
from potstill.engine import Engine
from potstill.features import LOGITS, Hidden
from potstill.models import Model
from potstill.plugin import LossTerm, Plugin, hookimpl
from potstill.recall import teacher_logits
from potstill.stage import Stage
from potstill.stagemodels import StageModels
from potstill.step import Step
from potstill.testing import stage_of, weights
from potstill.testing.tiny import recipe

CALM = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture(scope="module")
def teacher(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a trained teacher."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    tables = recipe("hinton")
    potstill.run({**tables, "stage": tables["stage"][:1]}, folder=folder, data_root=data)
    return folder / "stages/01-teacher/best"


def tables_of(teacher: Path, **stage: Any) -> dict[str, Any]:
    tables = recipe("hinton", teacher={"model": str(teacher)})
    tables["student"]["config"].update(CALM)
    return {**tables, "stage": [{**tables["stage"][1], **stage}]}


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of every forward pass of a teacher, as they come."""
    rows: list[int] = []
    teacher = StageModels.teacher

    def counted(models: StageModels, name: str) -> Model:
        known = name in models._teachers
        model = teacher(models, name)
        if known:
            return model
        model.module.register_forward_pre_hook(
            lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
        )
        return model

    monkeypatch.setattr(StageModels, "teacher", counted)
    return rows


def test_a_teacher_asked_once_trains_the_student_that_one_asked_every_time_does(
    teacher: Path, data: Path, tmp_path: Path
) -> None:
    losses = []
    for once in (True, False):
        result = potstill.run(
            tables_of(teacher, teacher_once=once, epochs=3), folder=tmp_path / str(once), data_root=data
        )
        losses.append(result.metrics["loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    asked = weights(tmp_path / "False", "distil")
    for name, value in weights(tmp_path / "True", "distil").items():
        torch.testing.assert_close(value, asked[name], rtol=1e-4, atol=1e-5)


def test_the_logits_are_those_of_the_teacher_row_by_row(teacher: Path, data: Path, tmp_path: Path) -> None:
    stage = stage_of(tables_of(teacher), data, tmp_path)
    rows = stage.examples("train")
    assert rows is not None
    known = teacher_logits(stage, rows)
    assert known is not None
    with stage.exit, torch.no_grad():
        for row in (0, 17, 95):
            expected = stage.teacher.module(**rows.batch([row]).teacher).logits[0]
            torch.testing.assert_close(known[row], expected, rtol=1e-5, atol=1e-5)


def test_a_teacher_runs_over_each_row_once_for_all_epochs_and_runs(
    teacher: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forwards: list[int]
) -> None:
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))
    first = potstill.run(tables_of(teacher, epochs=4), folder=tmp_path / "first", data_root=data)
    assert sum(forwards) == (1 + 96) + (1 + 40)  # each split, and a row to see what an answer looks like
    forwards.clear()
    again = potstill.run(tables_of(teacher, epochs=4), folder=tmp_path / "again", data_root=data)
    assert not forwards
    assert again.metrics == first.metrics
    assert again.stages["distil"]["teacher"] == first.stages["distil"]["teacher"]
    facts = first.stages["distil"]["teacher"]["metrics"]
    measured = potstill.run(
        tables_of(teacher, epochs=1, supervised=1.0), folder=tmp_path / "one", data_root=data
    ).stages["distil"]["teacher"]["metrics"]
    assert facts == pytest.approx(measured)


def test_a_damaged_entry_is_made_again(
    teacher: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))
    stage = stage_of(tables_of(teacher), data, tmp_path)
    rows = stage.examples("train")
    assert rows is not None
    known = teacher_logits(stage, rows)
    [kept] = cache_folder().glob("*/tensors.safetensors")
    kept.write_bytes(kept.read_bytes()[:-8])
    again = teacher_logits(stage, rows)
    assert known is not None
    assert again is not None
    assert torch.equal(known, again)


class Looking(Plugin):
    """Looks at the teacher, as the test says."""

    name = "looking"
    features: Any = (LOGITS,)

    @hookimpl
    def setup(self, stage: Stage) -> None:
        stage.observe(teacher=self.features)

    @hookimpl
    def compute_loss(self, step: Step) -> list[LossTerm]:
        other = step.stage.examples("train").batch(step.batch.index)  # type: ignore[union-attr]
        step.teacher(other)
        return [LossTerm("distance", (step.student().logits - step.teacher()[self.features[0]].mean()).square().mean())]


class Masking(Looking):
    """Changes the batches."""

    @hookimpl
    def collate(self, batch: Any, rng: Any) -> None:
        batch.teacher["input_ids"][:, 1] = 4


class Inner(Looking):
    """Looks inside."""

    features = (Hidden(1),)


@pytest.mark.parametrize(("plugin", "asked"), [(Looking, 1 + 96 + 2 * 96), (Masking, 4 * 96), (Inner, 4 * 96)])
def test_only_plain_logits_of_the_steps_own_batch_are_known_beforehand(
    plugin: type[Plugin],
    asked: int,
    teacher: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    forwards: list[int],
) -> None:
    """Each plugin shows the teacher a second batch at every step, which is nobody's beforehand."""
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(loader, "stage_plugins", lambda recipe, plan: [plugin(None)])
    tables = tables_of(teacher, plugins=[], epochs=2)
    stage = stage_of(tables, data, tmp_path)
    with stage.exit:
        Engine(stage, tmp_path).train()
    assert sum(forwards) == asked


@pytest.mark.parametrize("change", [{"epochs": 1}, {"teacher_once": False}])
def test_one_epoch_asks_as_it_goes_and_so_does_a_stage_that_is_told_to(
    change: dict[str, Any], teacher: Path, data: Path, tmp_path: Path, forwards: list[int]
) -> None:
    stage = stage_of(tables_of(teacher, **change), data, tmp_path)
    with stage.exit:
        Engine(stage, tmp_path).train()
    assert sum(forwards) == 96 * (stage.plan.epochs or 0)
