"""Tiny data and two trained teachers, made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import potstill
from plugins.layers.tests.stages import CALM
from potstill.testing.tiny import bert, recipe, write_data


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tokenized data goes to a folder that goes away."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POTSTILL_CACHE", str(tmp_path_factory.mktemp("layers-cache")))
        yield


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("layers-data"))


@pytest.fixture(scope="session")
def teachers(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders by name: "wide" is 48 wide with 4 layers and heads, "slim" is 32 wide with 3 layers and 2 heads."""
    folder = tmp_path_factory.mktemp("layers-teachers")
    configs = {"wide": bert(4, 48, **{**CALM, "num_attention_heads": 4}), "slim": bert(3, 32, **CALM)}
    stage = {"name": "t", "trains": "teacher", "updates": 8, "batch_size": 8, "learning_rate": 2e-3}
    for name, config in configs.items():
        tables = recipe(teacher={"config": config, "tokenizer": "vocab.txt"}, stage=[stage])
        potstill.run(tables, folder=folder / name, data_root=data)
    return {name: str(folder / name / "stages/01-t/best") for name in configs}
