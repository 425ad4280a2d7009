"""What is installed, and what is told about what is broken. The distributions are made up in a temporary folder."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from potstill.discovery import installed
from potstill.errors import PluginError
from potstill.loader import plugin_class

Install = Callable[..., Path]
_numbers = itertools.count()

GOOD = """
from potstill.plugin import Plugin

class P(Plugin):
    name = "{name}"
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a distribution: `install("potstill-x", "1.2.0", {"x": "source of the module"})`."""
    before = set(sys.modules)

    def make(distribution: str, version: str, modules: dict[str, str], group: str = "potstill.plugins") -> Path:
        folder = tmp_path / distribution
        info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        (info / "METADATA").write_text(metadata, encoding="utf-8")
        lines = [f"[{group}]"]
        for name, source in modules.items():
            module = f"made_up_{next(_numbers)}"
            (folder / f"{module}.py").write_text(source, encoding="utf-8")
            lines.append(f"{name} = {module}:P")
        (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
        monkeypatch.syspath_prepend(str(folder))
        return folder

    yield make
    for name in set(sys.modules) - before:
        if name.startswith("made_up_"):
            del sys.modules[name]


def test_an_installed_plugin_is_found_with_its_distribution_and_version(install: Install) -> None:
    install("potstill-x", "1.2.0", {"x": GOOD.format(name="x")})
    found = next(entry for entry in installed("potstill.plugins") if entry.name == "x")
    assert (found.distribution, found.version, found.problem) == ("potstill-x", "1.2.0", None)
    assert plugin_class("x").name == "x"


def test_looking_at_what_is_installed_imports_nothing(install: Install) -> None:
    install("potstill-x", "1.2.0", {"x": "raise SystemExit('imported')"})
    found = next(entry for entry in installed("potstill.plugins") if entry.name == "x")
    assert found.value.partition(":")[0] not in sys.modules


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import a_module_that_is_nowhere", "ModuleNotFoundError: No module named 'a_module_that_is_nowhere'"),
        ("class P(", "SyntaxError: "),
        ("Q = 1", "AttributeError: module 'made_up_"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_a_broken_plugin_is_told_by_distribution_version_and_reason_and_the_others_work(
    install: Install, source: str, reason: str
) -> None:
    install("potstill-broken", "0.3.1", {"broken": source})
    install("potstill-x", "1.2.0", {"x": GOOD.format(name="x")})
    with pytest.raises(PluginError) as caught:
        plugin_class("broken")
    assert str(caught.value).startswith("plugin 'broken' of potstill-broken 0.3.1 cannot be loaded: " + reason)
    assert {"broken", "x"} <= {entry.name for entry in installed("potstill.plugins")}
    assert plugin_class("x").name == "x"


def test_two_distributions_offering_one_name_are_an_error_that_names_both(install: Install) -> None:
    install("potstill-x", "1.2.0", {"x": GOOD.format(name="x"), "y": GOOD.format(name="y")})
    install("another", "7.0", {"x": GOOD.format(name="x")})
    problems = [entry.problem for entry in installed("potstill.plugins") if entry.name == "x"]
    told = "plugin 'x' is offered by another 7.0 and potstill-x 1.2.0; uninstall all but one of them."
    assert problems == [told, told]
    with pytest.raises(PluginError) as caught:
        plugin_class("x")
    assert str(caught.value) == told
    assert plugin_class("y").name == "y"


def test_a_name_that_is_not_installed_is_told_with_the_nearest_one(install: Install) -> None:
    install("potstill-x", "1.2.0", {"zebra": GOOD.format(name="zebra")})
    with pytest.raises(PluginError, match=r"plugin 'zebar' is not installed; .*zebra.*Did you mean 'zebra'\?"):
        plugin_class("zebar")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("P = 3", r"plugin 'x' \(potstill-x 1\.2\.0\) is 3, not a subclass of potstill\.Plugin"),
        ("class P: name = 'x'", r"not a subclass of potstill\.Plugin"),
        (GOOD.format(name="other"), r"calls itself 'other'; its class needs name = 'x'"),
        (GOOD.format(name="x") + "    api = 2", r"is written for hooks of version 2, and this potstill has 1"),
    ],
)
def test_an_entry_point_that_is_no_plugin_of_that_name_is_an_error(install: Install, source: str, told: str) -> None:
    install("potstill-x", "1.2.0", {"x": source})
    with pytest.raises(PluginError, match=told):
        plugin_class("x")


def test_other_groups_call_their_members_what_they_are(install: Install) -> None:
    install("potstill-c", "1.0", {"shout": "import a_module_that_is_nowhere"}, group="potstill.commands")
    found = next(entry for entry in installed("potstill.commands") if entry.name == "shout")
    with pytest.raises(PluginError, match=r"^command 'shout' of potstill-c 1\.0 cannot be loaded"):
        found.load()
