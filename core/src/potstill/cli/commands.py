"""Commands that plugins bring: found and looked over without importing them, so that `potstill --help` stays quick."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from importlib.metadata import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.discovery import Found, installed
from potstill.errors import PluginError

if TYPE_CHECKING:
    import click

COMMANDS = "potstill.commands"
"""The entry-point group of click commands."""


@dataclass(frozen=True)
class PluginCommand:
    """A command that a plugin brings.

    Attributes:
        summary: the distribution's one line.
        problem: why it cannot work, as far as that shows without importing it; None where nothing shows.
    """

    found: Found
    summary: str
    problem: str | None

    def load(self) -> click.Command:
        """The command itself. PluginError, naming the distribution, where it cannot be imported or is none."""
        import click

        command = self.found.load()
        if not isinstance(command, click.Command):
            raise PluginError(
                f"command '{self.found.name}' of {self.found.origin} is {type(command).__name__}, not a click command."
            )
        return command


@cache
def plugin_commands() -> dict[str, PluginCommand]:
    """Installed plugin commands by name."""
    return {found.name: _command(found) for found in installed(COMMANDS)}


def summary(distribution: str) -> str:
    """A distribution's one line about itself."""
    return metadata(distribution)["Summary"] or ""


def _command(found: Found) -> PluginCommand:
    try:
        problem = found.problem or _problem(found.value.partition(":")[0])
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    return PluginCommand(found, summary(found.distribution), problem)


def _problem(module: str) -> str | None:
    """What is wrong with a command's module, from its source alone."""
    source = _source(module)
    if source is None:
        return f"there is no module '{module}'"
    if source.suffix != ".py":
        return None
    try:
        tree = ast.parse(source.read_bytes())
    except SyntaxError as error:
        return f"{source.name}, line {error.lineno}: {error.msg}"
    for node in tree.body:
        if isinstance(node, ast.Raise):
            return f"importing '{module}' raises an error at line {node.lineno}"
        for name in _imported(node):
            if find_spec(name) is None:
                return f"there is no module '{name}', which '{module}' imports"
    return None


def _imported(node: ast.stmt) -> list[str]:
    """The top-level packages of an absolute import statement."""
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        return [node.module.partition(".")[0]]
    return []


def _source(module: str) -> Path | None:
    """A module's file, found without running its package's `__init__`."""
    package, *parts = module.split(".")
    spec = find_spec(package)
    if spec is None:
        return None
    if not parts:
        return Path(spec.origin) if spec.origin else None
    for folder in map(Path, spec.submodule_search_locations or ()):
        base = folder.joinpath(*parts)
        candidates = [base / "__init__.py", *base.parent.glob(f"{base.name}.*")]
        matches = [path for path in candidates if path.is_file() and path.suffix in {".py", ".so", ".pyd"}]
        if matches:
            return matches[0]
    return None
