"""Real processes: two in one folder, SIGTERM at every kind of work, a second Ctrl-C, a kill."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tomli_w

import potstill.cli
import potstill.cli.run
from potstill.progress import Bar, Progress
from potstill.testing import assert_same_weights
from potstill.testing.tiny import student_only, write_data

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="sends signals to forks of one process")

ONNX = {"plugins": ["onnx"], "onnx": {"time": False, "quantize": False}}
ENDS = 120
"""Seconds after which a process that should have ended is a failure."""


class Pauses(Progress):
    """At the first step of a bar of this name, tells the process's parent and waits for its word to go on."""

    def __init__(self, name: str, told: int, word: int) -> None:
        self._name, self._told, self._word = name, told, word

    @contextmanager
    def bar(self, name: str, total: int | None, done: int = 0) -> Iterator[Bar]:
        yield _PausingBar(self) if name.startswith(self._name) else Bar()

    def pause(self) -> None:
        self._name = "no such bar"
        os.write(self._told, b".")
        os.read(self._word, 1)


class _PausingBar(Bar):
    def __init__(self, progress: Pauses) -> None:
        self._progress: Pauses | None = progress

    def advance(self, steps: int = 1, **facts: float | str) -> None:
        if self._progress is not None:
            self._progress.pause()
        self._progress = None


class Child:
    """A command line in a process of its own, which pauses in a bar; its standard error goes to a file."""

    def __init__(self, words: list[str], bar: str, errors: Path) -> None:
        self._errors = errors
        self._told, told = os.pipe()
        word, self._word = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._told)
            sys.stderr = errors.open("w", buffering=1)
            potstill.cli.run.make_progress = lambda quiet: Pauses(bar, told, word)  # type: ignore[assignment]
            os._exit(potstill.cli.main(words))
        os.close(told)
        assert os.read(self._told, 1) == b".", errors.read_text()

    def go_on(self) -> tuple[int, str]:
        """Its exit code, and what it said last."""
        os.write(self._word, b".")
        until = time.monotonic() + ENDS
        while time.monotonic() < until:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status), self._errors.read_text().strip().rpartition("\n")[2]
            time.sleep(0.02)
        os.kill(self.pid, signal.SIGKILL)
        raise AssertionError(f"still at work: {self._errors.read_text()}")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a recipe and its run that was left alone."""
    root = write_data(tmp_path_factory.mktemp("place"), train=24, validation=12)
    (root / "r.toml").write_text(tomli_w.dumps(student_only(epochs=2)))
    (root / "export.toml").write_text(tomli_w.dumps({**student_only(epochs=2), "export": ONNX}))
    assert potstill.cli.main(command(root, root / "whole")) == 0
    return root


def command(place: Path, folder: Path, recipe: str = "r.toml") -> list[str]:
    return ["run", str(place / recipe), "--data-root", str(place), "--folder", str(folder), "--quiet"]


@pytest.mark.parametrize("bar", ["tokens of data.train", "plain", "evaluating"])
def test_sigterm_ends_a_run_with_a_sentence_and_the_same_command_ends_the_same(
    bar: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))
    words = command(place, tmp_path / "run")
    child = Child(words, bar, tmp_path / "errors")
    os.kill(child.pid, signal.SIGTERM)
    assert child.go_on() == (130, "Stopped as asked; the same command goes on from the last checkpoint.")
    assert not [path for path in tmp_path.rglob(".*.tmp") if "datasets" not in path.parts]
    assert potstill.cli.main(words) == 0
    assert_same_weights(place / "whole", tmp_path / "run", "plain")


def test_sigterm_during_an_export_leaves_no_half_of_it_and_the_same_command_exports(
    place: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    words = command(place, folder, "export.toml")
    child = Child(words, "student (onnx)", tmp_path / "errors")
    os.kill(child.pid, signal.SIGTERM)
    assert child.go_on() == (130, "Stopped as asked; the same command goes on from the last checkpoint.")
    assert not (folder / "export").exists()
    assert not list(folder.glob(".*.tmp"))
    assert potstill.cli.main(words) == 0
    assert (folder / "export" / "model.onnx").is_file()
    assert_same_weights(place / "whole", folder, "plain")


def test_a_second_ctrl_c_stops_at_once_and_the_same_command_ends_the_same(place: Path, tmp_path: Path) -> None:
    words = command(place, tmp_path / "run")
    child = Child(words, "plain", tmp_path / "errors")
    for _ in range(2):
        os.kill(child.pid, signal.SIGINT)
        time.sleep(0.1)  # two signals that are both waiting would be one
    assert child.go_on() == (
        130,
        "Interrupted; nothing was left half-written, so the same command can be given again.",
    )
    assert potstill.cli.main(words) == 0
    assert_same_weights(place / "whole", tmp_path / "run", "plain")


def test_a_second_run_in_a_folder_is_refused_and_the_first_is_not_disturbed(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    child = Child(command(place, folder), "plain", tmp_path / "errors")
    for words in (command(place, folder), [*command(place, folder), "--fresh"]):
        assert potstill.cli.main(words) == 2
        said = capsys.readouterr().err.strip()
        assert said == f"Another run is at work in {folder}; wait for it or give another --folder."
    assert child.go_on() == (0, "")
    assert_same_weights(place / "whole", folder, "plain")


def test_a_run_whose_process_was_killed_leaves_no_lock(place: Path, tmp_path: Path) -> None:
    words = command(place, tmp_path / "run")
    child = Child(words, "plain", tmp_path / "errors")
    os.kill(child.pid, signal.SIGKILL)
    os.waitpid(child.pid, 0)
    assert potstill.cli.main(words) == 0
    assert_same_weights(place / "whole", tmp_path / "run", "plain")
