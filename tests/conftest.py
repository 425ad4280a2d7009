"""What all tests share: one thread, no hub, a cache of their own, tiny data and a tiny recipe."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest

from potstill.testing.tiny import recipe, write_data
from tests.nursery import Nursery


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tokenized data of the tests goes to a folder that goes away."""
    os.environ["POTSTILL_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    del os.environ["POTSTILL_CACHE"]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny training data; see `potstill.testing.tiny`."""
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def tiny(data: Path) -> dict[str, Any]:
    """The tables of a recipe that runs in a second: a 2-layer teacher, a 1-layer student."""
    return recipe("hinton")


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """Where runs of several processes come from."""
    with Nursery(tmp_path_factory.mktemp("logs")) as found:
        yield found
