"""Whole runs: what is learnt differs, what is logged makes sense, what breaks off goes on, the teacher runs once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import potstill
from plugins.adversarial.tests.stages import gradients, run_steps, stage_from, table_of
from potstill.testing import assert_resumes_exactly, weights
from potstill.testing.tiny import recipe, student_only

PLAIN: dict[str, Any] = {}
FGM = {"plugins": ["fgm"]}
PGD = {"plugins": ["pgd"]}


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of three runs of one seed: plain, with FGM, with PGD."""
    folder = tmp_path_factory.mktemp("runs")
    for name, options in (("plain", PLAIN), ("fgm", FGM), ("pgd", PGD)):
        potstill.run(student_only(log_every=4, **options), folder=folder / name, data_root=data)
    return {name: folder / name for name in ("plain", "fgm", "pgd")}


def test_fgm_pgd_and_plain_training_end_at_three_different_students(runs: dict[str, Path]) -> None:
    plain, fgm, pgd = (weights(folder, "plain") for folder in runs.values())
    for one, other in ((plain, fgm), (plain, pgd), (fgm, pgd)):
        unlike = [name for name in one if not torch.allclose(one[name], other[name], rtol=0, atol=1e-5)]
        assert "bert.encoder.layer.0.output.dense.weight" in unlike
        assert "bert.embeddings.word_embeddings.weight" in unlike


def test_the_log_holds_the_clean_and_the_last_pass_and_their_sum(runs: dict[str, Path]) -> None:
    for name in ("fgm", "pgd"):
        lines = [json.loads(line) for line in (runs[name] / "stages/01-plain/metrics.jsonl").read_text().splitlines()]
        trained = [line for line in lines if "terms" in line]
        assert trained
        for line in trained:
            assert list(line["terms"]) == ["supervised", "supervised[adversarial]"]
            assert line["loss"] == pytest.approx(sum(line["terms"].values()))
            assert line["terms"]["supervised[adversarial]"] > line["terms"]["supervised"]


def test_the_result_says_what_was_attacked_and_how(runs: dict[str, Path]) -> None:
    facts = json.loads((runs["pgd"] / "stages/01-plain/result.json").read_text())
    assert facts["explained"]["pgd"] == {
        "attack": "table (one batch an update)",
        "embedding": "bert.embeddings.word_embeddings.weight",
    }


@pytest.mark.parametrize("plugins", [["fgm", "hinton"], ["pgd", "accumulate", "hinton"]])
def test_a_run_with_dropout_that_breaks_off_goes_on_to_the_same_end(
    plugins: list[str], data: Path, tmp_path: Path
) -> None:
    tables = recipe(*plugins)
    tables["stage"][1].update(epochs=1, checkpoint_every=1)
    assert_resumes_exactly(tables, data=data, folder=tmp_path, stage="distil", after=2)


def bilstm(**stage: Any) -> dict[str, Any]:
    tables = student_only(**stage)
    student = {"plugin": "bilstm", "vocab": "characters.txt", "embedding_size": 6, "hidden_size": 5, "dropout": 0.0}
    return {**tables, "student": student, "data": {**tables["data"], "max_length": 40}}


@pytest.mark.parametrize("attack", ["table", "output"])
def test_a_bilstm_is_attacked_and_its_update_may_be_cut_where_rows_are_moved(
    attack: str, data: Path, tmp_path: Path
) -> None:
    plain = gradients(stage_from(bilstm(), data, tmp_path), range(8))
    stage = stage_from(bilstm(plugins=["fgm"], fgm={"attack": attack}), data, tmp_path)
    assert stage.explained["fgm"]["embedding"] == "embedding.weight"
    whole = gradients(stage, range(8))
    assert not torch.allclose(whole["classifier.weight"], 2 * plain["classifier.weight"], rtol=1e-3)
    if attack == "output":
        for name, value in gradients(stage, range(3), range(3, 8)).items():
            torch.testing.assert_close(value, whole[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["fgm", "pgd"])
def test_the_teacher_runs_once_a_micro_batch_and_its_table_is_left_alone(name: str, data: Path, tmp_path: Path) -> None:
    tables = recipe(name, "hinton", stage=[recipe(name, "hinton")["stage"][1]])
    tables["stage"][0]["teacher_once"] = False
    tables["teacher"] = {"model": str(teacher_folder(data, tmp_path))}
    stage = stage_from(tables, data, tmp_path)
    stage.teacher.module.double()
    table = stage.teacher.module.get_input_embeddings().weight
    before = table.clone()
    runs: list[Tensor] = []
    stage.teacher.module.register_forward_hook(lambda module, args, output: runs.append(output.logits))
    steps = run_steps(stage, range(4), range(4, 8))
    assert len(runs) == 2
    assert [[done.tag for done in step.passes] for step in steps] == [["clean", "adversarial"]] * 2
    soft = [done.terms["hinton.soft"].value for done in steps[0].passes]
    assert soft[0] != soft[1]
    assert torch.equal(table, before)
    assert table_of(stage).weight.grad is not None


def teacher_folder(data: Path, folder: Path) -> Path:
    """An untrained teacher as a folder, which counts as trained."""
    tables = recipe()
    tables["stage"] = [{**tables["stage"][0], "updates": 1, "epochs": None}]
    return potstill.run(tables, folder=folder / "teacher", data_root=data).model
