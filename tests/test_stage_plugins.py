"""A stage's plugins, their options, and what `expand_stage` makes of stages. The plugins are made up here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from potstill import loader
from potstill.errors import PluginError, RecipeError
from potstill.loader import expand, make_plugins, stage_plugins
from potstill.plugin import Plugin, PluginConfig, hookimpl
from potstill.recipe import Recipe, StagePlan, parse

HERE = __name__


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes classes known by their names, as if they were installed."""

    def known(*classes: type[Plugin]) -> None:
        monkeypatch.setattr(loader, "plugin_class", {cls.name: cls for cls in classes}.__getitem__)

    return known


class Soft(Plugin):
    name = "soft"

    class Config(PluginConfig):
        temperature: float = 1.0
        """Softens."""


class Recurrent(Plugin):
    name = "recurrent"

    class Config(PluginConfig):
        hidden_size: int = 8
        """Units."""


def test_options_are_checked_in_one_sentence(offer: Callable[..., None]) -> None:
    offer(Soft)
    assert make_plugins(["soft"], {"soft": {"temperature": 4}})[0].config.temperature == 4.0
    with pytest.raises(RecipeError) as caught:
        make_plugins(["soft"], {"soft": {"temprature": 4}}, "stage 'a': ")
    assert str(caught.value) == "stage 'a': plugin 'soft': unknown key 'temprature'. Did you mean 'temperature'?"
    with pytest.raises(RecipeError, match="plugin 'soft': 'temperature' = 'hot' should be a valid number"):
        make_plugins(["soft"], {"soft": {"temperature": "hot"}})


def recipe_of(**tables: Any) -> Recipe:
    return parse({"name": "x", **tables})


def test_the_plugin_that_builds_a_fresh_model_is_active_after_those_of_the_stage(offer: Callable[..., None]) -> None:
    offer(Soft, Recurrent)
    recipe = recipe_of(
        teacher={"model": "t"},
        student={"plugin": "recurrent", "hidden_size": 3},
        stage=[{"name": "t", "trains": "teacher"}, {"name": "s", "plugins": ["soft"]}, {"name": "tune"}],
    )
    teacher, distil, tune = expand(recipe)
    assert stage_plugins(recipe, teacher) == []
    soft, recurrent = stage_plugins(recipe, distil)
    assert (soft.name, recurrent.name, recurrent.config.hidden_size) == ("soft", "recurrent", 3)
    assert stage_plugins(recipe, tune) == []


def test_the_teachers_plugin_is_active_where_the_fresh_teacher_is_used(offer: Callable[..., None]) -> None:
    offer(Soft, Recurrent)
    table = {"plugin": "recurrent", "hidden_size": 5}
    recipe = recipe_of(teacher=table, student={"model": "s"}, stage=[{"name": "s"}])
    assert [plugin.config.hidden_size for plugin in stage_plugins(recipe, expand(recipe)[0])] == [5]
    other = recipe_of(teacher=table, student={"plugin": "recurrent"}, stage=[{"name": "s"}])
    with pytest.raises(RecipeError, match=r"stage 's': teacher and student both name plugin 'recurrent'"):
        expand(other)


def expanding(name: str, expand_stage: Callable[[Any, StagePlan], Any]) -> type[Plugin]:
    def hook(self: Plugin, plan: StagePlan) -> Any:
        return expand_stage(self, plan)

    members: dict[str, Any] = {"name": name, "expand_stage": hookimpl(hook)}
    return type(name.title(), (Plugin,), members)


class Twofold(Plugin):
    """Two stages for one; the second starts from the first."""

    name: ClassVar[str] = "twofold"

    @hookimpl
    def expand_stage(self, plan: StagePlan) -> list[StagePlan]:
        rest = tuple(name for name in plan.plugins if name != "twofold")
        first = plan.with_(name=f"{plan.name}-general", plugins=rest)
        return [first, first.with_(name=f"{plan.name}-task", student="previous")]


