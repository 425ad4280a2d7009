"""Every plugin of a stage on every task whose labels stand at tokens: it trains, and resumes exactly after a kill."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from potstill_diito.losses import causal_ce
from potstill_hinton import losses as hinton
from potstill_layers import soft
from potstill_layers.schedules import flsw_weights
from potstill_tinybert.losses import soft_ce
from torch import Tensor

import potstill
from potstill.cli import main
from potstill.errors import ModelError, UserError
from potstill.exporting import export_folder
from potstill.saved import evaluate_folder, open_saved, predict
from potstill.tasks import Prediction
from potstill.testing import assert_resumes_exactly
from potstill.testing.contract import weights
from potstill.testing.stages import engine_of, stage_of
from potstill.testing.tiny import bert, write_data
from potstill.testing.words import asking, tagging, write_questions, write_tags
from tests.composition.plugins import CALM, OPTIONS

TASKS: dict[str, Callable[[], dict[str, Any]]] = {"token-classification": tagging, "question-answering": asking}
"""A task and its recipe; another task is another line."""
PLUGINS = [name for name in OPTIONS if name != "bilstm"]
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "bilstm": ({}, "has one answer a row"),
    "distilbert": ({}, "The plugin 'distilbert' distils language models"),
    "diito": ({"positions": "masked"}, "and the task '.*' masks none"),
    "tinybert": (
        {"augmentation": {"passes": 1}, "intermediate": False},
        r"changes the text of rows, and in the task '.*' labels belong to places of the text; leave it out",
    ),
}
"""What makes no sense, and words of the sentence that says so."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and a trained teacher of four layers for each task, in a folder of the task's name."""
    place = write_data(tmp_path_factory.mktemp("matrix"))
    write_tags(place)
    write_questions(place)
    (place / "characters.txt").write_text("<PAD>\n<UNK>\n", encoding="utf-8")
    for name, made in TASKS.items():
        tables = made()
        tables["teacher"]["config"] = bert(4)
        tables["stage"] = [{**tables["stage"][0], "epochs": 10}]
        potstill.run(tables, folder=place / "runs" / name, data_root=place)
        (place / "runs" / name / "model").rename(place / name)
    return place


def cell(task: str, plugin: str, options: dict[str, Any] | None = None, **stage: Any) -> dict[str, Any]:
    """A stage of one plugin, five updates long, with `task`'s teacher; hinton beside what has no loss of its own."""
    tables = TASKS[task]()
    tables["teacher"] = {"model": task}
    tables["student"] = {"config": bert(1, 16)}
    if plugin == "bilstm":
        tables["student"] = {"plugin": "bilstm", "vocab": "characters.txt", "embedding_size": 8, "hidden_size": 8}
    if plugin == "theseus":
        del tables["student"]  # it is half of the teacher
    own = {"accumulate": ["hinton", "accumulate"], "assistant": ["assistant", "hinton"], "bilstm": ["hinton"]}
    named = own.get(plugin, [plugin])
    tables["stage"] = [
        {
            "name": "distil",
            "plugins": named,
            "updates": 5,
            "batch_size": 8,
            "learning_rate": 1e-3,
            "log_every": 1,
            "checkpoint_every": 1,
            **{name: {**OPTIONS.get(name, {}), **((options or {}) if name == plugin else {})} for name in named},
            **stage,
        }
    ]
    return tables


