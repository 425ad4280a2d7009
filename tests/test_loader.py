"""Managers, their checks, who is blamed, and how stages are expanded. The plugins are made up here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest

from potstill import loader
from potstill.attribution import blamed
from potstill.errors import PluginError, RecipeError
from potstill.hookspecs import Hooks
from potstill.loader import expand, make_plugins, manager, stage_plugins
from potstill.plugin import LossTerm, Plugin, PluginConfig, hookimpl
from potstill.plugin_checks import HOOKS
from potstill.recipe import Recipe, StagePlan, parse

HERE = __name__


class Core(Plugin):
    name = "core"

    @hookimpl(trylast=True)
    def on_step(self, step: Any) -> Any:
        step.append("core")
        if "core fails" in step:
            raise ValueError("core")
        return "pass"

    @hookimpl(trylast=True)
    def compute_loss(self, step: Any) -> Any:
        return [LossTerm("supervised", 1.0)]  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def made_up_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "_core", lambda: Core(PluginConfig()))


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes classes known by their names, as if they were installed."""

    def known(*classes: type[Plugin]) -> None:
        monkeypatch.setattr(loader, "plugin_class", {cls.name: cls for cls in classes}.__getitem__)

    return known


def made(name: str, **members: Any) -> Plugin:
    """A plugin of a class of its own."""
    return type(name.title(), (Plugin,), {"name": name, **members})(PluginConfig())


def refused(*plugins: Plugin) -> str:
    with pytest.raises(PluginError) as caught:
        manager(plugins)
    return str(caught.value)


def tracing(name: str) -> Plugin:
    def setup(self: Plugin, stage: list[str]) -> None:
        stage.append(self.name)

    def on_step(self: Plugin, step: list[str]) -> Iterator[None]:
        step.append(f"{self.name} in")
        result = yield
        step.append(f"{self.name} out")
        return result

    return made(name, setup=hookimpl(setup), on_step=hookimpl(wrapper=True)(on_step))


def test_the_first_plugin_is_called_first_and_wraps_all_others() -> None:
    hooks = manager([tracing("a"), tracing("b"), tracing("c")]).hook
    called: list[str] = []
    hooks.setup(stage=called)
    assert called == ["a", "b", "c"]
    called.clear()
    assert hooks.on_step(step=called) == "pass"
    assert called == ["a in", "b in", "c in", "core", "c out", "b out", "a out"]


def test_the_cores_hooks_come_last_and_a_manager_holds_nothing_else() -> None:
    def own(self: Plugin, step: Any) -> list[LossTerm]:
        return [LossTerm("soft", 2.0)]  # type: ignore[arg-type]

    found = manager([made("a", compute_loss=hookimpl(own))])
    assert [name for name, _ in found.list_name_plugin()] == ["core", "a"]
    assert [term.name for terms in found.hook.compute_loss(step=None) for term in terms] == ["a.soft", "supervised"]


