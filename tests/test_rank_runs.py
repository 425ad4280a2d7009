"""Runs of several processes train what one trains, and write it once."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from potstill.testing import weights
from potstill.testing.tiny import bert, recipe, write_data
from tests.kill import CHARACTERS
from tests.nursery import Launch, Nursery

RANKS = (1, 2, 3)
EXPORT = {"export": {"plugins": ["onnx"], "onnx": {"time": False, "quantize": False, "teacher": False}}}
CALM = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data whose micro-batches leave ranks without rows: 61 = 15 * 4 + 1, and most rows have no label.

    Sorted by length and cut into fours, some batches have no label at all, and others one only.
    """
    folder = write_data(tmp_path_factory.mktemp("ranks"), train=61, validation=23)
    lines = (folder / "train.csv").read_text().splitlines()
    for number, line in enumerate(lines[1:], start=1):
        text, label, rest = line.split(",", 2)
        lines[number] = f"{text},{label if number % 5 == 0 else ''},{rest}"
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    (folder / "characters.txt").write_text("\n".join(CHARACTERS) + "\n")
    return folder


@pytest.fixture(scope="module")
def tables() -> dict[str, Any]:
    """A teacher in uneven batches; a student with its own tokenizer, three micro-batches an update."""
    tables = recipe("hinton", "accumulate")
    tables["data"]["max_length"] = 24
    tables["data"]["test"] = "validation.csv"
    tables["teacher"]["config"] = bert(1, hidden=16, **CALM)
    tables["student"] = {
        "plugin": "bilstm",
        "vocab": "characters.txt",
        "embedding_size": 8,
        "hidden_size": 8,
        "dropout": 0.0,
    }
    teacher, student = tables["stage"]
    teacher.update(batch_size=4, epochs=6, log_every=1, evaluate_every=8, early_stopping=2, metric="loss")
    student.update(batch_size=4, epochs=3, log_every=1, evaluate_every=3, accumulate={"batches": 3})
    return tables


@pytest.fixture(scope="module")
def launches(nursery: Nursery, folder: Path, tables: dict[str, Any]) -> dict[int, Launch]:
    """The same recipe by one process, two and three; two export the student, too."""
    launches = {}
    for ranks in RANKS:
        path = folder / f"{ranks}.toml"
        path.write_text(tomli_w.dumps({**tables, **(EXPORT if ranks == 2 else {})}))
        words = ("run", path, "--data-root", folder, "--folder", folder / f"run-{ranks}")
        launches[ranks] = nursery.launch(*words, ranks=ranks)
        assert launches[ranks].wait(240) == [0] * ranks, launches[ranks].errors
    return launches


def lines(folder: Path, ranks: int, stage: str) -> list[dict[str, Any]]:
    text = (folder / f"run-{ranks}/stages/{stage}/metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def assert_near(one: Any, other: Any, where: str) -> None:
    """Trees of the same shape whose numbers are the same but for the order in which they were summed."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_near(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, float):
        assert math.isclose(one, other, rel_tol=2e-5, abs_tol=2e-6), f"{where}: {one} and {other}"
    else:
        assert one == other, where


@pytest.mark.parametrize("ranks", RANKS[1:])
@pytest.mark.parametrize("stage", ["teacher", "distil"])
def test_several_processes_train_the_weights_of_one(
    launches: dict[int, Launch], folder: Path, stage: str, ranks: int
) -> None:
    theirs = weights(folder / f"run-{ranks}", stage)
    for name, value in weights(folder / "run-1", stage).items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-6, atol=1e-6)


def test_the_rows_leave_ranks_without_rows_and_updates_without_a_label(
    launches: dict[int, Launch], folder: Path
) -> None:
    """So that the tests here test it: the last row is alone in its batch, and some updates have no labelled row."""
    updates = [line for line in lines(folder, 1, "01-teacher") if "terms" in line]
    assert [line["terms"] for line in updates].count({}) > 0
    assert json.loads((folder / "run-1/stages/01-teacher/result.json").read_text())["rows"] % 4 == 1


@pytest.mark.parametrize("ranks", RANKS[1:])
@pytest.mark.parametrize("stage", ["01-teacher", "02-distil"])
def test_the_log_is_written_once_and_like_one_process_writes_it(
    launches: dict[int, Launch], folder: Path, stage: str, ranks: int
) -> None:
    one, several = lines(folder, 1, stage), lines(folder, ranks, stage)
    assert len(several) == len(one)
    for number, (mine, theirs) in enumerate(zip(one, several, strict=True)):
        assert_near(mine, theirs, f"line {number}")


@pytest.mark.parametrize("ranks", RANKS[1:])
def test_scores_the_best_evaluation_and_early_stopping_are_those_of_one_process(
    launches: dict[int, Launch], folder: Path, ranks: int
) -> None:
    for stage in ("01-teacher", "02-distil"):
        one, several = (
            json.loads((folder / f"run-{number}/stages/{stage}/result.json").read_text()) for number in (1, ranks)
        )
        for facts in (one, several):
            del facts["seconds"]
        assert_near(one, several, stage)


@pytest.mark.parametrize("ranks", RANKS[1:])
def test_notes_table_and_files_come_once(launches: dict[int, Launch], folder: Path, ranks: int) -> None:
    launch = launches[ranks]
    assert launch.errors.count("teacher: accuracy") == 1
    assert launch.errors.count("distil: accuracy") == 1
    if ranks == 3:  # two have an export more
        assert launch.output == launches[1].output.replace("run-1", "run-3")
        files = [sorted(path.relative_to(run) for path in run.rglob("*")) for run in folder.glob("run-[13]")]
        assert files[0] == files[1]


def test_the_first_rank_alone_exports(launches: dict[int, Launch], folder: Path) -> None:
    assert sorted(path.name for path in (folder / "run-2/export").glob("model*")) == ["model.onnx"]
    assert json.loads((folder / "run-2/result.json").read_text())["export"][0]["model"] == "student (onnx)"