def test_a_stage_is_replaced_by_what_its_plugin_makes_of_it_and_later_references_follow(
    offer: Callable[..., None],
) -> None:
    offer(Twofold, Soft)
    stages = [
        {"name": "teacher", "trains": "teacher"},
        {"name": "distil", "plugins": ["twofold", "soft"], "soft": {"temperature": 2.0}},
        {"name": "tune"},
        {"name": "again", "student": "fresh", "teacher": "stage:distil"},
    ]
    plans = expand(recipe_of(teacher={"model": "t"}, student={"model": "s"}, stage=stages))
    assert [(plan.name, plan.teacher, plan.student) for plan in plans] == [
        ("teacher", None, "fresh"),
        ("distil-general", "stage:teacher", "fresh"),
        ("distil-task", "stage:teacher", "stage:distil-general"),
        ("tune", "stage:teacher", "stage:distil-task"),
        ("again", "stage:distil-task", "fresh"),
    ]
    assert plans[2].plugins == ("soft",)
    assert plans[2].options_of("soft") == {"temperature": 2.0}


def test_expansion_is_applied_to_what_it_returned(offer: Callable[..., None]) -> None:
    def halve(_: Any, plan: StagePlan) -> Any:
        if plan.updates == 1:
            return None
        half = plan.with_(updates=(plan.updates or 1) // 2)
        return [half.with_(name=f"{plan.name}a"), half.with_(name=f"{plan.name}b")]

    offer(expanding("halves", halve))
    plans = expand(recipe_of(stage=[{"name": "s", "plugins": ["halves"], "updates": 4}]))
    assert [(plan.name, plan.updates) for plan in plans] == [("saa", 1), ("sab", 1), ("sba", 1), ("sbb", 1)]


def test_a_reference_to_a_stage_that_is_replaced_means_its_last_part(offer: Callable[..., None]) -> None:
    def chain(_: Any, plan: StagePlan) -> Any:
        if plan.name != "s":
            return None
        return [plan.with_(name="hop"), plan.with_(name="end", teacher="stage:hop")]

    def halve(_: Any, plan: StagePlan) -> Any:
        if plan.name != "hop":
            return None
        return [plan.with_(name="hop-a"), plan.with_(name="hop-b", student="stage:hop-a")]

    offer(expanding("chain", chain), expanding("halves", halve))
    plans = expand(recipe_of(stage=[{"name": "s", "plugins": ["chain", "halves"]}]))
    assert [(plan.name, plan.teacher) for plan in plans] == [("hop-a", None), ("hop-b", None), ("end", "stage:hop-b")]


def test_an_endless_expansion_is_an_error_that_names_the_plugin(offer: Callable[..., None]) -> None:
    offer(expanding("loop", lambda _, plan: [plan.with_(name=f"{plan.name}x")]), Soft)
    with pytest.raises(PluginError) as caught:
        expand(recipe_of(stage=[{"name": "s", "plugins": ["soft", "loop"]}]))
    told = str(caught.value)
    assert told.startswith(f"stage 's': expand_stage of plugin 'loop' ({HERE}) goes on for ever")


def test_a_plan_that_comes_back_as_it_was_is_expanded(offer: Callable[..., None]) -> None:
    offer(expanding("same", lambda _, plan: [plan]))
    assert [plan.name for plan in expand(recipe_of(stage=[{"name": "s", "plugins": ["same"]}]))] == ["s"]


@pytest.mark.parametrize("result", [[], "s", ["s"]])
def test_what_is_no_list_of_plans_is_an_error(offer: Callable[..., None], result: Any) -> None:
    offer(expanding("wrong", lambda _, plan: result))
    with pytest.raises(PluginError, match=r"expand_stage of plugin 'wrong' returned .*, not a list of StagePlan"):
        expand(recipe_of(stage=[{"name": "s", "plugins": ["wrong"]}]))


def test_expanded_stages_with_one_name_are_an_error(offer: Callable[..., None]) -> None:
    offer(expanding("twins", lambda _, plan: [plan.with_(plugins=()), plan.with_(plugins=())]))
    with pytest.raises(PluginError, match=r"after expand_stage: stage 2 \(s\): stage 1 has the same name"):
        expand(recipe_of(stage=[{"name": "s", "plugins": ["twins"]}]))
