"""The plugin in a stage: what it looks at, what it refuses, that updates are exact and runs resume exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from potstill_diito.plugin import SOURCE, Diito
from pydantic import ValidationError

import potstill
from potstill.collate import Collation
from potstill.errors import UserError
from potstill.features import LOGITS, Hidden
from potstill.shares import shares
from potstill.step import Step
from potstill.testing import assert_resumes_exactly, engine_of, stage_of
from potstill.testing.tiny import bert, recipe, write_data

CALM = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = write_data(tmp_path_factory.mktemp("data"))
    tables = recipe(teacher={"config": bert(4), "tokenizer": "vocab.txt"})
    tables["stage"] = tables["stage"][:1]
    potstill.run(tables, folder=place / "run", data_root=place)
    (place / "run/model").rename(place / "teacher")
    return place


def tables(
    *beside: str, student: dict[str, Any] | None = None, stage: dict[str, Any] | None = None, **options: Any
) -> Any:
    made = recipe(*beside, "diito", teacher={"model": "teacher"}, student={"config": student or bert(2, **CALM)})
    made["stage"] = [{**made["stage"][1], "diito": options, **(stage or {})}]
    return made


def test_only_what_is_needed_is_looked_at_and_the_plan_says_what_is_swapped(data: Path, tmp_path: Path) -> None:
    stage = stage_of(tables(mapping="middle", read="released"), data, tmp_path)
    assert stage.observed["teacher"] == [Hidden(2), LOGITS]
    assert stage.observed["student"] == [Hidden(1), LOGITS]
    assert stage.explained["diito"] == {
        "mapping": ["teacher 3 ↔ student 2"],
        "read": "released",
        "positions": "consecutive, 0.3 of the shorter row",
    }
    assert stage.supervised_weight == 1


@pytest.mark.parametrize(
    ("student", "options", "told"),
    [
        (None, {"mapping": "midle"}, "is none of full, middle, late"),
        (None, {"mapping": "late"}, "the teacher has 4 layers and the student 2"),
        (None, {"mapping": "none.nm"}, "none.nm' is not there"),
        (
            None,
            {"mapping": [{"teacher": {"layers": 9}, "student": {"layers": 1}}]},
            "names layer 9 of the teacher",
        ),
        (
            None,
            {"mapping": [{"teacher": {"layers": 1}, "student": {"layers": 3}}]},
            "diito.mapping names layer 3",
        ),
        (None, {"positions": "masked"}, "the task 'text-classification' masks none; take 'random' or 'consecutive'"),
        (bert(2, 16), {"causal_cos": 1.0}, "the student is 16 wide and the teacher 32; set it to 0"),
        (None, {"read": "relaesed"}, "'read' = 'relaesed' should be 'aligned' or 'released'"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    student: dict[str, Any] | None, options: dict[str, Any], told: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=told):
        stage_of(tables(student=student, **options), data, tmp_path)


@pytest.mark.parametrize("options", [{"causal_ce": 0.0}, {"mapping": []}, {"interchange_prop": 0.0}, {"max_tokens": 0}])
def test_options_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Diito.Config(**options)


def test_the_teacher_of_another_pass_is_not_run_again(data: Path, tmp_path: Path) -> None:
    engine = engine_of(tables(), data, tmp_path)
    runs = []
    with engine.stage.exit:
        engine.stage.teacher.module.register_forward_pre_hook(lambda *_: runs.append(1))
        batch = Collation(engine.stage, engine.train_rows).batch(engine.train_rows.lengths.argsort()[-8:], 0)
        step = Step(engine.stage, batch, shares([batch], engine.stage.units), 0, 0)
        first = step.gradients().terms["diito.causal_ce"]
        again = step.gradients("again").terms["diito.causal_ce"]
    assert len(runs) == 2  # the source up to its layer, and the base with it
    assert torch.equal(first.value, again.value)


def test_augmented_text_is_the_base_with_the_source_s_tokens_and_swaps_nothing(data: Path, tmp_path: Path) -> None:
    engine = engine_of(tables(data_augment=True, causal_cos=1.0), data, tmp_path)
    with engine.stage.exit:
        batch = Collation(engine.stage, engine.train_rows).batch(engine.train_rows.lengths.argsort()[-8:], 0)
        before = batch.student["input_ids"].clone()
        step = Step(engine.stage, batch, shares([batch], engine.stage.units), 0, 0)
        with torch.no_grad():
            terms = step.terms()
        rows, base, source = (batch.notes[f"diito_{name}"] for name in ("rows", "base", "source"))
        mixed = before.clone()
        mixed[rows, base] = batch.companions[SOURCE].student["input_ids"][rows, source]
        inputs = {**batch.student, "input_ids": mixed}
        p, q = (
            (model.module.eval()(**inputs).logits / 2).log_softmax(-1)
            for model in (engine.stage.teacher, engine.stage.student)
        )
    assert not torch.equal(mixed, before)
    assert torch.equal(batch.student["input_ids"], before)
    torch.testing.assert_close(terms["diito.causal_ce"].value, 4 * (p.exp() * (p - q)).sum(-1).mean().detach())


def test_micro_batches_of_one_update_equal_one_batch(data: Path, tmp_path: Path) -> None:
    engine = engine_of(tables(stage={"supervised": 0.0}, causal_cos=0.5), data, tmp_path)
    stage = engine.stage
    with stage.exit:
        collation = Collation(stage, engine.train_rows)
        rows = engine.train_rows.lengths.argsort()[::6][:16].copy()
        found = []
        for cut in ([rows], [rows[:5], rows[5:6], rows[6:]]):
            batches = [collation.batch(part, 0) for part in cut]
            portions = shares(batches, stage.units)
            for micro, batch in enumerate(batches):
                Step(stage, batch, portions, 3, micro).gradients()
            found.append([parameter.grad.clone() for parameter in stage.parameters])
            stage.student.module.zero_grad()
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("options", [{"pairs": "batch", "positions": "random", "draw": "micro_batch"}, {}])
def test_a_run_resumes_exactly(options: dict[str, Any], data: Path, tmp_path: Path) -> None:
    stage = {"checkpoint_every": 2, "hinton": {"temperature": 2.0}, "accumulate": {"batches": 2}}
    made = tables("hinton", "accumulate", student=bert(2), stage=stage, **options)
    assert_resumes_exactly(made, data=data, folder=tmp_path, stage="distil", after=5)
