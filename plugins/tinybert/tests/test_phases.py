"""What a recipe's stage with `tinybert` becomes."""

from __future__ import annotations

from typing import Any

import pytest

from potstill.errors import PotstillError
from potstill.loader import expand
from potstill.recipe import StagePlan, parse
from potstill.testing.tiny import recipe


def parts(*others: str, stage: dict[str, Any] | None = None, **options: Any) -> tuple[StagePlan, ...]:
    """The stages of a recipe without the one that trains the teacher."""
    tables = recipe("tinybert", *others)
    tables["stage"][1].update(stage or {}, tinybert=options)
    return expand(parse(tables))[1:]


def test_a_stage_becomes_an_intermediate_part_and_then_itself() -> None:
    intermediate, last = parts()
    assert (intermediate.name, intermediate.student, intermediate.teacher) == (
        "distil-intermediate",
        "fresh",
        "stage:teacher",
    )
    assert (last.name, last.student, last.teacher) == ("distil", "stage:distil-intermediate", "stage:teacher")
    assert [plan.options_of("tinybert") for plan in (intermediate, last)] == [
        {"phase": "intermediate"},
        {"phase": "prediction"},
    ]
    assert (intermediate.learning_rate, intermediate.schedule, intermediate.warmup) == (5e-5, "constant", 0)
    assert (intermediate.keep, intermediate.evaluate) == ("last", False)
    assert (last.learning_rate, last.schedule, last.keep, last.evaluate) == (2e-3, "linear", "best", True)


def test_the_general_part_comes_first_with_a_teacher_and_data_of_its_own() -> None:
    data = {"train": "wiki.csv", "label": ""}
    general, intermediate, last = parts(general={"teacher": "raw", "data": data, "epochs": 1}, attention=2.0)
    assert (general.name, general.student, general.teacher) == ("distil-general", "fresh", "raw")
    assert (general.data, general.epochs, intermediate.data, intermediate.epochs) == (data, 1, {}, 2)
    assert (general.learning_rate, general.schedule, general.warmup, general.evaluate) == (5e-5, "linear", 0.1, False)
    assert (intermediate.student, last.student) == ("stage:distil-general", "stage:distil-intermediate")
    assert general.options_of("tinybert") == {"attention": 2.0, "phase": "general"}


def test_a_part_s_table_overrides_the_published_keys_and_this_plugin_s_options() -> None:
    intermediate, last = parts(intermediate={"updates": 7, "warmup": 3, "tinybert": {"hidden": 0.5}}, temperature=2.0)
    assert (intermediate.updates, intermediate.epochs, intermediate.warmup) == (7, None, 3)
    assert intermediate.options_of("tinybert") == {"temperature": 2.0, "phase": "intermediate", "hidden": 0.5}
    assert last.options_of("tinybert") == {"temperature": 2.0, "phase": "prediction"}


@pytest.mark.parametrize(
    ("options", "names", "phase"),
    [
        ({"intermediate": False}, ["distil"], "prediction"),
        ({"embedding": 0, "hidden": 0, "attention": 0}, ["distil"], "prediction"),
        ({"prediction": 0}, ["distil"], "intermediate"),
        ({"prediction": 0, "general": {}}, ["distil-general", "distil"], "intermediate"),
        ({"prediction": 0, "intermediate": False, "general": {}}, ["distil"], "general"),
        ({"phase": "general"}, ["distil"], "general"),
    ],
)
def test_each_part_may_be_left_out(options: dict[str, Any], names: list[str], phase: str) -> None:
    plans = parts(**options)
    assert [plan.name for plan in plans] == names
    assert plans[-1].options_of("tinybert")["phase"] == phase


def test_the_last_part_keeps_the_stage_s_own_keys_and_is_scored_where_a_head_learns() -> None:
    (alone,) = parts(prediction=0)
    assert (alone.learning_rate, alone.schedule, alone.keep, alone.evaluate) == (2e-3, "linear", "last", False)
    (beside,) = parts("hinton", prediction=0)
    assert (beside.plugins, beside.keep, beside.evaluate) == (("tinybert", "hinton"), "best", True)


def test_plugins_that_bring_an_objective_work_in_the_last_part_and_others_in_all() -> None:
    options = {"hinton": {"alpha": 0.5}, "accumulate": {"batches": 2}}
    intermediate, last = parts("hinton", "accumulate", stage=options)
    assert intermediate.plugins == ("tinybert", "accumulate")
    assert (intermediate.options_of("accumulate"), intermediate.options_of("hinton")) == ({"batches": 2}, {})
    assert last.plugins == ("tinybert", "hinton", "accumulate")
    assert last.options_of("hinton") == {"alpha": 0.5}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"prediction": 0, "hidden": 0, "embedding": 0, "attention": 0}, "no loss at all"),
        ({"prediction": 0, "intermediate": False}, "no loss at all"),
        ({"phase": "intermediate", "hidden": 0, "embedding": 0, "attention": 0}, "no loss at all"),
        ({"general": {}, "hidden": 0, "embedding": 0, "attention": 0}, "leave it no loss"),
        ({"intermediate": {"learning_rat": 1.0}}, "unknown key 'learning_rat'. Did you mean 'learning_rate'?"),
        ({"layers": "top"}, "top"),
        ({"augmentation": {"probability": 1.5}}, "probability"),
    ],
)
def test_what_cannot_be_is_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PotstillError) as caught:
        parts(**options)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
