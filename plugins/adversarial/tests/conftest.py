"""Tiny data, made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from potstill.testing.tiny import write_data

CHARACTERS = ["<PAD>", "<UNK>", " ", *"abcdefghijklmnopqrstuvwxyz"]


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tokenized data goes to a folder that goes away."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POTSTILL_CACHE", str(tmp_path_factory.mktemp("adversarial-cache")))
        yield


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny rows, and a vocabulary of characters."""
    folder = write_data(tmp_path_factory.mktemp("adversarial-data"))
    (folder / "characters.txt").write_text("\n".join(CHARACTERS) + "\n", encoding="utf-8")
    return folder
