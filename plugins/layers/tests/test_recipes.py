"""The recipes that ship with the plugin."""

from __future__ import annotations

import pytest

from potstill import recipes
from potstill.recipe import load


@pytest.mark.parametrize("name", ["textbrewer", "pkd"])
def test_a_small_twin_has_the_options_of_the_published_setting(name: str) -> None:
    published, small = (load(recipes.find(each).path) for each in (name, f"{name}-small"))
    options = published.stages[-1].options_of("layers")
    assert options == small.stages[-1].options_of("layers")
    assert options["hidden"] == ({"pkd": 100.0} if name == "pkd" else {"hidden_mse": 1.0, "nst": 1.0})
    assert published.teacher is not None
    assert published.teacher.model is not None
    assert small.teacher is not None
    assert small.teacher.config is not None
