"""Runs that are killed with SIGKILL go on to the same end; by hand, `python -m tests.kill` does more of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks of one process")
def test_runs_killed_at_random_moments_end_bit_identical(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.kill", str(tmp_path / "runs"), "--trials", "7", "--rows", "60"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "7 of 7 identical"
