"""A launcher's processes: they join, stop together when the launcher is told to, and train what one process trains."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
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
    tables = student_only(epochs=40, log_every=1)
    path = tmp_path / "tiny.toml"
    path.write_text(tomli_w.dumps(tables))
    words = ["-m", "potstill", "run", str(path), "--data-root", str(data), "--folder", str(tmp_path / "two"), "--quiet"]
    process = subprocess.Popen(
        [sys.executable, *LAUNCHER, str(free_port()), *words],
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    log = tmp_path / "two/stages/01-plain/metrics.jsonl"
    until = time.monotonic() + 200
    while not (log.is_file() and log.stat().st_size) and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=60)[1]
    assert errors.count("Stopped as asked; the same command goes on from the last checkpoint.") == 1, errors
    assert not (tmp_path / "two/result.json").exists()
    notes = Notes()
    potstill.run(path, folder=tmp_path / "two", data_root=data, progress=notes)
    assert any("begun by 2 processes, going on with 1" in line for line in notes.lines)
    potstill.run(path, folder=tmp_path / "one", data_root=data)
    theirs = weights(tmp_path / "two", "plain")
    for name, value in weights(tmp_path / "one", "plain").items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-6, atol=1e-6)


class Notes(Progress):
    """Keeps what a run notes."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)
