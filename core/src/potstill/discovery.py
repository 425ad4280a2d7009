"""What is installed: the entry points of one group, each with the distribution that offers it."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points

from potstill.errors import PluginError

PLUGINS = "potstill.plugins"
"""The group of plugin classes."""


@dataclass(frozen=True)
class Found:
    """One entry point.

    Attributes:
        name: what a recipe calls it.
        distribution: the installed distribution that offers it, such as "potstill-onnx".
        version: that distribution's.
        value: where it is, "module:object" or "module".
        problem: why it cannot be used, as far as that is known without loading it; else None.
    """

    name: str
    distribution: str
    version: str
    value: str
    problem: str | None = None
    entry: EntryPoint | None = field(default=None, repr=False, compare=False)

    @property
    def origin(self) -> str:
        """Distribution and version: "potstill-hinton 0.1.0"."""
        return f"{self.distribution} {self.version}"

    def load(self) -> object:
        """The object (class, command or module) itself.

        Raises: PluginError with distribution, version and reason, where it cannot be imported or used.
        """
        if self.problem is not None:
            raise PluginError(self.problem)
        assert self.entry is not None
        try:
            found: object = self.entry.load()
        except (Exception, SystemExit) as error:  # whatever a broken module does must not take the rest down
            raise PluginError(
                f"{kind(self.entry.group)} '{self.name}' of {self.origin} cannot be loaded: "
                f"{type(error).__name__}: {error}"
            ) from error
        return found


def kind(group: str) -> str:
    """What a group's members are called: "plugin" for `potstill.plugins`."""
    return group.rpartition(".")[2].removesuffix("s")


def installed(group: str) -> list[Found]:
    """The group's entry points by name and distribution. Nothing is imported.

    Where two distributions offer one name, both are there, with a problem that names both.
    """
    every = [_found(entry) for entry in entry_points(group=group)]
    every.sort(key=lambda found: (found.name, found.distribution))
    return [_with_problem(found, [other for other in every if other.name == found.name], group) for found in every]


def _found(entry: EntryPoint) -> Found:
    origin = entry.dist
    distribution = (origin.name if origin else None) or "an unnamed distribution"
    return Found(entry.name, distribution, origin.version if origin else "", entry.value, entry=entry)


def _with_problem(found: Found, same: list[Found], group: str) -> Found:
    if len({other.distribution for other in same}) < 2:
        return found
    origins = " and ".join(other.origin for other in same)
    problem = f"{kind(group)} '{found.name}' is offered by {origins}; uninstall all but one of them."
    return Found(found.name, found.distribution, found.version, found.value, problem, found.entry)
