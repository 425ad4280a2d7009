"""The stage's key `freeze`: which parameters stay as they are, by patterns of their names."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from potstill.errors import RecipeError, did_you_mean


def freeze(module: nn.Module, patterns: Sequence[str], stage: str) -> list[str]:
    """Freezes the parameters whose name fits one of the patterns; a weight with two names where either fits.

    Args:
        patterns: shell patterns, in which `*` stands for anything.
        stage: its name, for errors.

    Returns: all names of what is frozen, those that a weight has elsewhere too.
    Raises: RecipeError where a pattern fits no name, or nothing is left to train.
    """
    named = dict(module.named_parameters(remove_duplicate=False))
    for pattern in patterns:
        fitting = [name for name in named if fnmatchcase(name, pattern)]
        if not fitting:
            near = did_you_mean(pattern, list(named)) or f" They are named like '{next(iter(named), '')}'."
            raise RecipeError(
                f"freeze = '{pattern}' in the stage '{stage}' fits none of the {len(named)} parameters.{near}"
            )
        for name in fitting:
            named[name].requires_grad_(False)
    if named and not any(parameter.requires_grad for parameter in named.values()):
        raise RecipeError(f"freeze = {list(patterns)} in the stage '{stage}' leaves no parameter to train.")
    return [name for name, parameter in named.items() if not parameter.requires_grad]
