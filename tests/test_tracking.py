"""Live curves: what TensorBoard's own reader finds is what metrics.jsonl says, whatever happens to the run."""

from __future__ import annotations

import json
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from accelerate.tracking import TensorBoardTracker

import potstill
import potstill.cli
from potstill.errors import Interrupted, UserError
from potstill.progress import Bar, Progress
from potstill.testing.tiny import recipe, student_only
from potstill.tracking import NAMES, _Sent, check_trackers
from tests.nursery import Nursery

pytest.importorskip("tensorboard", reason="TensorBoard is not installed")

Curve = list[tuple[int, float]]


def in_tensorboard(run: Path, stage: str) -> dict[str, Curve]:
    """Every curve of a stage as TensorBoard shows it, without the points that were taken back."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(run / "tracking/tensorboard" / stage), size_guidance={"scalars": 0})
    reader.Reload()
    return {tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def in_log(run: Path, stage: str) -> dict[str, Curve]:
    """The same of metrics.jsonl, in the numbers of TensorBoard, which are float32."""
    import numpy as np

    curves: dict[str, Curve] = {}
    for line in (run / "stages" / stage / "metrics.jsonl").read_text().splitlines():
        record: dict[str, Any] = json.loads(line)
        values = {name: record[name] for name in ("loss", "learning_rate", "grad_norm", "epoch") if name in record}
        values |= {f"terms/{name}": value for name, value in record.get("terms", {}).items()}
        values |= {f"evaluation/{name}": value for name, value in record.get("evaluation", {}).items()}
        for name, value in values.items():
            curves.setdefault(name, []).append((record["update"], float(np.float32(value))))
    return curves


def assert_same_curves(run: Path, *stages: str) -> None:
    for number, stage in enumerate(stages, start=1):
        told = in_tensorboard(run, stage)
        speed = told.pop("rows_per_second", [])
        logged = in_log(run, f"{number:02d}-{stage}")
        assert told == logged
        assert {update for update, _ in speed} <= {update for update, _ in logged["loss"]}
        assert all(value > 0 for _, value in speed)


def tracked(data: Path, folder: Path, tables: dict[str, Any], **options: Any) -> None:
    potstill.run(tables, folder=folder, data_root=data, track=["tensorboard"], **options)


@pytest.fixture
def long() -> dict[str, Any]:
    """A stage of 60 updates, with a line every 5 and a checkpoint every 20."""
    tables = student_only(updates=60, log_every=5, checkpoint_every=20, evaluate_every=15)
    del tables["stage"][0]["epochs"]
    return tables


def test_tensorboard_shows_every_number_of_every_stage(data: Path, tmp_path: Path) -> None:
    tables = recipe("hinton")
    tables["stage"][1]["log_every"] = 3
    tracked(data, tmp_path / "run", tables)
    assert_same_curves(tmp_path / "run", "teacher", "distil")
    curves = in_tensorboard(tmp_path / "run", "distil")
    assert {"loss", "terms/hinton.soft", "terms/hinton.hard", "evaluation/accuracy", "rows_per_second"} <= set(curves)
    assert len(curves["rows_per_second"]) == len(curves["loss"])


def test_a_run_that_stops_and_goes_on_repeats_no_point_and_misses_none(
    data: Path, tmp_path: Path, long: dict[str, Any]
) -> None:
    class Stops(Progress):
        """Stops a run amid the updates after a checkpoint, as a kill would: nothing is saved."""

        def bar(self, name: str, total: int | None, done: int = 0) -> Any:
            return _Stopping(34) if name == "plain" and done < 34 else super().bar(name, total, done)

    with pytest.raises(Interrupted):
        tracked(data, tmp_path / "run", long, progress=Stops())
    before = in_tensorboard(tmp_path / "run", "plain")
    assert before["loss"][-1][0] == 30  # the checkpoint is of update 24, an epoch's end
    tracked(data, tmp_path / "run", long)
    assert_same_curves(tmp_path / "run", "plain")
    assert in_tensorboard(tmp_path / "run", "plain")["loss"][:6] == before["loss"]


@pytest.mark.parametrize("sends", [True, False])
def test_a_kill_just_before_or_after_a_point_is_sent_leaves_it_there_once(
    data: Path, tmp_path: Path, long: dict[str, Any], monkeypatch: pytest.MonkeyPatch, sends: bool
) -> None:
    class Killed(BaseException):
        pass

    log, count = TensorBoardTracker.log, 0

    def dies(self: Any, values: Any, step: int) -> None:
        nonlocal count
        count += 1
        if count != 8 or sends:
            log(self, values, step=step)
        if count == 8:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(TensorBoardTracker, "log", dies)
        patched.setattr(_Sent, "close", lambda self: None)  # which a kill spares
        with pytest.raises(Killed):
            tracked(data, tmp_path / "run", long)
    cut = json.loads((tmp_path / "run/tracking/tensorboard/plain.json").read_text())
    # the eighth line is an evaluation, of the update whose loss is the seventh
    assert (cut["lines"], cut["update"], cut["before"], cut["closed"]) == (8, 30, 6, False)
    tracked(data, tmp_path / "run", long)
    assert_same_curves(tmp_path / "run", "plain")


class _Stopping(Bar):
    def __init__(self, after: int) -> None:
        self._left = after

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def advance(self, steps: int = 1, **facts: float | str) -> None:
        self._left -= steps
        if not self._left:
            raise Interrupted("stopped")


@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_processes_go_on_with_the_same_curves(
    nursery: Nursery, data: Path, tmp_path: Path, long: dict[str, Any], ranks: int
) -> None:
    (tmp_path / "r.toml").write_text(tomli_w.dumps(long | {"stage": [long["stage"][0] | {"updates": 300}]}))
    words = ["run", tmp_path / "r.toml", "--data-root", data, "--folder", tmp_path / "run", "--track", "tensorboard"]
    started = nursery.launch(*words, ranks=ranks)
    log, deadline = tmp_path / "run/stages/01-plain/metrics.jsonl", time.monotonic() + 60
    while not (log.is_file() and log.read_text().count("\n") >= 12):
        assert time.monotonic() < deadline, started.errors
        time.sleep(0.01)
    for rank in range(ranks):
        started.kill(rank)
    assert started.wait() == [-9] * ranks
    again = nursery.launch(*words, ranks=ranks)
    assert again.wait() == [0] * ranks, again.errors
    assert_same_curves(tmp_path / "run", "plain")


def test_a_tracker_that_comes_later_gets_what_it_missed(data: Path, tmp_path: Path) -> None:
    tables = recipe("hinton")
    potstill.run(tables, folder=tmp_path / "run", data_root=data)
    assert not (tmp_path / "run/tracking").exists()
    for _ in range(2):
        tracked(data, tmp_path / "run", tables)
        assert_same_curves(tmp_path / "run", "teacher", "distil")


@pytest.mark.parametrize("damage", ["{", "[1]", "{}", "\x00"])
def test_a_damaged_line_of_a_finished_run_is_left_out(data: Path, tmp_path: Path, damage: str) -> None:
    tables = student_only()
    potstill.run(tables, folder=tmp_path / "run", data_root=data)
    log = tmp_path / "run/stages/01-plain/metrics.jsonl"
    whole = log.read_text()
    log.write_text(f"{damage}\n{whole}")
    tracked(data, tmp_path / "run", tables)
    log.write_text(whole)
    assert_same_curves(tmp_path / "run", "plain")


def test_a_tracker_that_fails_is_told_of_once_and_the_run_goes_on(data: Path, tmp_path: Path) -> None:
    notes: list[str] = []

    class InTheWay(Progress):
        """Puts a file where the second stage's curves are to go."""

        def note(self, text: str) -> None:
            notes.append(text)

        def bar(self, name: str, total: int | None, done: int = 0) -> Any:
            if name == "distil":
                (tmp_path / "run/tracking/tensorboard/distil").write_text("no folder")
            return super().bar(name, total, done)

    tables = recipe("hinton")
    tables["stage"][1]["log_every"] = 3
    tracked(data, tmp_path / "run", tables, progress=InTheWay())
    (said,) = [note for note in notes if "TensorBoard" in note]
    assert said.startswith("TensorBoard is not told any more, for it failed (FileExistsError: ")
    assert said.endswith("); metrics.jsonl has everything.")
    assert (tmp_path / "run/result.json").is_file()
    assert_same_curves(tmp_path / "run", "teacher")
    (tmp_path / "run/tracking/tensorboard/distil").unlink()
    tracked(data, tmp_path / "run", tables)
    assert_same_curves(tmp_path / "run", "teacher", "distil")