def test_terms_from_a_generator_are_consumed_within_the_hook() -> None:
    def terms(self: Plugin, step: Any) -> Iterator[LossTerm]:
        yield LossTerm("one", 1.0, weight=0.5)  # type: ignore[arg-type]
        yield LossTerm("two", 2.0)  # type: ignore[arg-type]

    def failing(self: Plugin, step: Any) -> Iterator[LossTerm]:
        yield LossTerm("one", 1.0)  # type: ignore[arg-type]
        raise KeyError("two")

    found = manager([made("a", compute_loss=hookimpl(terms))]).hook.compute_loss(step=None)[0]
    assert [(term.name, term.weight) for term in found] == [("a.one", 0.5), ("a.two", 1.0)]
    with pytest.raises(KeyError) as caught:
        manager([made("b", compute_loss=hookimpl(failing))]).hook.compute_loss(step=None)
    assert caught.value.__notes__ == [f"plugin 'b' ({HERE}), hook compute_loss"]


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (LossTerm("one", 1.0), "returned LossTerm, not a list of LossTerm"),  # type: ignore[arg-type]
        (3.0, "returned float, not a list of LossTerm"),
        ([1.0], "returned float in its list, not a LossTerm"),
        ([LossTerm("one", 1.0)] * 2, "returned two terms named 'one'"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_list_of_terms_is_an_error_that_names_the_plugin(result: Any, told: str) -> None:
    plugin = made("a", compute_loss=hookimpl(lambda self, step: result))
    with pytest.raises(PluginError, match=f"compute_loss of plugin 'a' {told}"):
        manager([plugin]).hook.compute_loss(step=None)


# -- attribution ----------------------------------------------------------------------------------------------


def failing_on(hook: str, argument: str) -> Any:
    namespace: dict[str, Any] = {}
    exec(f"def {hook}(self, {argument}):\n    raise ValueError('broken')", namespace)
    return hookimpl(namespace[hook])


@pytest.mark.parametrize("hook", sorted(set(HOOKS) - {"collate"}))
def test_an_exception_inside_a_hook_names_plugin_and_hook(hook: str) -> None:
    argument = HOOKS[hook][0]
    with pytest.raises(ValueError, match="broken") as caught:
        getattr(manager([made("a", **{hook: failing_on(hook, argument)})]).hook, hook)(**{argument: []})
    assert caught.value.__notes__ == [f"plugin 'a' ({HERE}), hook {hook}"]
    assert blamed(caught.value) == "a"


def test_an_installed_plugin_is_named_with_its_distribution() -> None:
    from potstill.attribution import described
    from potstill.builtin import Core as Builtin

    assert described(Builtin) == "plugin 'core' (potstill 0.1.0)"


def test_an_exception_is_blamed_on_the_innermost_plugin_only() -> None:
    def inner(self: Plugin, step: Any) -> Iterator[None]:
        yield
        raise ValueError("inner")

    plugins = [tracing("outer"), tracing("middle"), made("inner", on_step=hookimpl(wrapper=True)(inner))]
    with pytest.raises(ValueError, match="inner") as caught:
        manager(plugins).hook.on_step(step=[])
    assert caught.value.__notes__ == [f"plugin 'inner' ({HERE}), hook on_step"]


def test_a_wrapper_is_not_blamed_for_what_the_core_raises() -> None:
    with pytest.raises(ValueError, match="core") as caught:
        manager([tracing("outer")]).hook.on_step(step=["core fails"])
    assert getattr(caught.value, "__notes__", []) == []
    assert blamed(caught.value) == "core"


def test_an_exception_from_a_hook_called_within_a_hook_is_blamed_once() -> None:
    def nested(self: Plugin, step: Any) -> Any:
        return step()

    def soft(self: Plugin, step: Any) -> Any:
        raise ValueError("soft")

    found = manager([made("outer", on_step=hookimpl(nested)), made("inner", compute_loss=hookimpl(soft))])
    with pytest.raises(ValueError, match="soft") as caught:
        found.hook.on_step(step=lambda: found.hook.compute_loss(step=None))
    assert caught.value.__notes__ == [f"plugin 'inner' ({HERE}), hook compute_loss"]


def test_a_wrapper_may_handle_what_it_wraps_and_is_blamed_for_its_own_exception() -> None:
    def rescue(self: Plugin, step: Any) -> Iterator[None]:
        try:
            return (yield)
        except ValueError:
            return "rescued"

    def convert(self: Plugin, step: Any) -> Iterator[None]:
        try:
            return (yield)
        except ValueError as error:
            raise RuntimeError("converted") from error

    rescuing = manager([made("a", on_step=hookimpl(wrapper=True)(rescue))])
    assert rescuing.hook.on_step(step=["core fails"]) == "rescued"
    with pytest.raises(RuntimeError) as caught:
        manager([made("b", on_step=hookimpl(wrapper=True)(convert))]).hook.on_step(step=["core fails"])
    assert caught.value.__notes__ == [f"plugin 'b' ({HERE}), hook on_step"]


def test_a_property_that_needs_the_stage_is_not_looked_at_by_the_manager() -> None:
    def rate(self: Plugin) -> float:
        raise RuntimeError("not set up")

    manager([made("a", rate=property(rate))])


# -- checks before the first batch ----------------------------------------------------------------------------


def test_hooks_are_read_off_the_specifications() -> None:
    assert len(HOOKS) == 10
    assert HOOKS["collate"] == ("batch", "rng")
    assert all(hasattr(Hooks, name) for name in HOOKS)


def nothing() -> Callable[..., None]:
    """A new function each time: the decorator marks the function itself."""

    def nothing(self: Plugin, step: Any) -> None: ...

    return nothing


def test_an_unknown_hook_is_an_error() -> None:
    told = refused(made("a", compute_los=hookimpl(nothing())))
    assert told == f"plugin 'a' ({HERE}): there is no hook 'compute_los'. Did you mean 'compute_loss'?"


def test_a_hook_without_the_decorator_is_an_error() -> None:
    assert "compute_loss has the name of a hook and lacks the decorator @hookimpl" in refused(
        made("a", compute_loss=nothing())
    )


def test_arguments_of_hooks_are_checked() -> None:
    def default(self: Plugin, step: Any = None) -> None: ...
    def unknown(self: Plugin, stp: Any) -> None: ...
    def anything(self: Plugin, **arguments: Any) -> None: ...
    def fewer(self: Plugin) -> None: ...

    assert "compute_loss gives its argument 'step' a default value" in refused(
        made("a", compute_loss=hookimpl(default))
    )
    assert "compute_loss has no argument 'stp', only step. Did you mean 'step'?" in refused(
        made("a", compute_loss=hookimpl(unknown))
    )
    assert "compute_loss takes '**arguments: 'Any''; name the arguments: step." in refused(
        made("a", compute_loss=hookimpl(anything))
    )
    manager([made("a", compute_loss=hookimpl(fewer))])


def test_wrappers_are_checked() -> None:
    assert "on_step is a wrapper and must yield" in refused(made("a", on_step=hookimpl(wrapper=True)(nothing())))

    def old(self: Plugin, step: Any) -> Iterator[None]:
        yield

    assert "on_step is an old-style wrapper" in refused(made("a", on_step=hookimpl(hookwrapper=True)(old)))


def test_a_plugin_for_another_version_of_the_hooks_is_an_error() -> None:
    assert "is written for hooks of version 2, and this potstill has 1; update potstill." in refused(made("a", api=2))


def test_conflicts_name_both_plugins() -> None:
    a = made("a", conflicts=frozenset({"b"}))
    assert refused(made("b"), a) == (
        f"plugin 'a' ({HERE}) and plugin 'b' ({HERE}) cannot be active in one stage: 'a' conflicts with 'b'."
    )
    objective = frozenset({"objective"})
    alone = made("alone", conflicts=objective, provides=objective)
    manager([alone])
    assert "'alone' conflicts with 'objective', and 'c' provides that." in refused(alone, made("c", provides=objective))


def test_requirements_are_met_by_plugins_or_capabilities_and_the_stage_judges_its_own() -> None:
    a = made("a", requires=frozenset({"objective", "teacher", "same-tokenizer"}))
    assert "plugin 'a'" in refused(a)
    assert "requires 'objective' in the same stage, where b is active" in refused(a, made("b"))
    manager([a, made("b", provides=frozenset({"objective"}))])
    manager([made("c", requires=frozenset({"b"})), made("b")])


def test_one_name_twice_is_an_error_and_the_core_is_not_to_be_listed() -> None:
    assert "is active twice in one stage" in refused(made("a"), made("a"))
    assert "'core' is always active" in refused(Core(PluginConfig()))


def test_two_plugins_that_build_the_student_are_an_error_that_names_both() -> None:
    def build(self: Plugin, stage: Any) -> Any: ...

    def around(self: Plugin, stage: Any) -> Iterator[None]:
        return (yield)

    told = refused(made("a", build_student=hookimpl(build)), made("b", build_student=hookimpl(build)))
    assert told.startswith(f"plugin 'a' ({HERE}) and plugin 'b' ({HERE}) both implement build_student")
    manager([made("a", build_student=hookimpl(build)), made("b", build_student=hookimpl(wrapper=True)(around))])


# -- options and stages ---------------------------------------------------------------------------------------


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
    with pytest.raises(RecipeError, match=r"stage 's': \[teacher\] and \[student\] both name plugin 'recurrent'"):
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