@pytest.mark.parametrize("plugin", PLUGINS)
@pytest.mark.parametrize("task", TASKS)
def test_a_plugin_trains_a_task_and_resumes_exactly(task: str, plugin: str, place: Path, tmp_path: Path) -> None:
    tables = cell(task, plugin)
    result = assert_resumes_exactly(tables, data=place, folder=tmp_path, stage="distil", after=3)
    [folder] = (path for path in (tmp_path / "whole/stages").iterdir() if path.name.endswith("-distil"))
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in logged if "loss" in line]
    assert len(losses) == 5
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)
    assert result.stages["distil"]["updates"] == 5
    assert result.metrics["f1"] >= 0
    if len(result.stages) == 1 and plugin != "theseus":  # which hands on a part of what it trains
        stage = stage_of(tables, place, tmp_path / "start")
        with stage.exit:
            before, after = stage.student.module.state_dict(), weights(tmp_path / "whole", "distil")
            assert any(not torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("task", TASKS)
def test_a_shift_of_the_label_to_the_top_goes_by_the_labels_of_tokens(task: str, place: Path, tmp_path: Path) -> None:
    options = {"kd": "ce", "kd_weight": 1.0, "probability_shift": True}
    stage = stage_of(cell(task, "layers", options), place, tmp_path / "look")
    with stage.exit:
        batch = stage.examples("train").batch(range(8))
        raw = stage.teacher.module(**batch.teacher)
        for one in stage.task.predictions(stage.task.logits(raw), batch):
            assert one.labels is not None
            known = one.labels >= 0
            assert known.any()
            shifted = soft.probability_shift(one.logits, one.labels)
            assert shifted.argmax(-1)[known].tolist() == one.labels[known].tolist()
    result = potstill.run(cell(task, "layers", options), folder=tmp_path / "run", data_root=place)
    assert math.isfinite(result.metrics["loss"])


AVERAGES: dict[str, Callable[[Prediction, Tensor], Tensor]] = {
    "hinton kl_mean": lambda own, known: hinton.kl_mean(own.logits, known, 2.0, choices=own.choices),
    "hinton logit_mse": lambda own, known: hinton.logit_mse(own.logits, known, 2.0, choices=own.choices),
    "diito mean": lambda own, known: causal_ce(own.logits, known, 2.0, reduction="mean", choices=own.choices),
    "tinybert reference": lambda own, known: soft_ce(
        own.logits, known, 2.0, reduction="reference", choices=own.choices
    ),
    "layers kd_mse": lambda own, known: soft.kd_mse(own.logits, known, 2.0, choices=own.choices),
    "layers flsw": lambda own, known: flsw_weights(own.logits, known, 1.0, choices=own.choices).sum(),
}
"""What averages over the classes of a prediction, which for an answer are places in the text."""


@pytest.mark.parametrize("average", AVERAGES)
def test_an_average_over_the_places_of_an_answer_is_over_those_alone(average: str, place: Path, tmp_path: Path) -> None:
    stage = stage_of(cell("question-answering", "hinton"), place, tmp_path / "look")
    with stage.exit:
        batch, task = stage.examples("train").batch(range(6)), stage.task
    assert batch.valid is not None
    logits = torch.randn(2, *batch.valid.shape, 2, dtype=torch.float64)
    by_row = []  # each row alone, its places only, so that there is nothing to leave out
    for row, valid in enumerate(batch.valid):
        for end in range(2):
            own, known = logits[:, row, valid, end]
            by_row.append(AVERAGES[average](Prediction("one", own[None], "categorical"), known[None]))
    values = [
        AVERAGES[average](own, known.logits)
        for own, known in zip(*(task.predictions(side, batch) for side in logits), strict=True)
    ]
    together = torch.sum if average == "layers flsw" else torch.mean
    torch.testing.assert_close(together(torch.stack(values)), together(torch.stack(by_row)))


@pytest.mark.parametrize("plugin", REFUSED)
@pytest.mark.parametrize("task", TASKS)
def test_what_makes_no_sense_is_refused_in_a_sentence(task: str, plugin: str, place: Path, tmp_path: Path) -> None:
    options, told = REFUSED[plugin]
    with pytest.raises(UserError, match=told):
        potstill.run(cell(task, plugin, options), folder=tmp_path / "run", data_root=place)


def gradients(tables: dict[str, Any], place: Path, folder: Path) -> list[Tensor]:
    """Of the first update, in float64."""
    found: list[Tensor] = []

    def clip(parameters: list[Tensor]) -> Tensor:
        found.extend(parameter.grad.clone() for parameter in parameters if parameter.grad is not None)
        return torch.zeros(())

    engine = engine_of(tables, place, folder)
    stage = engine.stage
    stage.student.module.double()
    stage.teacher.module.double()
    stage._slots.claim("clip", clip, by="test")
    with stage.exit:
        engine.train()
    return found


@pytest.mark.parametrize("batches", [2, 4])
@pytest.mark.parametrize("task", TASKS)
def test_gradients_of_hinton_accumulated_are_those_of_one_batch(
    task: str, batches: int, place: Path, tmp_path: Path
) -> None:
    """All rows are one update; some have no label, and windows of one question fall into several micro-batches."""

    def tables(size: int, group: int) -> dict[str, Any]:
        made = cell(task, "accumulate", {"batches": group}, batch_size=size, updates=1, teacher_once=False)
        made["student"] = {"config": bert(1, 16, **CALM)}
        made["data"]["labelled_rows"] = 40
        return made

    stage = stage_of(tables(8, 1), place, tmp_path / "count")
    with stage.exit:
        rows = len(stage.examples("train"))
    whole = gradients(tables(rows, 1), place, tmp_path / "whole")
    parts = gradients(tables(-(-rows // batches), batches), place, tmp_path / "parts")
    assert whole
    for one, many in zip(whole, parts, strict=True):
        torch.testing.assert_close(many, one, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("plugin", "options"),
    [
        ("hinton", {"loss": "kl_mean"}),
        ("hinton", {"loss": "logit_mse"}),
        ("layers", {"kd": "mse", "kd_weight": 1.0, "hidden": {}}),
        ("tinybert", {"phase": "prediction", "reduction": "reference"}),
    ],
)
def test_averages_over_an_answers_places_accumulate_exactly(
    plugin: str, options: dict[str, Any], place: Path, tmp_path: Path
) -> None:
    """Micro-batches are padded to other widths than the whole is."""

    def tables(size: int, group: int) -> dict[str, Any]:
        made = cell("question-answering", plugin, batch_size=size, updates=1, teacher_once=False)
        made["student"] = {"config": bert(1, 16, **CALM)}
        made["stage"][0] |= {"plugins": [plugin, "accumulate"], plugin: options, "accumulate": {"batches": group}}
        return made

    stage = stage_of(tables(8, 1), place, tmp_path / "count")
    with stage.exit:
        rows = len(stage.examples("train"))
    whole = gradients(tables(rows, 1), place, tmp_path / "whole")
    parts = gradients(tables(-(-rows // 4), 4), place, tmp_path / "parts")
    assert whole
    for one, many in zip(whole, parts, strict=True):
        torch.testing.assert_close(many, one, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("task", TASKS)
def test_a_student_learns_what_its_teacher_knows_and_exports_with_parity_and_the_same_scores(
    task: str, place: Path, tmp_path: Path
) -> None:
    tables = cell(task, "hinton", updates=60, learning_rate=5e-3)
    result = potstill.run(tables, folder=tmp_path / "run", data_root=place)
    [path] = (tmp_path / "run/stages").glob("*-distil/metrics.jsonl")
    losses = [line["loss"] for line in map(json.loads, path.read_text().splitlines()) if "loss" in line]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    onnx = {"quantize": False, "rounds": 2}
    [artifact] = export_folder(tmp_path / "run/model", {"onnx": onnx}, tmp_path / "export", data_root=place)
    [parity] = artifact.facts["parity"].values()
    assert parity["max_difference"] < 1e-5
    assert parity["equal_predictions"] > 0.999
    assert artifact.facts["timing"][0]["p50_ms"] > 0
    expected = {name: value for name, value in result.metrics.items() if name != "loss"}
    assert parity["torch"] == parity["onnx"] == pytest.approx(expected)
    file, rows = tmp_path / "export/model.onnx", place / tables["data"]["validation"]
    assert evaluate_folder(file, str(rows)) == pytest.approx(result.metrics, abs=1e-5)
    assert _told(file, rows) == _told(tmp_path / "run/model", rows)


def _told(model: Path, rows: Path) -> list[dict[str, Any]]:
    """Predictions but for their scores, which differ in their last digits."""
    return [{key: value for key, value in row.items() if key != "score"} for row in predict(model, rows)]


@pytest.mark.parametrize("task", TASKS)
def test_an_exported_model_without_what_lies_beside_it_is_refused(task: str, place: Path, tmp_path: Path) -> None:
    onnx = {"quantize": False, "time": False, "teacher": False}
    export_folder(
        place / task, {"onnx": onnx}, tmp_path / "export", TASKS[task]()["data"]["validation"], data_root=place
    )
    with pytest.raises(ModelError, match=r"max_length = 20, but .*model\.onnx was exported for rows of 1. tokens\."):
        open_saved(tmp_path / "export/model.onnx", 20)
    (tmp_path / "export/potstill.json").unlink()
    with pytest.raises(ModelError, match=r"Beside .*model\.onnx there is no potstill\.json that says what it was made"):
        open_saved(tmp_path / "export/model.onnx")


@pytest.mark.parametrize("task", TASKS)
def test_a_model_from_elsewhere_tells_its_task_and_a_run_from_options_takes_the_teachers(
    task: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = TASKS[task]()["data"]
    columns = [
        word
        for role in ("text", "text_pair", "label")
        if role in data
        for word in (f"--{role.replace('_', '-')}", data[role])
    ]
    monkeypatch.chdir(place)
    words = ["run", "--teacher", task, "--student-layers", "1", "--train", data["train"], "--epochs", "1", *columns]
    assert main([*words, "--max-length", "14", "--folder", str(tmp_path / "run"), "-p", "hinton"]) == 0
    assert json.loads((tmp_path / "run/model/potstill.json").read_text())["task"] == task_card(place, task)
    shutil.copytree(place / task, tmp_path / "foreign")
    (tmp_path / "foreign/potstill.json").unlink()
    found = open_saved(tmp_path / "foreign", 14).task
    assert (found.name, found.names) == (task, task_card(place, task)["labels"])


def task_card(place: Path, task: str) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((place / task / "potstill.json").read_text())["task"]
    return card
