"""Algorithms that look inside, over two processes: what they add begins the same, and every unit's shares are exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from potstill.testing import weights
from potstill.testing.tiny import bert, recipe
from potstill.testing.words import asking, tagging, write_questions, write_tags
from tests.nursery import Nursery

CALM = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
RECIPES: dict[str, dict[str, Any]] = {
    "tinybert + accumulate + hinton": {
        "plugins": ["tinybert", "accumulate", "hinton"],
        "tinybert": {"intermediate": {"epochs": 1, "learning_rate": 2e-3}},
    },
    "minilm + accumulate": {"plugins": ["minilm", "accumulate"], "minilm": {"normalisation": "token"}},
    "pp_minilm + accumulate": {"plugins": ["pp_minilm", "accumulate"], "pp_minilm": {"alpha": 0.4}},
    "assistant over minilm": {
        "plugins": ["minilm", "assistant", "accumulate"],
        "assistant": {"hops": [{"config": bert(2, 16, **CALM)}]},
    },
    "theseus + accumulate": {
        "plugins": ["theseus", "accumulate"],
        "student": {"layers": [1]},
        "theseus": {"rate": 0.5, "unsampled": "move", "clip": "all", "tune": {"updates": 2}},
    },
    "layers + accumulate": {
        "plugins": ["layers", "accumulate"],
        "layers": {
            "hidden": {"hidden_mse": 1.0, "pkd": 1.0, "nst": 1.0},
            "attention": {"attention_mse": 1.0, "attention_ce_mean": 1.0},
            "hard_weight": 0.5,
        },
    },
    "diito + accumulate": {"plugins": ["diito", "accumulate"], "diito": {"positions": "random"}},
    "distilbert + diito + accumulate": {
        "plugins": ["distilbert", "diito", "accumulate"],
        "distilbert": {"cos": 0.0, "restrict_ce_to_mask": True},
        "diito": {"positions": "masked", "pairs": "batch"},
    },
    "hinton on next words + accumulate": {"plugins": ["hinton", "accumulate"]},
    "hinton on tags + accumulate": {"plugins": ["hinton", "accumulate"]},
    # All logits of a span's ends may be shifted alike, so their bias has no gradient but rounding.
    "hinton on answers + accumulate": {"plugins": ["hinton", "accumulate"], "freeze": ["qa_outputs.bias"]},
    "pgd on rows + accumulate": {"plugins": ["pgd", "accumulate", "hinton"], "pgd": {"steps": 2}},
}
TASKS = {"distilbert + diito + accumulate": "masked-lm", "hinton on next words + accumulate": "causal-lm"}
"""Those that learn language; the others learn classes."""
AT_TOKENS = {"hinton on tags + accumulate": tagging, "hinton on answers + accumulate": asking}
"""Those whose labels stand at tokens, with the recipe of their data."""
GPT2 = {"model_type": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 48}
STILL = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


@pytest.mark.parametrize("name", RECIPES)
def test_two_processes_train_what_one_trains(name: str, nursery: Nursery, data: Path, tmp_path: Path) -> None:
    tables = recipe(student={"config": bert(1, 16, **CALM)})
    tables["teacher"]["config"] = bert(2, 32, **CALM)
    if name in AT_TOKENS:
        write_tags(data)
        write_questions(data)
        tables |= {key: value for key, value in AT_TOKENS[name]().items() if key in ("task", "data")}
    if name in TASKS:
        tables["task"] = {"kind": TASKS[name]}
    if TASKS.get(name) == "causal-lm":
        tables["teacher"]["config"] = tables["student"]["config"] = {**GPT2, **STILL}
    teacher, distil = tables["stage"]
    teacher.update(epochs=1)
    # Rows of 5 leave one process fewer than the other; a large epsilon keeps AdamW from enlarging rounding.
    distil.update(epochs=1, batch_size=5, epsilon=1e-4, accumulate={"batches": 3}, **RECIPES[name])
    (tmp_path / "recipe.toml").write_text(tomli_w.dumps(tables))
    for ranks in (1, 2):
        words = ("run", tmp_path / "recipe.toml", "--data-root", data, "--folder", tmp_path / str(ranks))
        launch = nursery.launch(*words, ranks=ranks)
        assert launch.wait(120) == [0] * ranks, launch.errors
    theirs = weights(tmp_path / "2", "distil")
    for parameter, value in weights(tmp_path / "1", "distil").items():
        torch.testing.assert_close(theirs[parameter], value, rtol=1e-5, atol=1e-6)
