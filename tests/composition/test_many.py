"""Four plugins and more: two hundred updates leave no more tensors than fifty, and the order listed means nothing."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import potstill
from potstill.progress import Bar, Progress
from potstill.testing.contract import weights
from tests.composition.plugins import together

MANY = [
    ("hinton", "minilm", "accumulate", "amp"),
    ("hinton", "tinybert", "accumulate", "fgm"),
    ("hinton", "layers", "minilm", "tinybert"),
    ("hinton", "layers", "amp", "pgd"),
    ("bilstm", "hinton", "accumulate", "fgm", "amp"),
    ("bilstm", "hinton", "accumulate", "pgd"),
    ("theseus", "hinton", "accumulate", "amp"),
    ("theseus", "hinton", "minilm", "fgm", "accumulate"),
    ("theseus", "layers", "pgd", "amp"),
    ("assistant", "minilm", "accumulate", "hinton"),
    ("assistant", "tinybert", "fgm", "amp", "accumulate"),
    ("hinton", "layers", "minilm", "accumulate", "amp", "fgm"),
]


class Counting(Progress):
    """Counts the living tensors after two updates of the stage "distil"."""

    def __init__(self, *updates: int) -> None:
        self._updates = updates
        self.tensors: list[int] = []

    @contextmanager
    def bar(self, name: str, total: int | None, done: int = 0) -> Iterator[Bar]:
        yield _Counter(self) if name == "distil" else Bar()

    def count(self, update: int) -> None:
        if update in self._updates:
            gc.collect()
            self.tensors.append(sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects()))


class _Counter(Bar):
    def __init__(self, progress: Counting) -> None:
        self._progress, self._update = progress, 0

    def advance(self, steps: int = 1, **facts: float | str) -> None:
        self._update += steps
        self._progress.count(self._update)


@pytest.mark.parametrize("names", MANY, ids=" + ".join)
def test_two_hundred_updates_leave_no_more_tensors_than_fifty(
    names: tuple[str, ...], place: Path, tmp_path: Path
) -> None:
    counting = Counting(50, 200)
    quiet = {"checkpoint_every": 1000, "evaluate_every": 1000, "log_every": 10}
    potstill.run(
        together(names, "teacher", updates=200, **quiet), folder=tmp_path / "run", data_root=place, progress=counting
    )
    early, late = counting.tensors
    assert late <= early


@pytest.mark.parametrize(
    "names",
    [
        ("hinton", "minilm", "accumulate", "fgm"),
        ("theseus", "hinton", "pgd", "amp"),
        ("assistant", "tinybert", "accumulate"),
        ("bilstm", "hinton", "accumulate", "fgm"),
    ],
    ids=" + ".join,
)
def test_the_order_in_which_plugins_are_listed_changes_nothing(
    names: tuple[str, ...], place: Path, tmp_path: Path
) -> None:
    for number, order in enumerate((names, names[::-1])):
        tables = together(order, "teacher", calm=True)
        potstill.run(tables, folder=tmp_path / str(number), data_root=place)
    one, other = (weights(tmp_path / str(number), "distil") for number in range(2))
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-5)
