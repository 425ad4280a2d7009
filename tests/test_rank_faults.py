"""Several processes of which one is killed, stopped or fails: all end soon, one says why, and the run goes on."""

from __future__ import annotations

import fcntl
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from potstill.testing import assert_same_weights, weights
from potstill.testing.tiny import bert, recipe, student_only
from tests.nursery import Launch, Nursery

SOON = 15.0
"""Seconds within which all processes must have ended; gloo's own limit is half an hour."""
STAGE = {"epochs": 5, "checkpoint_every": 10, "log_every": 1, "evaluate_every": 24, "epsilon": 1e-5}
"""Adam's ε is above the rounding of gradients that are zero (a key's bias has no effect), which it would blow up."""


class Runs:
    """Runs of one recipe below one folder."""

    def __init__(self, nursery: Nursery, data: Path, folder: Path, tables: dict[str, Any]) -> None:
        self._nursery, self._data, self._folder = nursery, data, folder
        (folder / "recipe.toml").write_text(tomli_w.dumps(tables))

    def __getitem__(self, name: str) -> Path:
        return self._folder / name

    def launch(self, name: str, ranks: int, **more: Any) -> Launch:
        words = ("run", self["recipe.toml"], "--data-root", self._data, "--folder", self[name], "--quiet")
        return self._nursery.launch(*words, ranks=ranks, **more)

    def finish(self, name: str, ranks: int) -> None:
        launch = self.launch(name, ranks)
        assert launch.wait(120) == [0] * ranks, launch.errors

    def begin(self, name: str, ranks: int, lines: int = 15) -> Launch:
        """A launch that has written so many lines of its log."""
        launch = self.launch(name, ranks)
        until = time.monotonic() + 120
        while len(self.log(name).splitlines()) < lines:
            assert time.monotonic() < until, launch.errors
            time.sleep(0.01)
        return launch

    def log(self, name: str) -> str:
        path = self[name] / "stages/01-plain/metrics.jsonl"
        return path.read_text() if path.is_file() else ""


@pytest.fixture
def runs(nursery: Nursery, data: Path, tmp_path: Path) -> Runs:
    """Runs without dropout."""
    return Runs(nursery, data, tmp_path, student_only(**STAGE))


def ended(launch: Launch) -> tuple[list[int], list[str]]:
    """Exit codes and the lines on standard error of processes that have to end soon."""
    return launch.wait(SOON), launch.errors.splitlines()


@pytest.mark.parametrize("victim", [0, 1])
def test_after_a_kill_of_one_the_other_says_so_and_the_same_command_ends_bit_identical(
    nursery: Nursery, data: Path, tmp_path: Path, victim: int
) -> None:
    tables = {**student_only(**STAGE), "student": {"config": bert(1), "tokenizer": "vocab.txt"}}  # with dropout
    runs = Runs(nursery, data, tmp_path, tables)
    launch = runs.begin("killed", ranks=2)
    launch.kill(victim)
    codes, errors = ended(launch)
    assert codes == ([-9, 1] if victim == 0 else [1, -9])
    assert len(errors) == 1
    assert errors[0].startswith("Another of the 2 processes of this run has ended or does not answer")
    assert not (runs["killed"] / "result.json").exists()
    runs.finish("killed", ranks=2)
    runs.finish("alone", ranks=2)
    assert_same_weights(runs["alone"], runs["killed"], "plain")
    assert runs.log("alone") == runs.log("killed")


def test_a_stop_that_one_is_asked_for_stops_all_after_the_same_update_and_other_numbers_go_on(runs: Runs) -> None:
    launch = runs.begin("stopped", ranks=2)
    launch.kill(1, signal.SIGTERM)
    codes, errors = ended(launch)
    assert codes == [130, 130]
    assert errors == ["Stopped as asked; the same command goes on from the last checkpoint."]
    done = len([line for line in runs.log("stopped").splitlines() if "grad_norm" in line])
    newest = max((runs["stopped"] / "stages/01-plain/checkpoints").iterdir())
    assert newest.name == f"update-{done:08d}"
    runs.finish("one", ranks=1)
    for ranks in (1, 3):
        shutil.copytree(runs["stopped"], runs[f"on-{ranks}"])
        runs.finish(f"on-{ranks}", ranks)
        assert_like_one(runs, f"on-{ranks}")


def test_two_go_on_with_what_one_began(runs: Runs) -> None:
    launch = runs.begin("begun", ranks=1)
    launch.kill(0, signal.SIGTERM)
    assert launch.wait(SOON) == [130]
    runs.finish("begun", ranks=2)
    runs.finish("one", ranks=1)
    assert_like_one(runs, "begun")


def assert_like_one(runs: Runs, name: str) -> None:
    theirs = weights(runs[name], "plain")
    for key, value in weights(runs["one"], "plain").items():
        torch.testing.assert_close(theirs[key], value, rtol=1e-6, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}")
    assert len(runs.log(name).splitlines()) == len(runs.log("one").splitlines())


def test_a_run_that_is_under_way_is_refused_once(runs: Runs) -> None:
    runs["taken"].mkdir()
    with (runs["taken"] / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        codes, errors = ended(runs.launch("taken", ranks=2))
    assert codes == [2, 2]
    assert len(errors) == 1
    assert errors[0].startswith(f"Another run is at work in {runs['taken']}")


def test_a_first_rank_that_cannot_write_its_checkpoint_ends_all(runs: Runs) -> None:
    codes, errors = ended(runs.launch("full", ranks=2, limits={0: 100_000}))
    assert codes == [2, 2]
    assert len(errors) == 1
    assert "large" in errors[0]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_loss_that_is_not_finite_on_one_rank_only_is_told_once_with_its_row(
    nursery: Nursery, tmp_path: Path, rank: int
) -> None:
    """A batch of two rows, one for each rank; the one whose score no float32 can hold squared is the rank's."""
    texts = ["sea wave", "oak pine moss"]  # the order in a batch is that of the lengths
    scores = ["0.5", "0.5"]
    scores[rank] = "1e30"
    rows = "".join(f"{text},{score}\n" for text, score in zip(texts, scores, strict=True))
    (tmp_path / "train.csv").write_text(f"text,score\n{rows}")
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nsea\n")
    tables = {
        **recipe(student={"config": bert(1), "tokenizer": "vocab.txt"}),
        "task": {"kind": "regression"},
        "data": {"train": "train.csv", "label": "score", "max_length": 8},
        "stage": [{"name": "plain", "epochs": 1, "batch_size": 2}],
    }
    del tables["teacher"]
    codes, errors = ended(Runs(nursery, tmp_path, tmp_path, tables).launch("spoilt", ranks=2))
    assert codes == [1, 1]
    assert errors == [
        f"The loss term 'supervised' became inf in update 1 of the stage 'plain' (rows {rank} of the training data); "
        "the last checkpoint is kept."
    ]
