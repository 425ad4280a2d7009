"""`potstill plugins`: what is told of plugins, the rules checked, and the distribution that `new` writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import potstill.cli
from potstill.cli.newplugin import make
from potstill.cli.plugininfo import describe, every_plugin
from potstill.errors import UserError
from tests.installing import install

PLUGIN = '''
"""Made up."""
from potstill.plugin import Plugin, PluginConfig, hookimpl


class Mild(Plugin):
    """Does next to nothing.

    And says so.
    """

    name = "mild"
    provides = frozenset({"objective"})

    class Config(PluginConfig):
        weight: float = 0.5
        """Factor of
        nothing."""
        layers: list[int]
        """Layers to leave alone."""

    @hookimpl
    def compute_loss(self, step):
        return []
'''


@pytest.fixture
def mild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed distribution with one plugin, "mild"."""
    place = tmp_path / "site"
    install(place, "potstill-mild", {"mild_plugin.py": PLUGIN}, {"potstill.plugins": {"mild": "mild_plugin:Mild"}})
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.delitem(sys.modules, "mild_plugin", raising=False)
    return place


def test_show_tells_hooks_capabilities_and_options(mild: Path):
    assert describe("mild") == {
        "name": "mild",
        "distribution": "potstill-mild",
        "version": "1.2",
        "description": "Does next to nothing.\n\nAnd says so.",
        "hooks": ["compute_loss"],
        "provides": ["objective"],
        "requires": [],
        "conflicts": [],
        "options": [
            {"option": "weight", "type": "float", "default": 0.5, "description": "Factor of nothing."},
            {
                "option": "layers",
                "type": "list[int]",
                "default": "(must be given)",
                "description": "Layers to leave alone.",
            },
        ],
    }


def test_show_of_an_unknown_plugin_suggests_the_nearest(mild: Path, capsys):
    assert potstill.cli.main(["plugins", "show", "mold"]) == 2
    assert "Did you mean 'mild'?" in capsys.readouterr().err


def test_a_broken_plugin_is_listed_with_its_problem_and_the_others_without(mild: Path):
    install(
        mild, "potstill-torn", {"torn.py": "import not_there_at_all\n"}, {"potstill.plugins": {"torn": "torn:Torn"}}
    )
    rows = {row["name"]: row for row in every_plugin()}
    assert rows["mild"]["problem"] is None
    assert rows["mild"]["summary"] == "Does next to nothing."
    assert "potstill-torn 1.2" in rows["torn"]["problem"]
    assert "not_there_at_all" in rows["torn"]["problem"]


def test_list_prints_a_row_for_each_plugin_and_json_when_asked(mild: Path, capsys):
    assert potstill.cli.main(["plugins", "list"]) == 0
    assert "potstill-mild 1.2" in capsys.readouterr().out
    assert potstill.cli.main(["plugins", "list", "--json"]) == 0
    assert "mild" in {row["name"] for row in json.loads(capsys.readouterr().out)}


@pytest.mark.parametrize("name", ["soft-labels", "plain", "two_words"])
def test_a_new_plugin_passes_its_own_tests_the_rules_and_the_linter(name: str, tmp_path: Path, capsys):
    folder = make(name, tmp_path / "made")
    environment = {**os.environ, "PYTHONPATH": str(folder / "src")}
    for command in (
        ["pytest", "-q", "-p", "no:cacheprovider"],
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
    ):
        options = ["--config", "line-length=120"] if command[0] == "ruff" else []
        words = [sys.executable, "-m", *command, *options]
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert potstill.cli.main(["plugins", "check", str(folder)]) == 0
    assert "keeps the rules; hooks: compute_loss, setup." in capsys.readouterr().out
    assert not [path for path in folder.rglob("*") if "@" in path.name or path.suffix == ".in"]
    assert "@" not in (folder / "pyproject.toml").read_text()


def test_check_of_a_folder_names_the_rule_that_is_broken(tmp_path: Path, capsys):
    folder = make("wrong-hook", tmp_path / "made")
    path = folder / "src" / "potstill_wrong_hook" / "plugin.py"
    path.write_text(path.read_text().replace("def compute_loss", "def compute_los"))
    assert potstill.cli.main(["plugins", "check", str(folder)]) == 2
    assert "Did you mean 'compute_loss'?" in capsys.readouterr().err


def test_check_of_a_folder_without_a_plugin_says_what_it_needs(tmp_path: Path, capsys):
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert potstill.cli.main(["plugins", "check", str(tmp_path)]) == 2
    assert '[project.entry-points."potstill.plugins"]' in capsys.readouterr().err


@pytest.mark.parametrize("name", ["My-Loss", "2fast", "a b", "x--y", ""])
def test_a_name_that_cannot_be_a_plugins_is_refused(name: str, tmp_path: Path):
    with pytest.raises(UserError, match="cannot be a plugin's name"):
        make(name, tmp_path / "made")


def test_nothing_is_written_over(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("keep")
    with pytest.raises(UserError, match="not an empty folder"):
        make("fine", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
