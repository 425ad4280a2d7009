"""Half precision over two processes: one scale, one choice, and the weights that one process trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from potstill.testing import weights
from potstill.testing.tiny import bert, recipe
from tests.nursery import Nursery

CALM = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture(scope="module")
def runs(nursery: Nursery, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one run by one process, "1", and of one by two, "2".

    Rows of 5, three micro-batches an update: in one micro-batch a process has no row at all. The scale of the loss
    doubles after every fourth update. The stage "auto" chooses its dtype.
    """
    tables = recipe(student={"config": bert(1, 16, **CALM)})
    tables["teacher"]["config"] = bert(1, 16, **CALM)
    teacher, distil = tables["stage"]
    teacher.update(epochs=1)
    distil.update(
        plugins=["hinton", "accumulate", "amp"],
        epochs=2,
        batch_size=5,
        epsilon=1e-2,  # keeps AdamW from enlarging what is rounded
        keep="last",
        log_every=1,
        accumulate={"batches": 3},
        amp={"dtype": "float16", "growth_interval": 4},
    )
    tables["stage"].append({"name": "auto", "student": "stage:distil", "plugins": ["amp"], "updates": 2})
    folder = tmp_path_factory.mktemp("runs")
    (folder / "recipe.toml").write_text(tomli_w.dumps(tables))
    for ranks in (1, 2):
        words = ("run", folder / "recipe.toml", "--data-root", data, "--folder", folder / str(ranks))
        launch = nursery.launch(*words, ranks=ranks)
        assert launch.wait(120) == [0] * ranks, launch.errors
    return folder


def result(folder: Path, stage: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / "stages" / stage / "result.json").read_text())
    return facts


def test_two_processes_train_in_half_precision_what_one_trains(runs: Path) -> None:
    assert [result(runs / ranks, "02-distil")["explained"]["amp"]["dtype"] for ranks in "12"] == ["float16"] * 2
    one, two = moved(runs / "1"), moved(runs / "2")
    assert torch.nn.functional.cosine_similarity(one, two, dim=0) > 0.999
    assert float(two.norm() / one.norm()) == pytest.approx(1, abs=0.005)


def moved(run: Path) -> torch.Tensor:
    """How far biases, which start at 0, and norms, which start at 1, have come."""
    learnt = sorted(weights(run, "distil").items())
    return torch.cat([value - int("LayerNorm.weight" in name) for name, value in learnt if value.dim() == 1])


def test_two_processes_agree_on_a_dtype_and_train_in_it(runs: Path) -> None:
    assert result(runs / "2", "03-auto")["explained"]["amp"]["dtype"] in ("float32", "bfloat16")
    assert result(runs / "2", "03-auto")["updates"] == 2
