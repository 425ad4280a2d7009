"""What a recipe's stage with `theseus` becomes."""

from __future__ import annotations

from typing import Any

import pytest

from potstill.errors import PotstillError
from potstill.loader import expand
from potstill.recipe import StagePlan, parse
from potstill.testing.tiny import recipe


def parts(*others: str, stage: dict[str, Any] | None = None, **options: Any) -> tuple[StagePlan, ...]:
    """The stages of a recipe without the one that trains the teacher."""
    tables = recipe("theseus", *others)
    del tables["student"]
    tables["stage"][1].update(stage or {}, theseus=options)
    return expand(parse(tables))[1:]


def test_a_rising_rate_makes_one_stage_of_it_and_a_constant_one_has_the_successor_tuned() -> None:
    (alone,) = parts()
    assert (alone.name, alone.student, alone.teacher) == ("distil", "fresh", "stage:teacher")
    assert alone.options_of("theseus") == {"phase": "replace"}
    (jumping,) = parts(schedule="constant", full_after=0.5)
    assert jumping.name == "distil"
    replace, tune = parts(schedule="constant", trains="all")
    assert (replace.name, replace.student) == ("distil-replace", "fresh")
    assert (tune.name, tune.student, tune.teacher) == ("distil", "stage:distil-replace", "stage:teacher")
    shared = {"schedule": "constant", "trains": "all"}
    assert [plan.options_of("theseus") for plan in (replace, tune)] == [
        {**shared, "phase": "replace"},
        {**shared, "phase": "tune"},
    ]
    assert (replace.learning_rate, tune.learning_rate) == (2e-3, 2e-3)


def test_the_tables_of_parts_change_keys_of_their_stage_and_options_of_plugins() -> None:
    stage = {"supervised": 0.5, "accumulate": {"batches": 2}}
    tuned = {"updates": 7, "theseus": {"trains": "all"}}
    predecessor, replace, tune = parts(
        "hinton", "accumulate", stage=stage, predecessor={"epochs": 4, "learning_rate": 2e-5}, tune=tuned
    )
    assert (predecessor.name, predecessor.trains, predecessor.student) == (
        "distil-predecessor",
        "teacher",
        "stage:teacher",
    )
    assert (predecessor.plugins, predecessor.teacher, predecessor.supervised) == (("accumulate",), None, None)
    assert (predecessor.epochs, predecessor.learning_rate) == (4, 2e-5)
    assert predecessor.options_of("accumulate") == {"batches": 2}
    assert [plan.name for plan in (replace, tune)] == ["distil-replace", "distil"]
    assert {plan.teacher for plan in (replace, tune)} == {"stage:distil-predecessor"}
    assert [plan.plugins for plan in (replace, tune)] == [("theseus", "hinton", "accumulate")] * 2
    assert (replace.epochs, replace.updates, tune.epochs, tune.updates) == (2, None, None, 7)
    assert tune.options_of("theseus") == {"phase": "tune", "trains": "all"}


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"tune": False, "schedule": "constant"}, ["distil"]),
        ({"tune": True}, ["distil-replace", "distil"]),
        ({"tune": {}}, ["distil-replace", "distil"]),
        ({"predecessor": {}}, ["distil-predecessor", "distil"]),
        ({"phase": "replace", "tune": True}, ["distil"]),
    ],
)
def test_each_part_may_be_there_or_left_out(options: dict[str, Any], names: list[str]) -> None:
    assert [plan.name for plan in parts(**options)] == names


def test_options_may_stand_in_the_student_s_table() -> None:
    tables = recipe(student={"plugin": "theseus", "layers": 1, "schedule": "constant", "tune": {"epochs": 1}})
    _, replace, tune = expand(parse(tables))
    assert (replace.plugins, tune.plugins) == (("theseus",), ("theseus",))
    assert tune.options_of("theseus") == {"layers": 1, "schedule": "constant", "phase": "tune"}
    assert (replace.epochs, tune.epochs) == (2, 1)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tune": {"learning_rat": 1.0}}, "unknown key 'learning_rat'. Did you mean 'learning_rate'?"),
        ({"predecessor": {"epochs": 0}}, "stage 'distil-predecessor': 'epochs' = 0 should be greater than 0"),
        ({"slop": 0.1}, "unknown key 'slop'. Did you mean 'slope'?"),
        ({"schedule": "cosine"}, "'schedule' = 'cosine' should be 'linear' or 'constant'"),
        ({"slope": 0.1, "full_after": 3}, "slope = 0.1 and full_after = 3 are both given"),
        ({"full_after": 1.5}, "full_after = 1.5 is neither a whole number of updates nor a share of them up to 1"),
    ],
)
def test_what_cannot_be_is_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PotstillError) as caught:
        parts(**options)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_stage_that_trains_the_teacher_is_refused() -> None:
    tables = recipe()
    tables["stage"][0]["plugins"] = ["theseus"]
    with pytest.raises(PotstillError, match="stage 'teacher': theseus makes a student of the teacher"):
        expand(parse(tables))
