"""What the demo's tests share: this Python's own paragraphs, read once, and a small library to break."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from potstill_demo import corpus


@pytest.fixture(scope="session")
def paragraphs() -> list[corpus.Paragraph]:
    return corpus.paragraphs(corpus.standard_library())


@pytest.fixture(scope="session")
def sides(paragraphs: list[corpus.Paragraph]) -> dict[str, list[corpus.Paragraph]]:
    return corpus.split(paragraphs)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Three packages of the standard library, as if no other were installed."""
    folder = tmp_path / "library"
    for package in ("asyncio", "email", "logging"):
        shutil.copytree(corpus.standard_library() / package, folder / package)
    return folder
