"""Managers, their checks, and who is blamed. The plugins are made up here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from potstill import loader
from potstill.attribution import blamed
from potstill.errors import PluginError
from potstill.hookspecs import Hooks
from potstill.loader import manager
from potstill.plugin import LossTerm, Plugin, PluginConfig, hookimpl
from potstill.plugin_checks import HOOKS

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
