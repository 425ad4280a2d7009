"""What the classes are called, in the order of their numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.errors import DataError
from potstill.tasks import checked_options, task_class

if TYPE_CHECKING:
    from potstill.recipe import TaskConfig


def label_names(
    config: TaskConfig, root: Path, values: Iterable[Any], stated: Sequence[str] | None = None
) -> list[str]:
    """The classes' names: the recipe's list, the file it names (one name a line), or what the training data holds.

    Args:
        root: the folder that a file name is relative to.
        stated: names that the training data itself gives its classes (`Source.label_names`).
        values: the raw label column of the training data, read only where the recipe gives no names.

    Raises: DataError where the file is missing or names repeat.
    """
    given = config.labels
    if given is None and stated:
        return list(stated)
    if given is None:
        kind = task_class(config.kind)
        return kind.names_from(values, checked_options(kind, config))
    names = _names_in(root / given) if isinstance(given, str) else list(given)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"task.labels names '{twice[0]}' more than once; each class needs a name of its own.")
    return names


def _names_in(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DataError(
            f"task.labels = '{path}' is no file; give a list of names or a file with one name a line."
        ) from None
    except (UnicodeDecodeError, OSError) as problem:
        raise DataError(f"task.labels = '{path}' cannot be read as UTF-8 text: {problem}.") from problem
    return [line.strip() for line in lines if line.strip()]
