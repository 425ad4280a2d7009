"""A checkpoint that is cut short: the one before is taken with a note, or one sentence where none is whole."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

import potstill.cli
from potstill import loader
from potstill.errors import TrainingError
from potstill.plugin import Plugin, hookimpl
from potstill.testing import assert_same_weights
from potstill.testing.tiny import student_only, write_data


class Breaks(Plugin):
    """Ends the run in update 6, at checkpoints 2 and 4."""

    name = "breaks"

    @hookimpl
    def compute_loss(self, step: Any) -> list[Any]:
        if step.update == 5:
            raise TrainingError("pulled the plug")
        return []


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that broke off, in `broken`, and one that was left alone, in `whole`."""
    root = write_data(tmp_path_factory.mktemp("place"), train=24, validation=12)
    (root / "r.toml").write_text(tomli_w.dumps(student_only(epochs=3, checkpoint_every=2)))
    plugins = loader.stage_plugins
    loader.stage_plugins = lambda recipe, plan: [Breaks(None)]  # type: ignore[assignment]
    try:
        assert run(root, root / "broken") == 1
    finally:
        loader.stage_plugins = plugins
    assert run(root, root / "whole") == 0
    return root


@pytest.fixture
def folder(place: Path, tmp_path: Path) -> Path:
    """A copy of the broken run in another place."""
    return Path(shutil.copytree(place / "broken", tmp_path / "elsewhere" / "run"))


def run(place: Path, folder: Path) -> int:
    return potstill.cli.main(["run", str(place / "r.toml"), "--folder", str(folder)])


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("stages/01-plain/checkpoints/update-*"))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"position": 1}))


def other(path: Path) -> None:
    path.write_text(json.dumps([path.name]))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut": cut,
    "emptied": lambda path: os.truncate(path, 0),
    "missing": Path.unlink,
    "pickled": pickled,
    "another file": other,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors", "manifest.json"])
def test_the_checkpoint_before_a_damaged_one_is_gone_on_from(
    name: str, damage: str, place: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = checkpoints(folder)[-1]
    DAMAGES[damage](newest / name)
    capsys.readouterr()
    assert run(place, folder) == 0
    said = capsys.readouterr().err
    assert f"The checkpoint {newest.name} is damaged ({name} is " in said
    assert "going on from the one before." in said
    assert_same_weights(place / "whole", folder, "plain")


def test_a_run_without_a_whole_checkpoint_is_a_sentence_and_loses_nothing(
    place: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in checkpoints(folder):
        cut(path / "tensors.safetensors")
    there = sorted(folder.rglob("*"))
    assert run(place, folder) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    parent = folder / "stages/01-plain/checkpoints"
    assert said == f"Every checkpoint in {parent} is damaged; remove the folder to start this stage again."
    assert {path for path in there if "lock" not in path.name} <= set(folder.rglob("*"))
    shutil.rmtree(parent)
    assert run(place, folder) == 0
    assert_same_weights(place / "whole", folder, "plain")


@pytest.mark.parametrize("damage", ["cut", "emptied", "missing", "pickled"])
def test_damaged_best_weights_are_a_sentence(
    damage: str, place: Path, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from potstill.judge import Judge

    load = Judge.load_best

    def after_damage(self: Judge, at: Any) -> None:
        DAMAGES[damage](self.weights / "tensors.safetensors")
        load(self, at)

    monkeypatch.setattr(Judge, "load_best", after_damage)
    assert run(place, folder) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    stage = folder / "stages/01-plain"
    assert said.startswith(
        f"{stage}/best-weights, the best weights of the stage, cannot be read (tensors.safetensors is"
    )
    assert said.endswith(f"); remove {stage} to train the stage again.")


@pytest.mark.parametrize("hours", [-1000, 1000])
def test_a_moved_run_under_a_clock_that_jumps_ends_bit_identical(
    hours: int, place: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = Path(shutil.move(folder, folder.parent / "moved"))
    for number, path in enumerate(sorted(moved.rglob("*"), reverse=True)):  # the oldest name has the latest time
        os.utime(path, (time.time() + 3600 * hours + number,) * 2)
    now = time.time()
    calls = iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: now - 60 * next(calls))
    assert run(place, moved) == 0
    assert_same_weights(place / "whole", moved, "plain")
    log = "stages/01-plain/metrics.jsonl"
    assert (place / "whole" / log).read_bytes() == (moved / log).read_bytes()
    assert not folder.exists()


def test_a_run_folder_that_is_a_link_stays_one_and_fresh_keeps_what_is_the_users(
    place: Path, folder: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(folder)
    (folder / "notes.md").write_text("mine")
    (folder / ".ideas.old").mkdir()
    command = ["run", str(place / "r.toml"), "--folder", str(link), "--quiet", "--fresh"]
    assert potstill.cli.main(command) == 0
    assert link.is_symlink()
    assert (folder / "notes.md").read_text() == "mine"
    assert (folder / ".ideas.old").is_dir()
    assert_same_weights(place / "whole", folder, "plain")
