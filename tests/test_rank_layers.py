"""Matched layers over two processes: projections begin the same, and the shares of every unit are exact."""

from __future__ import annotations

from pathlib import Path

import tomli_w
import torch

from potstill.testing import weights
from potstill.testing.tiny import bert, recipe
from tests.nursery import Nursery

CALM = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def test_two_processes_match_layers_as_one_does(nursery: Nursery, data: Path, tmp_path: Path) -> None:
    tables = recipe("layers", "accumulate", student={"config": bert(1, 16, **CALM)})
    tables["teacher"]["config"] = bert(2, 32, **CALM)
    teacher, distil = tables["stage"]
    teacher.update(epochs=1)
    # rows of 5 leave one process fewer than the other; a large epsilon keeps AdamW from enlarging rounding
    distil.update(epochs=1, batch_size=5, epsilon=1e-4, accumulate={"batches": 3})
    distil["layers"] = {
        "hidden": {"hidden_mse": 1.0, "pkd": 1.0, "nst": 1.0},
        "attention": {"attention_mse": 1.0, "attention_ce_mean": 1.0},
        "hard_weight": 0.5,
    }
    (tmp_path / "recipe.toml").write_text(tomli_w.dumps(tables))
    for ranks in (1, 2):
        words = ("run", tmp_path / "recipe.toml", "--data-root", data, "--folder", tmp_path / str(ranks))
        launch = nursery.launch(*words, ranks=ranks)
        assert launch.wait(120) == [0] * ranks, launch.errors
    theirs = weights(tmp_path / "2", "distil")
    for name, value in weights(tmp_path / "1", "distil").items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-5, atol=1e-6)
