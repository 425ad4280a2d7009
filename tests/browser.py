"""A page in headless Chromium: how many pictures it draws, and what its console complains of."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

_CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

needs_browser = pytest.mark.skipif(_CHROMIUM is None, reason="neither chromium nor google-chrome is on the PATH")


def complaints_of(page: Path, profile: Path) -> tuple[int, list[str]]:
    """The number of figures that were drawn, and the lines of the console.

    Args:
        profile: a folder for the browser's own files.
    """
    assert _CHROMIUM is not None
    done = subprocess.run(
        [
            _CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile / 'chromium'}",
            "--enable-logging=stderr", "--v=0", "--virtual-time-budget=5000", "--window-size=1200,2000", "--dump-dom",
            page.resolve().as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )  # fmt: skip
    document = re.sub(r"<script\b.*?</script>", "", done.stdout, flags=re.DOTALL)
    return document.count('class="plot-container'), [line for line in done.stderr.splitlines() if "CONSOLE" in line]
