"""The recipe that ships with the plugin."""

from __future__ import annotations

import pytest

from potstill import recipes
from potstill.loader import plugin_class
from potstill.recipe import Recipe, load

for needed in ("potstill_hinton", "potstill_accumulate", "potstill_onnx"):
    pytest.importorskip(needed)


@pytest.fixture
def recipe() -> Recipe:
    return load(recipes.find("thucnews-bilstm").path)


def test_every_option_in_the_recipe_is_one_that_its_plugin_has(recipe: Recipe) -> None:
    assert recipe.student is not None
    plugin_class(str(recipe.student.plugin)).Config(**recipe.student.options)
    named = [(name, stage.options_of(name)) for stage in recipe.stages for name in stage.plugins]
    assert [name for name, _ in named] == ["hinton", "accumulate"]
    for name, options in named:
        plugin_class(name).Config(**options)


def test_the_student_alone_gets_as_many_updates_of_as_many_rows_as_the_distilled_one(recipe: Recipe) -> None:
    alone, distilled = recipe.stages[1], recipe.stages[2]
    assert (alone.student, distilled.student) == ("fresh", "fresh")
    assert alone.batch_size == distilled.batch_size * distilled.options_of("accumulate")["batches"]
    for setting in ("epochs", "learning_rate", "schedule", "warmup", "weight_decay", "clip"):
        assert getattr(alone, setting) == getattr(distilled, setting)
