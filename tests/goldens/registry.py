"""Which function checks which kind of case."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from tests.goldens.case import Case

Check = Callable[[Case], Iterator[tuple[str, Tensor]]]
"""Computes a case's outputs from its inputs: pairs of an output's name and what this project gets for it.

An output may come several times, where there are several ways to it; every one of them has to be right.
"""

CHECKS: dict[str, Check] = {}


def check(kind: str) -> Callable[[Check], Check]:
    """Registers a generator function as the check of a kind of case."""

    def register(function: Check) -> Check:
        if kind in CHECKS:
            raise ValueError(f"The kind '{kind}' has two checks: {CHECKS[kind].__name__} and {function.__name__}")
        CHECKS[kind] = function
        return function

    return register