def test_curves_of_a_recipe_that_was_given_up_at_its_beginning_are_not_gone_on_with(
    data: Path, tmp_path: Path, long: dict[str, Any]
) -> None:
    left = tmp_path / "run/tracking/tensorboard/plain.json"
    left.parent.mkdir(parents=True)
    left.write_text('{"lines": 5, "identity": "x", "closed": true}')
    for name, content in (("recipe.toml", ""), ("environment.json", "{}")):
        (tmp_path / "run" / name).write_text(content)
    tracked(data, tmp_path / "run", long)
    assert_same_curves(tmp_path / "run", "plain")


def test_an_unknown_tracker_and_one_that_is_not_installed_are_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.toml").write_text("")
    assert potstill.cli.main(["run", str(tmp_path / "r.toml"), "--track", "tensorbord"]) == 2
    assert capsys.readouterr().err == (
        "'tensorbord' is no tracker; there are tensorboard, wandb, trackio. Did you mean 'tensorboard'?\n"
    )
    absent = [name for name in NAMES if find_spec(name) is None]
    for name in absent:
        with pytest.raises(UserError, match=f"and is not installed; pip install {name}."):
            check_trackers([name])


def test_a_fresh_run_begins_its_curves_anew(data: Path, tmp_path: Path, long: dict[str, Any]) -> None:
    (tmp_path / "r.toml").write_text(tomli_w.dumps(long))
    words = ["run", str(tmp_path / "r.toml"), "--data-root", str(data), "--folder", str(tmp_path / "run"), "--quiet"]
    for more in ([], ["--fresh", "--seed", "9"]):
        assert potstill.cli.main([*words, "--track", "tensorboard", *more]) == 0
    assert_same_curves(tmp_path / "run", "plain")


def test_a_sweep_tracks_each_run_in_its_own_folder(data: Path, tmp_path: Path, long: dict[str, Any]) -> None:
    (tmp_path / "r.toml").write_text(tomli_w.dumps(long))
    words = ["sweep", str(tmp_path / "r.toml"), "--data-root", str(data), "--folder", str(tmp_path / "s"), "--quiet"]
    assert potstill.cli.main([*words, "--seeds", "1,2", "--track", "tensorboard"]) == 0
    for seed in (1, 2):
        assert_same_curves(tmp_path / f"s/seed={seed}", "plain")


def test_a_stage_that_is_taken_from_another_run_is_tracked_at_once(data: Path, tmp_path: Path) -> None:
    tables = recipe("hinton")
    tracked(data, tmp_path / "first", tables)
    tables["stage"][1]["seed"] = 2
    notes: list[str] = []

    class Listens(Progress):
        def note(self, text: str) -> None:
            notes.append(text)

    tracked(data, tmp_path / "second", tables, reuse=[tmp_path / "first"], progress=Listens())
    assert any(note.startswith("teacher: taken from") for note in notes)
    assert_same_curves(tmp_path / "second", "teacher", "distil")
