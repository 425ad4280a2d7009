"""What goes wrong, as one clear sentence each.

Exit code 2 is for what the user can mend (`UserError`), 1 for what broke.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PotstillError(Exception):
    """Base of every error that potstill raises on purpose."""

    exit_code = 1


class UserError(PotstillError):
    """Something the user can mend: input, recipe, file, option."""

    exit_code = 2


class RecipeError(UserError):
    """A recipe, an override or an option that cannot be."""


class DataError(UserError):
    """A data file, column or row that cannot be used."""


class AbsentDataError(DataError):
    """A data file, folder, split or hub id that is not there."""


class ModelError(UserError):
    """A model, tokenizer or checkpoint that cannot be loaded or does not fit."""


class PluginError(UserError):
    """A plugin that is missing, broken, in conflict, or breaks a rule of the hooks."""


class FileError(UserError, ValueError):
    """A file that potstill wrote once and cannot read any more."""


class DiskError(UserError, OSError):
    """A file that the system does not let potstill write: no space, no permission."""


class ShapeError(UserError, ValueError):
    """Tensors whose shapes do not fit a formula."""


class TrainingError(PotstillError):
    """Training that cannot go on, such as a loss that is not finite."""


class RankLost(PotstillError):  # noqa: N818 - what happened, not what this process did wrong
    """Another process of the run is gone, or hangs."""


class Interrupted(PotstillError):  # noqa: N818 - nothing went wrong
    """The run was asked to stop; it left a checkpoint."""

    exit_code = 130


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ " Did you mean 'x'?" for the nearest known word, or "" where none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""
