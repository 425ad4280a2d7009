"""Live curves: the lines of metrics.jsonl, sent on to TensorBoard, W&B or trackio through accelerate's trackers.

Who watches changes nothing of a run, so it is no part of its recipe, and a run may go on with other trackers or none.
metrics.jsonl is the truth: beside a tracker stands how many of a stage's lines it was sent, and it gets those that are
missing when the stage goes on, each once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

from potstill.errors import UserError, did_you_mean
from potstill.progress import Progress

NAMES = {"tensorboard": "TensorBoard", "wandb": "W&B", "trackio": "trackio"}
"""The trackers, named as the packages that they need."""
FOLDER = "tracking"
"""In the run folder; `tensorboard --logdir RUN/tracking/tensorboard` shows a curve a stage."""


def check_trackers(names: Sequence[str]) -> None:
    """Trackers that are there.

    Raises: UserError for an unknown one, and for one that is not installed.
    """
    for name in names:
        if name not in NAMES:
            raise UserError(f"'{name}' is no tracker; there are {', '.join(NAMES)}.{did_you_mean(name, NAMES)}")
        if find_spec(name) is None:
            raise UserError(f"{NAMES[name]} is asked to track the run and is not installed; pip install {name}.")


class Tracking:
    """The trackers of one run.

    Args:
        names: none on all processes but the first.
        folder: the run folder.
        project: what the run is called there.
        progress: is told of a tracker that fails; the run goes on without it.
    """

    def __init__(self, names: Sequence[str], folder: Path, project: str, progress: Progress) -> None:
        self.names = list(dict.fromkeys(names))
        self._folder, self._project, self._progress = folder / FOLDER, project, progress

    def curves(self, stage: str, log: Path) -> Curves:
        """The curves of one stage, whose metrics.jsonl is `log`."""
        return Curves(self, stage, log)

    def start(self, name: str, stage: str, sent: _Sent) -> Any:
        """A tracker of accelerate's that takes the curves of one stage, begun or gone on with."""
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        options: dict[str, Any] = {"run_name": self._project, "resume": "allow"}
        if name == "tensorboard":
            options = {"run_name": stage, "logging_dir": str(self._folder / name), "purge_step": sent.purged}
        elif name == "wandb":
            options |= {
                "id": sent.identity,
                "name": stage,
                "group": self._folder.resolve().parent.name,
                "dir": str(self._folder),
            }
        else:
            options |= {"name": f"{stage}-{sent.identity}"}
        tracker = LOGGER_TYPE_TO_CLASS[name](**options)
        tracker.start()
        return tracker

    def mark(self, name: str, stage: str) -> Path:
        """The file that says what a tracker was sent of a stage."""
        return self._folder / name / f"{stage}.json"

    def safely(self, name: str, call: Callable[[], None]) -> None:
        """Calls a tracker, whose fault ends it and not the run; what it prints goes to standard error."""
        try:
            with redirect_stdout(sys.stderr):
                call()
        except Exception as error:
            self.names.remove(name)
            what = " ".join(f"{type(error).__name__}: {error}".split())
            self._progress.note(
                f"{NAMES[name]} is not told any more, for it failed ({what}); metrics.jsonl has everything."
            )


class Curves:
    """One stage's lines on their way to the trackers."""

    def __init__(self, tracking: Tracking, stage: str, log: Path) -> None:
        self._tracking, self._stage, self._log = tracking, stage, log
        self._open: dict[str, _Sent] = {}
        self._line = 0
        self._rows, self._seconds = 0, 0.0

    def catch_up(self) -> None:
        """Sends the lines that the log holds, and that a tracker was not sent; `send` goes on from there."""
        if self._tracking.names and self._log.is_file():
            with self._log.open(encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    self.send(_record(line))

    def count(self, rows: int, seconds: float) -> None:
        """An update over so many rows took so long."""
        self._rows, self._seconds = self._rows + rows, self._seconds + seconds

    def send(self, record: Mapping[str, Any]) -> None:
        """The log's next line; with those of the loss goes the speed since the one before."""
        self._line += 1
        if "update" not in record:  # somebody damaged the line
            return
        values = _values(record)
        if "loss" in record and self._seconds:
            values["rows_per_second"] = self._rows / self._seconds
            self._rows, self._seconds = 0, 0.0
        for name in [*self._tracking.names]:
            self._tracking.safely(name, partial(self._send, name, values, record["update"]))

    def close(self) -> None:
        """Ends the trackers of this stage."""
        for name in [*self._tracking.names]:
            if name in self._open:
                self._tracking.safely(name, self._open[name].close)
        self._open.clear()

    def _send(self, name: str, values: dict[str, float], update: int) -> None:
        if name not in self._open:
            self._open[name] = _Sent(self._tracking.mark(name, self._stage), takes_back=name == "tensorboard")
        sent = self._open[name]
        if self._line <= sent.lines:
            return
        if sent.tracker is None:
            sent.tracker = self._tracking.start(name, self._stage, sent)
        sent.note(self._line, update)
        sent.tracker.log(values, step=update)


class _Sent:
    """How many lines of a stage a tracker was sent, in a file that is replaced before each.

    Before, so that a kill between the two repeats no point. Where the tracker can take points back, those of the last
    update are sent again after a kill, so that none is missing either.
    """

    def __init__(self, path: Path, *, takes_back: bool) -> None:
        self._path = path
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        self.identity: str = known.get("identity", uuid4().hex[:12])
        """Of these curves, the same when they go on."""
        self.lines: int = known.get("lines", 0)
        self._update: int | None = known.get("update")
        self._before: int = known.get("before", 0)  # lines of earlier updates
        self.purged: int | None = None
        """The points of this update and later ones are taken back."""
        self.tracker: Any = None
        if takes_back and not known.get("closed", True):
            self.lines, self.purged = self._before, self._update

    def note(self, lines: int, update: int) -> None:
        """So many lines are sent, the last of this update in a moment."""
        if update != self._update:
            self._before, self._update = self.lines, update
        self.lines = lines
        self._write(closed=False)

    def close(self) -> None:
        """Ends the tracker, which then has all that it was sent."""
        if self.tracker is not None:
            self.tracker.finish()
            self._write(closed=True)

    def _write(self, *, closed: bool) -> None:
        facts = {"identity": self.identity, "lines": self.lines, "update": self._update, "before": self._before}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_suffix(".tmp")
        draft.write_text(json.dumps({**facts, "closed": closed}), encoding="utf-8")
        draft.replace(self._path)  # no fsync: what is lost with the power, trackers have lost as well


def _record(line: str) -> dict[str, Any]:
    """A line of the log; {} where it holds none."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _values(record: Mapping[str, Any]) -> dict[str, float]:
    """A line's numbers by the names of their curves: "loss", "terms/hinton.soft", "evaluation/accuracy"."""
    nested = {key: record.get(key) or {} for key in ("terms", "evaluation")}
    flat = {key: value for key, value in record.items() if key not in (*nested, "update")}
    flat |= {f"{key}/{name}": value for key, table in nested.items() for name, value in table.items()}
    return {name: float(value) for name, value in flat.items() if isinstance(value, int | float)}
