"""What suites left in their folders, read again; without torch, as `potstill compare` looks here first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from potstill.errors import FileError, UserError
from potstill.files import read_json

FILE = "suite.json"
"""In the folder of a suite and one model."""


def is_suite(folder: Path) -> bool:
    """Whether a folder is that of a suite and one model, or has such folders in it."""
    return (folder / FILE).is_file() or any(folder.glob(f"*/{FILE}"))


def read_suite(folder: Path, who: str) -> dict[str, Any]:
    """What `run_suite` wrote into its folder.

    Args:
        who: what errors name first, such as the option that named the folder.

    Raises: UserError where that is no suite's folder, with those in it that are; FileError where its file is damaged.
    """
    if (folder / FILE).is_file():
        return _read(folder / FILE)
    inner = sorted(str(path.parent) for path in folder.glob(f"*/{FILE}"))
    there = "is no folder" if not folder.is_dir() else f"holds no {FILE}"
    raise UserError(
        f"{who}: '{folder}' {there}; name the folder that `potstill suite` made for one model"
        f"{', here ' + ' or '.join(inner) if inner else ', such as suites/glue/MODEL'}."
    )


def known_tasks(folder: Path) -> dict[str, Any]:
    """The tasks that a suite ran in its folder; {} before it has run any.

    Raises: FileError where its file is damaged.
    """
    return dict(_read(folder / FILE)["tasks"]) if (folder / FILE).is_file() else {}


def _read(path: Path) -> dict[str, Any]:
    found = read_json(path)
    tasks = found.get("tasks") if isinstance(found, dict) else None
    if not isinstance(tasks, dict) or not all(isinstance(task, dict) for task in tasks.values()):
        raise FileError(
            f"{path} is damaged, for it holds no table of tasks; put back a whole copy, or remove it and run the suite "
            "again."
        )
    return dict(found)


def shared(suites: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """The suites with the tasks alone that all of them ran, and the names of the others.

    Raises: UserError where there is none.
    """
    every = dict.fromkeys(name for suite in suites for name in suite["tasks"])
    both = [name for name in every if all("runs" in suite["tasks"].get(name, {}) for suite in suites)]
    if not both:
        raise UserError(
            f"The suites {', '.join(str(suite['name']) for suite in suites)} have no finished task in common."
        )
    cut = [{**suite, "tasks": {name: suite["tasks"][name] for name in both}} for suite in suites]
    return cut, [name for name in every if name not in both]
