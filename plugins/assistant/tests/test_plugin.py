"""Hops: what a stage becomes, with plugins that expand themselves too, and a run over two of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from potstill_assistant.plugin import Assistant
from pydantic import ValidationError

import potstill
from potstill import loader
from potstill.errors import RecipeError
from potstill.loader import expand
from potstill.models import load_model
from potstill.plugin import Plugin, hookimpl
from potstill.recipe import StagePlan, parse
from potstill.testing.tiny import bert, recipe, write_data

MIDDLE = {"config": bert(2, 32)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def tables(*hops: dict[str, Any], plugins: tuple[str, ...] = ("hinton",), **stage: Any) -> dict[str, Any]:
    made = recipe(*plugins, "assistant")
    made["stage"][1].update(assistant={"hops": list(hops)}, **stage)
    return made


def test_each_hop_is_taught_by_the_one_before_and_the_student_by_the_last() -> None:
    plans = expand(parse(tables({**MIDDLE, "epochs": 5, "hinton": {"alpha": 0.5}}, {"layers": [1], "name": "small"})))
    assert [plan.name for plan in plans] == ["teacher", "distil-assistant1", "small", "distil"]
    assert [plan.teacher for plan in plans] == [None, "stage:teacher", "stage:distil-assistant1", "stage:small"]
    assert [plan.student for plan in plans[3:]] == ["fresh"]
    assert [plan.epochs for plan in plans[1:]] == [5, 2, 2]
    assert all(plan.plugins == ("hinton",) for plan in plans[1:])
    assert [plan.options_of("hinton") for plan in plans[1:]] == [{"alpha": 0.5}, {}, {}]
    assert plans[2].student.layers == (1,)  # type: ignore[union-attr]


class Twice(Plugin):
    """Trains in two parts."""

    name = "twice"

    @hookimpl
    def expand_stage(self, plan: StagePlan) -> list[StagePlan] | None:
        if plan.name.endswith(("-a", "-b")):
            return None
        return [plan.with_(name=f"{plan.name}-a"), plan.with_(name=f"{plan.name}-b", student=f"stage:{plan.name}-a")]


@pytest.mark.parametrize("plugins", [("twice", "assistant"), ("assistant", "twice")])
def test_what_expands_itself_does_so_on_every_hop(plugins: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    found: Callable[[str], type[Plugin]] = {"twice": Twice, "assistant": Assistant}.__getitem__
    monkeypatch.setattr(loader, "plugin_class", found)
    made = tables({**MIDDLE, "name": "hop"}, plugins=())
    made["stage"][1]["plugins"] = list(plugins)
    plans = expand(parse(made))
    assert [plan.name for plan in plans[1:]] == ["hop-a", "hop-b", "distil-a", "distil-b"]
    assert [plan.teacher for plan in plans[3:]] == ["stage:hop-b", "stage:hop-b"]


def test_a_run_over_a_hop_saves_every_student(data: Path, tmp_path: Path) -> None:
    made = tables(MIDDLE, plugins=("minilm",))
    result = potstill.run(made, folder=tmp_path / "run", data_root=data)
    assert list(result.stages) == ["teacher", "distil-assistant", "distil"]
    assistant = load_model(tmp_path / "run/stages/02-distil-assistant/best")
    student = load_model(tmp_path / "run/model")
    assert [model.module.config.num_hidden_layers for model in (assistant, student)] == [2, 1]


@pytest.mark.parametrize(
    ("hop", "told"),
    [
        ({"epochs": 3}, "hop 1 says nothing of its assistant"),
        ({**MIDDLE, "teacher": "fresh"}, "hop 1 gives 'teacher', which follows from its place"),
    ],
)
def test_a_hop_that_cannot_be_is_refused(hop: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Assistant.Config(hops=(hop,))


def test_a_hop_with_a_key_that_no_stage_has_is_refused() -> None:
    with pytest.raises(RecipeError, match="unknown key 'epoch'"):
        expand(parse(tables({**MIDDLE, "epoch": 3})))


def test_a_stage_that_trains_the_teacher_has_no_assistant() -> None:
    made = tables(MIDDLE)
    made["stage"][0].update(plugins=["assistant"], assistant={"hops": [MIDDLE]})
    with pytest.raises(RecipeError, match="stage 'teacher': an assistant stands between teacher and student"):
        expand(parse(made))
