"""What the documentation shows exists: recipes parse, commands and options are there, Python compiles, links lead."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import textwrap
import tomllib
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest
import yaml

from docs.generate.commands import walk
from docs.generate.hooks import hooks
from docs.generate.markdown import docstring, table
from docs.generate.pages import pages, within_site
from docs.generate.recipes import TABLES
from potstill.cli.group import potstill
from potstill.loader import make_plugins
from potstill.recipe import parse
from potstill.suite.tasks import suite_tasks

ROOT = Path(__file__).parents[1]
FILES = [
    ROOT / "README.md",
    ROOT / "core/README.md",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("plugins/*/README.md")),
]
GENERATED = pages(ROOT)
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]+\]\(([^)]+)\)")
_SHELL = {"&&", "||", ";", "|", ">", ">>", "<"}


def blocks(*languages: str) -> list[object]:
    """The code blocks of all files, as parameters: (text), named by file and line."""
    found = []
    for file in FILES:
        text = file.read_text("utf-8")
        for block in _FENCE.finditer(text):
            if block[2] in languages:
                line = text.count("\n", 0, block.start()) + 2
                found.append(pytest.param(textwrap.dedent(block[3]).strip(), id=f"{file.relative_to(ROOT)}:{line}"))
    return found


def commands(block: str) -> Iterator[list[str]]:
    """The words of each `potstill …` in a block of shell commands, without the `potstill`."""
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True) if line.startswith("potstill ") or "&& potstill " in line else []
        start = 0
        for end in [*(at for at, word in enumerate(words) if word in _SHELL), len(words)]:
            if words[start:end][:1] == ["potstill"]:
                yield words[start + 1 : end]
            start = end + 1


def resolve(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that the first words name, and the words that are left for it."""
    command: click.Command = potstill
    left = list(words)
    while isinstance(command, click.Group) and left and not left[0].startswith("-"):
        found = command.get_command(click.Context(command), left[0])
        assert found is not None, f"there is no command {' '.join(words)}"
        command = found
        left.pop(0)
    return command, left


@pytest.mark.parametrize("block", blocks("toml"))
def test_a_recipe_that_is_shown_parses_with_its_plugins_options(block: str, tmp_path: Path) -> None:
    tables = tomllib.loads(block)
    if "project" in tables:  # a part of a pyproject.toml
        return
    if "tasks" in tables:  # a suite
        (tmp_path / "suite.toml").write_text(block, encoding="utf-8")
        assert suite_tasks([str(tmp_path / "suite.toml")], None)
        return
    recipe = parse(tables)
    installed = {point.name for point in entry_points(group="potstill.plugins")}
    for plan in [*recipe.stages, *([recipe.export] if recipe.export else [])]:
        make_plugins([name for name in plan.plugins if name in installed], plan.options)
    for model in (recipe.teacher, recipe.student):
        if model and model.plugin:
            make_plugins([model.plugin], {model.plugin: model.options})


@pytest.mark.parametrize("block", blocks("sh", ""))
def test_a_command_that_is_shown_has_its_command_and_options(block: str) -> None:
    for words in commands(block):
        command, left = resolve(words)
        command.make_context(command.name, left)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_command_within_a_sentence_exists(file: Path) -> None:
    text = _FENCE.sub("", file.read_text("utf-8"))
    for shown in re.findall(r"`potstill ([a-z][^`]*)`", text):
        command, left = resolve(shown.replace("…", "").split())
        known = {name for param in command.params for name in param.opts}
        assert {word for word in left if word.startswith("-")} <= known, shown


def test_the_commands_in_the_blocks_are_found() -> None:
    block = "cd x && potstill run a.toml \\\n  -q > log\n# potstill no\npotstill env  # all of it\necho potstill plan"
    assert list(commands(block)) == [["run", "a.toml", "-q"], ["env"]]


