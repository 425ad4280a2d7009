"""The page of all hooks, from the docstrings and signatures in `potstill.hookspecs`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from docs.generate.markdown import docstring, fenced
from potstill.hookspecs import Hooks

INTRODUCTION = """\
# Hooks

A plugin implements the hooks it needs as methods marked with `@hookimpl`, and leaves the others alone. Arguments are
matched by name, so an implementation may leave some out; it may not give one a default value.
[Write a plugin](writing-a-plugin.md) shows them at work.
"""
_FIRST = "The first answer that is not `None` decides."
_ALL = "Every plugin's answer counts."


def page() -> str:
    """The whole page."""
    return INTRODUCTION + "".join(f"\n{_section(name, hook)}" for name, hook in hooks().items())


def hooks() -> dict[str, Callable[..., Any]]:
    """The hooks by name, in the order of the specification."""
    return {name: member for name, member in vars(Hooks).items() if hasattr(member, "potstill_spec")}


def _section(name: str, hook: Callable[..., Any]) -> str:
    signature = inspect.signature(hook)
    first = hook.potstill_spec["firstresult"]  # type: ignore[attr-defined]
    told = "" if signature.return_annotation == "None" else f"\n{_FIRST if first else _ALL}\n"
    return (
        f"## {name}\n\n{fenced(f'def {name}{signature}'.replace(chr(39), ''), 'python')}\n"
        f"{docstring(inspect.getdoc(hook), example_from='@hookimpl')}{told}"
    )
