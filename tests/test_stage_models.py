"""A stage's own models and data: tables beside references, several teachers, other rows, rows changed as text."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import potstill
from potstill import checkpoint, loader
from potstill.data.transform import Transform
from potstill.engine import Engine
from potstill.errors import ModelError, RecipeError
from potstill.features import LOGITS, Hidden
from potstill.plugin import LossTerm, Plugin, hookimpl
from potstill.recipe import parse
from potstill.shares import shares
from potstill.stage import Stage
from potstill.step import Step
from potstill.testing import stage_of
from potstill.testing.tiny import bert, recipe

CALM = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture(scope="module")
def two_teachers(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of two trained teachers, by name."""
    folder = tmp_path_factory.mktemp("teachers")
    stage = {"name": "t", "trains": "teacher", "updates": 8, "batch_size": 8, "learning_rate": 2e-3}
    for name, layers in (("deep", 3), ("wide", 2)):
        teacher = {"config": bert(layers, 48 if name == "wide" else 32), "tokenizer": "vocab.txt"}
        potstill.run(recipe(teacher=teacher, stage=[stage]), folder=folder / name, data_root=data)
    return {name: str(folder / name / "stages/01-t/best") for name in ("deep", "wide")}


class Watching(Plugin):
    """Looks at what the test says."""

    name = "watching"
    wanted: Any = ()

    @hookimpl
    def setup(self, stage: Stage) -> None:
        for of, features in self.wanted:
            stage.observe(teacher=features, of=of)

    @hookimpl
    def compute_loss(self, step: Step) -> list[LossTerm]:
        return [LossTerm("distance", (step.student().logits - step.teacher().logits).square().mean())]


def watching(monkeypatch: pytest.MonkeyPatch, *wanted: Any) -> None:
    plugin = Watching(None)
    plugin.wanted = wanted
    monkeypatch.setattr(loader, "stage_plugins", lambda recipe, plan: [plugin])