@pytest.mark.parametrize("block", blocks("python"))
def test_python_that_is_shown_compiles_and_uses_hooks_and_names_that_exist(block: str) -> None:
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "potstill":
            module = import_module(node.module or "")
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
        if isinstance(node, ast.FunctionDef) and any("hookimpl" in ast.unparse(mark) for mark in node.decorator_list):
            assert node.name in hooks(), f"there is no hook '{node.name}'"
            known = set(inspect.signature(hooks()[node.name]).parameters)
            assert {argument.arg for argument in node.args.args} <= known, ast.unparse(node.args)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_link_leads_to_a_file_or_a_generated_page(file: Path) -> None:
    for target in _LINK.findall(_FENCE.sub("", file.read_text("utf-8"))):
        if re.match(r"[a-z]+:|#", target):
            continue
        path = (file.parent / target.partition("#")[0]).resolve()
        assert path.exists() or path.relative_to(ROOT / "docs").as_posix() in GENERATED, target


def test_every_page_of_the_site_is_there_and_every_plugin_has_one() -> None:
    def leaves(nav: object) -> Iterator[str]:
        parts = nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else []
        yield from [nav] if isinstance(nav, str) else [leaf for part in parts for leaf in leaves(part)]

    shown = set(leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]))
    written = {file.name for file in ROOT.glob("docs/*.md")}
    assert shown == written | set(GENERATED)
    plugins = {folder.parent.name for folder in ROOT.glob("plugins/*/pyproject.toml")}
    assert {path for path in shown if path.startswith("plugins/")} == {f"plugins/{name}.md" for name in plugins}


def test_the_reference_pages_hold_every_key_command_option_and_hook() -> None:
    keys = {field.serialization_alias or name for _, model in TABLES for name, field in model.model_fields.items()}
    assert all(f"| `{key}` |" in GENERATED["recipes.md"] for key in keys)
    for path, command in walk(potstill, "potstill"):
        assert f"# {path}\n" in GENERATED["command-line.md"]
        options = [option.opts[-1] for option in command.params if isinstance(option, click.Option)]
        assert [option for option in options if option not in GENERATED["command-line.md"]] == []
    assert re.findall(r"^## (\w+)$", GENERATED["hooks.md"], re.MULTILINE) == list(hooks())
    assert len(hooks()) == 10


def test_no_key_and_no_hook_is_without_a_word_about_it() -> None:
    assert [name for _, model in TABLES for name, field in model.model_fields.items() if not field.description] == []
    assert [name for name, hook in hooks().items() if "@hookimpl" not in (hook.__doc__ or "")] == []


def test_a_docstring_becomes_markdown() -> None:
    told = docstring("Does it.\n\nArgs:\n    one, two: [batch,\n        seq].\n\nRaises: KeyError.\n\n    x = 1\n")
    assert "- `one`, `two`: [batch,\n  seq]." in told
    assert "*Raises:* KeyError." in told
    assert (
        docstring("So:\n\nfor:\n\n    def f():\n        pass") == "So:\n\nfor:\n\n```python\ndef f():\n    pass\n```\n"
    )


def test_a_bar_in_a_cell_does_not_end_it() -> None:
    assert table(["a"], [["`x|y` or z|w"]]).splitlines()[2] == r"| <code>x&#124;y</code> or z\|w |"


def test_links_between_readmes_and_pages_are_those_of_the_site() -> None:
    hinton = ROOT / "plugins/hinton/README.md"
    assert within_site("[a](docs/x.md#y)", ROOT / "README.md", ROOT, "index.md") == "[a](x.md#y)"
    assert within_site("[a](../onnx/README.md)", hinton, ROOT, "plugins/hinton.md") == "[a](onnx.md)"
    assert within_site("[a](../../README.md)", hinton, ROOT, "plugins/hinton.md") == "[a](../index.md)"
    assert within_site("[a](src/b.py)", hinton, ROOT, "plugins/hinton.md") == "a (`plugins/hinton/src/b.py`)"
    assert within_site("[a](https://b.c/d)", hinton, ROOT, "plugins/hinton.md") == "[a](https://b.c/d)"
