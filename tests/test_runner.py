"""A run from beginning to end: folder, resume, refusal, reuse, objects instead of files."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import potstill
from potstill.errors import DataError, Interrupted, ModelError, RecipeError, TrainingError, UserError
from potstill.plugin import LossTerm, Plugin, hookimpl
from potstill.progress import Progress
from potstill.sweep import sweep
from potstill.testing import assert_same_weights, weights
from potstill.testing.tiny import recipe, student_only, write_data

ROOT = Path(__file__).parents[1]


class Notes(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def test_a_run_leaves_a_folder_that_transformers_can_load(tiny: dict[str, Any], data: Path, tmp_path: Path) -> None:
    result = potstill.run(tiny, folder=tmp_path / "run", data_root=data)
    assert set(result.stages) == {"teacher", "distil"}
    assert result.metrics == result.stages["distil"]["metrics"]
    module = AutoModelForSequenceClassification.from_pretrained(result.model)
    tokenizer = AutoTokenizer.from_pretrained(result.model)
    assert module.config.id2label == {0: "sea", 1: "town", 2: "wood"}
    logits = module(**tokenizer(["wave tide anchor reef"], return_tensors="pt")).logits
    assert logits.shape == (1, 3)
    assert (tmp_path / "run/report.html").read_text().startswith("<!")
    assert not list((tmp_path / "run").rglob("*.bin"))
    assert not list((tmp_path / "run").rglob("*.pt"))
    loaded = result.student()
    torch.testing.assert_close(
        loaded.module(**tokenizer(["wave tide anchor reef"], return_tensors="pt")).logits, logits
    )


def test_the_same_command_again_trains_nothing(tiny: dict[str, Any], data: Path, tmp_path: Path) -> None:
    first = potstill.run(tiny, folder=tmp_path / "run", data_root=data)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.safetensors")}
    again = potstill.run(tiny, folder=tmp_path / "run", data_root=data)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.safetensors")} == before
    assert again.metrics == first.metrics


def test_a_folder_with_a_run_of_another_recipe_is_refused(tiny: dict[str, Any], data: Path, tmp_path: Path) -> None:
    potstill.run(student_only(), folder=tmp_path / "run", data_root=data)
    with pytest.raises(RecipeError, match=r"holds a run of another recipe \(.*learning_rate: 0.001 → 0.002"):
        potstill.run(student_only(learning_rate=2e-3), folder=tmp_path / "run", data_root=data)


def test_data_that_changed_under_a_run_is_refused(tmp_path: Path) -> None:
    folder = write_data(tmp_path, train=24)
    potstill.run(student_only(), folder=tmp_path / "run", data_root=folder)
    write_data(tmp_path, train=24, seed=8)
    with pytest.raises(DataError, match="The data is not what the run"):
        potstill.run(student_only(), folder=tmp_path / "run", data_root=folder)


def test_a_folder_where_another_run_is_at_work_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with (tmp_path / "run/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="Another run is at work"):
            potstill.run(student_only(), folder=tmp_path / "run", data_root=data)


def test_a_recipe_without_stages_is_refused(data: Path, tmp_path: Path) -> None:
    tables = student_only()
    del tables["stage"]
    with pytest.raises(RecipeError, match="has no"):
        potstill.run(tables, folder=tmp_path / "run", data_root=data)


def test_a_finished_stage_of_the_same_content_is_taken_over(tiny: dict[str, Any], data: Path, tmp_path: Path) -> None:
    potstill.run(tiny, folder=tmp_path / "one", data_root=data)
    tiny["stage"][1]["hinton"] = {"temperature": 5.0}
    notes = Notes()
    potstill.run(tiny, folder=tmp_path / "two", data_root=data, reuse=[tmp_path / "one"], progress=notes)
    assert any(line.startswith("teacher: taken from") for line in notes.lines)
    assert_same_weights(tmp_path / "one", tmp_path / "two", "teacher")
    assert not torch.equal(
        weights(tmp_path / "one", "distil")["classifier.weight"],
        weights(tmp_path / "two", "distil")["classifier.weight"],
    )


def test_a_stage_of_another_seed_is_not_taken_over(tiny: dict[str, Any], data: Path, tmp_path: Path) -> None:
    potstill.run(tiny, folder=tmp_path / "one", data_root=data)
    notes = Notes()
    potstill.run({**tiny, "seed": 4}, folder=tmp_path / "two", data_root=data, reuse=[tmp_path / "one"], progress=notes)
    assert not any("taken from" in line for line in notes.lines)


def test_a_sweep_trains_the_teacher_once_and_the_student_for_every_cell(
    tiny: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    notes = Notes()
    rows = sweep(
        tiny,
        grid={"hinton.temperature": [1, 5]},
        seeds=[1, 2],
        folder=tmp_path / "sweep",
        data_root=data,
        progress=notes,
    )
    assert [(row["settings"]["hinton.temperature"], row["seed"]) for row in rows] == [(1, 1), (1, 2), (5, 1), (5, 2)]
    assert sum("taken from" in line for line in notes.lines) == 3
    folders = sorted((tmp_path / "sweep").glob("*seed=*"))
    assert len(folders) == 4
    students = [weights(folder, "distil")["classifier.weight"] for folder in folders]
    assert len({student.numpy().tobytes() for student in students}) == 4
    for folder in folders[1:]:
        assert_same_weights(folders[0], folder, "teacher")


def test_models_and_data_sets_that_the_caller_holds_take_the_place_of_files(
    tiny: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    first = potstill.run(tiny, folder=tmp_path / "files", data_root=data)
    teacher_folder = tmp_path / "files/stages/01-teacher/best"
    rows = {
        name: load_dataset("csv", data_files=str(data / f"{name}.csv"), split="train")
        for name in ("train", "validation")
    }
    result = potstill.run(
        {
            "task": {"labels": ["sea", "town", "wood"]},
            "data": {"max_length": 16},
            "student": {"layers": [2]},
            "stage": [{"name": "distil", "plugins": ["hinton"], "epochs": 2, "learning_rate": 1e-3}],
        },
        folder=tmp_path / "objects",
        teacher=AutoModelForSequenceClassification.from_pretrained(teacher_folder),
        tokenizer=AutoTokenizer.from_pretrained(teacher_folder),
        train=rows["train"],
        validation=rows["validation"],
    )
    assert result.stages["distil"]["parameters"] < first.stages["teacher"]["parameters"]
    assert json.loads((tmp_path / "objects/result.json").read_text())["teacher"]["metrics"][
        "accuracy"
    ] == pytest.approx(first.stages["teacher"]["metrics"]["accuracy"])


def test_a_teacher_object_without_its_tokenizer_is_one_sentence(data: Path, tmp_path: Path) -> None:
    module = torch.nn.Linear(1, 1)
    with pytest.raises(UserError, match="A teacher object needs its tokenizer"):
        potstill.run(student_only(), folder=tmp_path / "run", data_root=data, teacher=module)  # type: ignore[arg-type]


class Breaks(Plugin):
    """Stops the run in the middle of update 17, once."""

    name = "breaks"
    armed = True

    @hookimpl
    def compute_loss(self, step: Any) -> list[LossTerm]:
        if Breaks.armed and step.update == 16:
            Breaks.armed = False
            raise TrainingError("pulled the plug")
        return []


def test_a_run_that_broke_resumes_bit_identical(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from potstill import loader

    tables = student_only(epochs=3, checkpoint_every=5)
    tables["student"]["config"].update(hidden_dropout_prob=0.1)
    monkeypatch.setattr(loader, "stage_plugins", lambda recipe, plan: [Breaks(None)])
    Breaks.armed = False
    potstill.run(tables, folder=tmp_path / "whole", data_root=data)
    Breaks.armed = True
    with pytest.raises(TrainingError, match="pulled the plug"):
        potstill.run(tables, folder=tmp_path / "broken", data_root=data)
    assert sorted(path.name for path in tmp_path.glob("broken/stages/01-plain/checkpoints/*"))[-1] == "update-00000015"
    potstill.run(tables, folder=tmp_path / "broken", data_root=data)
    assert_same_weights(tmp_path / "whole", tmp_path / "broken", "plain")
    log = "stages/01-plain/metrics.jsonl"
    assert (tmp_path / "whole" / log).read_bytes() == (tmp_path / "broken" / log).read_bytes()


def test_a_damaged_newest_checkpoint_falls_back_and_still_ends_the_same(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from potstill import loader

    tables = student_only(epochs=3, checkpoint_every=5)
    monkeypatch.setattr(loader, "stage_plugins", lambda recipe, plan: [Breaks(None)])
    Breaks.armed = False
    potstill.run(tables, folder=tmp_path / "whole", data_root=data)
    Breaks.armed = True
    with pytest.raises(TrainingError):
        potstill.run(tables, folder=tmp_path / "broken", data_root=data)
    newest = max(tmp_path.glob("broken/stages/01-plain/checkpoints/update-*"))
    tensors = newest / "tensors.safetensors"
    os.truncate(tensors, tensors.stat().st_size // 2)
    notes = Notes()
    potstill.run(tables, folder=tmp_path / "broken", data_root=data, progress=notes)
    assert any(
        "update-00000015 is damaged (tensors.safetensors is not what was written)" in line for line in notes.lines
    )
    assert_same_weights(tmp_path / "whole", tmp_path / "broken", "plain")


def test_a_stop_that_was_asked_for_leaves_a_checkpoint_and_says_how_to_go_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from potstill import loader

    class Asks(Plugin):
        name = "asks"
        armed = True

        @hookimpl
        def compute_loss(self, step: Any) -> list[LossTerm]:
            if self.armed and step.update == 7:
                os.kill(os.getpid(), signal.SIGTERM)
            return []

    asks = Asks(None)
    monkeypatch.setattr(loader, "stage_plugins", lambda recipe, plan: [asks])
    with pytest.raises(Interrupted, match="the same command goes on"):
        potstill.run(student_only(epochs=2), folder=tmp_path / "run", data_root=data)
    assert [path.name for path in tmp_path.glob("run/stages/*/checkpoints/*")] == ["update-00000008"]
    asks.armed = False
    potstill.run(student_only(epochs=2), folder=tmp_path / "run", data_root=data)
    potstill.run(student_only(epochs=2), folder=tmp_path / "whole", data_root=data)
    assert_same_weights(tmp_path / "whole", tmp_path / "run", "plain")


def test_sigterm_from_outside_ends_the_command_with_a_sentence(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.toml"
    path.write_text(tomli_w.dumps({**recipe(), "stage": [{**recipe()["stage"][0], "epochs": 10_000}]}))
    command = [
        sys.executable,
        "-m",
        "potstill",
        "run",
        str(path),
        "--data-root",
        str(data),
        "--folder",
        str(tmp_path / "run"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    log = tmp_path / "run/stages/01-teacher/metrics.jsonl"
    until = time.monotonic() + 60
    while not (log.is_file() and log.stat().st_size) and time.monotonic() < until:
        time.sleep(0.1)
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "the same command goes on" in err + out
    assert list(tmp_path.glob("run/stages/01-teacher/checkpoints/update-*"))


def test_a_vocabulary_that_changed_under_a_run_is_refused(tmp_path: Path) -> None:
    folder = write_data(tmp_path, train=24)
    potstill.run(student_only(), folder=tmp_path / "run", data_root=folder)
    with (folder / "vocab.txt").open("a") as file:
        file.write("another\n")
    with pytest.raises(ModelError, match=r"The student's 'vocab\.txt' is not what the run"):
        potstill.run(student_only(), folder=tmp_path / "run", data_root=folder)


def test_a_stage_whose_vocabulary_changed_is_not_taken_over(tmp_path: Path) -> None:
    folder = write_data(tmp_path, train=24)
    potstill.run(student_only(), folder=tmp_path / "one", data_root=folder)
    with (folder / "vocab.txt").open("a") as file:
        file.write("another\n")
    notes = Notes()
    potstill.run(student_only(), folder=tmp_path / "two", data_root=folder, reuse=[tmp_path / "one"], progress=notes)
    assert not any("taken from" in line for line in notes.lines)
