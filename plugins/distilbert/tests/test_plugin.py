"""The plugins in a stage: terms and units, what is refused, exact updates in any cut, and resuming."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from potstill.errors import ModelError, RecipeError
from potstill.planning import plan
from potstill.recipe import parse
from potstill.runner import run
from potstill.testing import assert_resumes_exactly, weights
from potstill.testing.tiny import bert, recipe, write_data

CALM = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def tables(student: dict[str, Any] | None = None, kind: str = "masked-lm", **options: Any) -> dict[str, Any]:
    """A teacher of 4 layers that is trained for an epoch, and a student that is distilled for one."""
    own = student or {"plugin": "distilbert_student", "layers": "even", "depth": 2}
    made = recipe("distilbert", student=own, task={"kind": kind})
    made["teacher"]["config"] = bert(4, **CALM)
    made["stage"][0]["epochs"] = 1
    made["stage"][1].update(epochs=1, distilbert=options, epsilon=1e-4)
    if kind == "text-classification":
        made["task"]["labels"] = ["sea", "town", "wood"]
    return made


def causal(**options: Any) -> dict[str, Any]:
    made = tables({"layers": [2]}, "causal-lm", **options)
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32}
    made["teacher"]["config"] = {
        "model_type": "gpt2",
        **shape,
        "resid_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
    }
    return made


def losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "stages/02-distil/metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def test_the_plan_shows_weights_layers_units_and_who_masks(data: Path) -> None:
    told = plan(parse(tables(mse=0.5)), data).stages[1]
    assert told["loss_terms"] == {
        "distilbert.ce": "5 per token",
        "distilbert.mse": "0.5 per token",
        "distilbert.cos": "1 per token",
        "distilbert.mlm": "2 per target",
    }
    assert told["slots"] == {"masking": "distilbert"}
    assert told["explained"]["distilbert_student"] == {"layers": [2, 4]}
    restricted = plan(parse(tables(restrict_ce_to_mask=True, cos=0.0, group_by_length=True)), data).stages[1]
    assert restricted["loss_terms"] == {"distilbert.ce": "5 per target", "distilbert.mlm": "2 per target"}
    assert restricted["slots"] == {"masking": "distilbert", "sampler": "distilbert"}


@pytest.mark.parametrize(
    "made", [tables(mse=0.1, restrict_ce_to_mask=True), causal(preset="defaults")], ids=["mlm", "clm"]
)
def test_an_update_is_the_same_in_any_cut(made: dict[str, Any], data: Path, tmp_path: Path) -> None:
    """Masked positions are drawn in a micro-batch, so the masks of both cuts are held alike: every word is hidden."""
    distil = made["stage"][1]
    if made["task"]["kind"] == "masked-lm":
        distil["distilbert"].update(mask_share=1.0, keep=1.0, random=0.0)
    for folder, size, batches in (("whole", 12, 1), ("cut", 4, 3)):
        distil.update(plugins=["distilbert", "accumulate"], batch_size=size, accumulate={"batches": batches})
        distil.update(updates=1, warmup=0, epochs=None)
        tight = {**made, "data": {**made["data"], "train_rows": 12}}
        tight["stage"] = [made["stage"][0], {key: value for key, value in distil.items() if value is not None}]
        run(tight, folder=tmp_path / folder, data_root=data)
    other = weights(tmp_path / "cut", "distil")
    for name, value in weights(tmp_path / "whole", "distil").items():
        torch.testing.assert_close(other[name], value, rtol=1e-5, atol=1e-6)


def test_a_run_resumes_exactly(data: Path, tmp_path: Path) -> None:
    made = tables(group_by_length=True)
    made["stage"][1].update(plugins=["distilbert", "accumulate"], accumulate={"batches": 2}, checkpoint_every=2)
    assert_resumes_exactly(made, data=data, folder=tmp_path, stage="distil", after=3)
    saved = json.loads((tmp_path / "whole/model/config.json").read_text())
    assert (saved["model_type"], saved["n_layers"]) == ("distilbert", 2)


def test_a_causal_model_learns_and_its_student_is_of_the_teachers_kind(data: Path, tmp_path: Path) -> None:
    made = causal(clm=0.0)  # what the texts leave open is most of that term
    made["stage"][1].update(epochs=6, learning_rate=1e-2, log_every=2)
    run(made, folder=tmp_path, data_root=data)
    found = losses(tmp_path)
    assert found[-1] < 0.8 * found[0]
    assert json.loads((tmp_path / "model/config.json").read_text())["n_layer"] == 1


@pytest.mark.parametrize(
    ("options", "kind", "told"),
    [
        ({}, "text-classification", "task.kind is 'text-classification'; it goes with masked-lm and causal-lm"),
        ({"clm": 1.0}, "masked-lm", "distilbert.clm belongs to the task 'causal-lm'"),
        ({"ce": 0.0, "mlm": 0.0, "cos": 0.0}, "masked-lm", "has a weight above 0"),
        ({"keep": 0.6, "random": 0.6}, "masked-lm", "distilbert.keep = 0.6 and distilbert.random = 0.6"),
    ],
)
def test_what_means_nothing_is_refused(options: dict[str, Any], kind: str, told: str, data: Path) -> None:
    student = {"config": bert(1)} if kind == "text-classification" else None
    with pytest.raises(RecipeError, match=told):
        plan(parse(tables(student, kind, **options)), data)


def test_another_width_is_refused_for_the_cosine_alone(data: Path) -> None:
    with pytest.raises(ModelError, match="the teacher has 32 and the student 16; set distilbert.cos = 0"):
        plan(parse(tables({"config": bert(1, 16)})), data)
    assert "distilbert.cos" not in plan(parse(tables({"config": bert(1, 16)}, cos=0.0)), data).stages[1]["loss_terms"]


@pytest.mark.parametrize(
    ("layers", "told"), [([9], "Layer 9 of the teacher"), ("published", "the teacher has 4 layers")]
)
def test_layers_that_are_not_there_are_refused(layers: Any, told: str, data: Path) -> None:
    with pytest.raises(ModelError, match=told):
        plan(parse(tables({"plugin": "distilbert_student", "layers": layers})), data)
