"""A launcher's processes: they join, stop together when the launcher is told to, and train what one process trains."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import tomli_w
import torch

import potstill
from potstill.progress import Progress
from potstill.testing import weights
from potstill.testing.tiny import student_only
from tests.nursery import free_port

LAUNCHER = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]


def test_a_launcher_that_is_told_to_end_stops_its_processes_and_one_goes_on(data: Path, tmp_path: Path) -> None:
    tables = student_only(epochs=20, log_every=1, epsilon=1e-5)
    path = tmp_path / "tiny.toml"
    path.write_text(tomli_w.dumps(tables))
    words = ["-m", "potstill", "run", str(path), "--data-root", str(data), "--folder", str(tmp_path / "two"), "--quiet"]
    errors = stopped([sys.executable, *LAUNCHER, str(free_port()), *words], tmp_path / "two")
    assert errors.count("Stopped as asked; the same command goes on from the last checkpoint.") == 1, errors
    assert not (tmp_path / "two/result.json").exists()
    notes = Notes()
    potstill.run(path, folder=tmp_path / "two", data_root=data, progress=notes)
    assert any("begun by 2 processes, going on with 1" in line for line in notes.lines)
    potstill.run(path, folder=tmp_path / "one", data_root=data)
    theirs = weights(tmp_path / "two", "plain")
    for name, value in weights(tmp_path / "one", "plain").items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-6, atol=1e-6)


def stopped(command: list[str], run: Path) -> str:
    """What a launcher that got SIGTERM as soon as the run wrote its log had on standard error."""
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        log = run / "stages/01-plain/metrics.jsonl"
        until = time.monotonic() + 300
        while not (log.is_file() and log.stat().st_size):
            assert time.monotonic() < until, "no update in 5 minutes"
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        return process.communicate(timeout=60)[1]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


class Notes(Progress):
    """Keeps what a run notes."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)