def test_without_a_name_several_teachers_are_the_mean_of_their_logits(
    two_teachers: dict[str, str], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watching(monkeypatch, (None, [LOGITS]), ("wide", [Hidden(-1)]))
    tables = recipe(stage=[{"name": "s", "teachers": two_teachers, "student": "fresh", "updates": 2, "batch_size": 8}])
    stage = stage_of(tables, data, tmp_path)
    with stage.exit:
        rows = stage.examples("train")
        assert rows is not None
        batch = rows.batch([0, 5, 7])
        step = Step(stage, batch, shares([batch], stage.units), 0, 0)
        with torch.no_grad():
            every = [model.module(**batch.teacher).logits for model in stage.teachers.values()]
        torch.testing.assert_close(step.teacher().logits, (every[0] + every[1]) / 2)
        torch.testing.assert_close(step.teacher(of="deep").logits, every[0])
        assert step.teacher(of="wide")[Hidden(-1)].shape[-1] == 48
        Engine(stage, tmp_path / "s").train()


def test_inner_features_of_teachers_without_a_name_are_refused(
    two_teachers: dict[str, str], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = recipe(stage=[{"name": "s", "teachers": two_teachers, "student": "fresh"}])
    watching(monkeypatch, (None, [Hidden(1)]))
    with pytest.raises(ModelError, match="has the teachers deep, wide; say which one is meant"):
        stage_of(tables, data, tmp_path)
    watching(monkeypatch, ("big", [LOGITS]))
    with pytest.raises(ModelError, match="has no teacher 'big'; its teachers: deep, wide"):
        stage_of(tables, data, tmp_path)


def test_one_teacher_and_several_cannot_both_be_given() -> None:
    with pytest.raises(RecipeError, match="'teacher' and 'teachers' are both given"):
        parse(recipe(stage=[{"name": "s", "teacher": "fresh", "teachers": {"a": "fresh"}}]))


def test_a_stage_makes_a_student_of_a_table_of_its_own(data: Path, tmp_path: Path) -> None:
    tables = recipe("hinton")
    tables["stage"].insert(1, {**tables["stage"][1], "name": "hop", "student": {"config": bert(3, **CALM)}})
    tables["stage"][2]["teacher"] = "stage:hop"
    tables["stage"][2]["student"] = "fresh"
    result = potstill.run(tables, folder=tmp_path / "run", data_root=data)
    hop, student = result.stages["hop"], result.stages["distil"]
    assert hop["parameters"] > student["parameters"]
    again = potstill.run(tables, folder=tmp_path / "again", data_root=data, reuse=[tmp_path / "run"])
    assert again.stages["hop"]["key"] == hop["key"]
    tables["stage"][1]["student"] = {"config": bert(2, **CALM)}
    other = potstill.run(tables, folder=tmp_path / "other", data_root=data, reuse=[tmp_path / "run"])
    assert other.stages["hop"]["key"] != hop["key"]


def test_a_stage_reads_rows_of_its_own_and_scores_none(data: Path, tmp_path: Path) -> None:
    lines = "the wave and the reef\nold oak and pine\nnear the tram\n" * 3
    (tmp_path / "lines.csv").write_text(f"passage\n{lines}")  # a column that the rows to score do not have
    own = {"train": str(tmp_path / "lines.csv"), "text": "passage", "label": "", "max_length": 9}
    tables = recipe("hinton")
    tables["stage"].insert(1, {**tables["stage"][1], "name": "general", "data": own, "evaluate": False})
    tables["stage"][1]["hinton"] = {"alpha": 1.0}
    result = potstill.run(tables, folder=tmp_path / "run", data_root=data)
    assert result.stages["general"]["rows"] == 9
    assert result.stages["general"]["metrics"] is None
    assert result.stages["distil"]["rows"] == 96
    assert result.stages["distil"]["metrics"] is not None


def test_a_wrong_key_of_a_stages_data_is_one_sentence(data: Path, tmp_path: Path) -> None:
    tables = recipe()
    tables["stage"][1]["data"] = {"trian": "x"}
    with pytest.raises(RecipeError, match=r"stage 'distil', data: unknown key 'trian'. Did you mean 'train'?"):
        potstill.run(tables, folder=tmp_path / "run", data_root=data)


def shouting(calls: list[int]) -> Transform:
    def apply(rows: list[dict[str, Any]], random: list[np.random.Generator]) -> list[list[dict[str, Any]]]:
        calls.append(len(rows))
        made = []
        for row, draw in zip(rows, random, strict=True):
            words = row["text"].split()
            made.append([row, {**row, "text": words[draw.integers(len(words))]}])
        return made

    return Transform("doubling", "v1", apply, batch=40)


class Doubling(Plugin):
    name = "doubling"
    calls: Any = ()

    @hookimpl
    def setup(self, stage: Stage) -> None:
        stage.add_transform(shouting(self.calls))


def test_rows_changed_as_text_are_made_once_and_draw_by_row(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))
    plugin = Doubling(None)
    plugin.calls = calls = []
    monkeypatch.setattr(loader, "stage_plugins", lambda recipe, plan: [plugin])
    tables = recipe(stage=[{"name": "s", "student": "fresh"}], student={"config": bert(1), "tokenizer": "vocab.txt"})
    tables["data"]["labelled_rows"] = 10
    texts = []
    for part in ("a", "b"):
        stage = stage_of(tables, data, tmp_path / part)
        with stage.exit:
            rows, validation = stage.examples("train"), stage.examples("validation")
            assert rows is not None
            assert validation is not None
            assert (len(rows), len(validation)) == (192, 40)
            labels = np.asarray(rows.labels)
            assert (labels[20:] == -100).all()  # of the first ten rows alone, each with what was made of it
            assert (labels[:20] != -100).sum() == 2 * 9  # one of the ten has no label in the data
            assert (labels[0:20:2] == labels[1:20:2]).all()
            texts.append([rows.student.rows(np.array([row]))["input_ids"][0].tolist() for row in range(20)])
    assert calls == [40, 40, 16]
    assert texts[0] == texts[1]


def test_a_stage_that_is_over_lets_go_of_its_models_at_once(data: Path, tmp_path: Path) -> None:
    tables = recipe("hinton")
    potstill.run(tables, folder=tmp_path / "run", data_root=data)
    teacher = str(tmp_path / "run/stages/01-teacher/best")
    stage = stage_of(
        {**tables, "stage": [{**tables["stage"][1], "teacher": teacher, "student": "fresh"}]}, data, tmp_path
    )
    with stage.exit:
        stage.examples("train")
    models = [weakref.ref(model.module) for model in (stage.student, stage.teacher)]
    gc.disable()
    try:
        del stage
        assert [model() for model in models] == [None, None]
    finally:
        gc.enable()


class Projecting(Plugin):
    """Learns a projection that the loss needs; writes down how it starts."""

    name = "projecting"

    def __init__(self, started: list[torch.Tensor], width: int) -> None:
        super().__init__(None)
        self.started, self.width = started, width

    @hookimpl
    def setup(self, stage: Stage) -> None:
        self.projection = torch.nn.Linear(32, self.width)
        stage.observe(student=[Hidden(-1)])
        stage.add_module("projecting.projection", self.projection)
        self.started.append(self.projection.weight.detach().clone())

    @hookimpl
    def compute_loss(self, step: Step) -> list[LossTerm]:
        return [LossTerm("size", self.projection(step.student()[Hidden(-1)]).square().mean())]


@pytest.mark.parametrize("width", [8, 9])
def test_a_module_goes_on_with_the_student_from_stage_to_stage_where_it_fits(
    width: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[torch.Tensor] = []
    widths = {"first": 8, "second": width}
    monkeypatch.setattr(loader, "stage_plugins", lambda recipe, plan: [Projecting(started, widths[plan.name])])
    tables = recipe(student={"config": bert(1), "tokenizer": "vocab.txt"})
    del tables["teacher"]
    keys = {"updates": 6, "batch_size": 8, "learning_rate": 1e-2, "evaluate_every": 2, "metric": "loss"}
    tables["stage"] = [{"name": "first", **keys}, {"name": "second", "student": "previous", **keys}]
    potstill.run(tables, folder=tmp_path / "run", data_root=data)
    first, second = started
    if width == 8:
        kept = checkpoint.read_tree(tmp_path / "run/stages/01-first/modules")["projecting.projection"]["weight"]
        assert torch.equal(second, kept)
        assert not torch.equal(second, first)
    else:
        assert second.shape == (9, 32)
