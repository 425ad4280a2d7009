"""Commands that plugins bring: found and looked over without importing them, so that `potstill --help` stays quick."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, EntryPoint, distributions
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.errors import PluginError

if TYPE_CHECKING:
    import click

GROUP = "potstill.commands"


@dataclass(frozen=True)
class PluginCommand:
    """An entry point in `potstill.commands`.

    Attributes:
        summary: the distribution's one line.
        problem: why it cannot work, as far as that shows without importing it; None where nothing shows.
    """

    name: str
    distribution: str
    version: str
    summary: str
    entry: EntryPoint
    problem: str | None

    def load(self) -> click.Command:
        """The command itself. PluginError, naming the distribution, where it cannot be imported."""
        import click

        if self.problem:
            raise PluginError(self._broken(self.problem))
        try:
            command = self.entry.load()
        except Exception as error:
            raise PluginError(self._broken(f"{type(error).__name__}: {error}")) from error
        if not isinstance(command, click.Command):
            raise PluginError(self._broken(f"'{self.entry.value}' is {type(command).__name__}, not a click command"))
        return command

    def _broken(self, reason: str) -> str:
        return f"The command '{self.name}' of {self.distribution} {self.version} is broken: {reason}."


@cache
def plugin_commands() -> dict[str, PluginCommand]:
    """Installed plugin commands by name, sorted."""
    found: dict[str, PluginCommand] = {}
    for distribution in distributions():
        for entry in distribution.entry_points:
            if entry.group == GROUP:
                command = _command(entry, distribution)
                earlier = found.get(entry.name)
                found[entry.name] = _twice(earlier, command) if earlier else command
    return dict(sorted(found.items()))


def _command(entry: EntryPoint, distribution: Distribution) -> PluginCommand:
    metadata = distribution.metadata
    try:
        problem = _problem(entry)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    summary = metadata["Summary"] or ""
    return PluginCommand(entry.name, metadata["Name"], distribution.version, summary, entry, problem)


def _twice(first: PluginCommand, second: PluginCommand) -> PluginCommand:
    if (first.distribution, first.entry.value) == (second.distribution, second.entry.value):
        return first
    both = " and ".join(f"{command.distribution} {command.version}" for command in (first, second))
    problem = f"both {both} offer it; uninstall one"
    return PluginCommand(first.name, first.distribution, first.version, first.summary, first.entry, problem)


def _problem(entry: EntryPoint) -> str | None:
    """What is wrong with a command's module, from its source alone."""
    source = _source(entry.module)
    if source is None:
        return f"there is no module '{entry.module}'"
    if source.suffix != ".py":
        return None
    try:
        tree = ast.parse(source.read_bytes())
    except SyntaxError as error:
        return f"{source.name}, line {error.lineno}: {error.msg}"
    for node in tree.body:
        if isinstance(node, ast.Raise):
            return f"importing '{entry.module}' raises an error at line {node.lineno}"
        for name in _imported(node):
            if find_spec(name) is None:
                return f"there is no module '{name}', which '{entry.module}' imports"
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
