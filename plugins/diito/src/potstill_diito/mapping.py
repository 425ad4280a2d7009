"""Which part of the student stands for which part of the teacher: variables, their columns, the built-in mappings.

Layers count as everywhere in potstill: 0 is the embedding output, 1 to n the layers, -1 the last. Heads and the
dimensions within a head count from 0, and ranges do not include their end. No model and no engine here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from potstill.errors import ModelError, RecipeError

Range = tuple[int, int]
"""From the first to before the second."""
Read = Literal["aligned", "released"]
"""Where the source's activation is read; see `Shape.sites`."""


@dataclass(frozen=True)
class Variable:
    """A part of the vectors that some layers of one model put out.

    Attributes:
        layers: numbers of layers.
        heads: a range of heads; None: all of them.
        dims: a range within each head; None: all of it.
        told: how it was written and where, for errors.
    """

    layers: tuple[int, ...]
    heads: Range | None = None
    dims: Range | None = None
    told: str = field(default="", compare=False)

    def __str__(self) -> str:
        within = {"heads": self.heads, "dims": self.dims}
        told = [f"{what} {given[0]}:{given[1]}" for what, given in within.items() if given is not None]
        return ", ".join([" + ".join(map(str, self.layers)), *told])


@dataclass(frozen=True)
class Alignment:
    """One entry of a mapping: the teacher's variables and the student's, of which one each is drawn."""

    teacher: tuple[Variable, ...]
    student: tuple[Variable, ...]

    def __str__(self) -> str:
        return " ↔ ".join(
            f"{side} {' or '.join(map(str, variables))}"
            for side, variables in (("teacher", self.teacher), ("student", self.student))
        )


@dataclass(frozen=True)
class Site:
    """Columns of one layer's output that are swapped.

    Attributes:
        read: the layer of the source run that the activation comes from.
        write: the layer of the base run that it goes to.
        start, stop: the columns; stop None: to the end.
    """

    read: int
    write: int
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True)
class Shape:
    """What of a model decides whether a variable is there.

    Attributes:
        side: "teacher" or "student", for errors.
        layers: how many it has.
        width: of its hidden states.
        heads: attention heads that the width is cut into.
    """

    side: str
    layers: int
    width: int
    heads: int

    def sites(self, variable: Variable, read: Read) -> tuple[Site, ...]:
        """The columns of each layer that belong to a variable.

        Args:
            read: "aligned": at the place where it is written, as in the paper. "released": one layer below, which is
                what the authors' code does, since its hidden states count the embedding output and its layers do not.

        Raises: ModelError where the model has no such layer, head or dimension, or nothing lies below it.
        """
        found = [self._layer(number, variable) for number in variable.layers]
        below = 1 if read == "released" else 0
        if min(found) < below:
            raise ModelError(
                f"{variable.told} is the embedding output of the {self.side}, and diito.read = 'released' reads the "
                "layer below; name layer 1 or above, or read 'aligned'."
            )
        return tuple(
            Site(number - below, number, start, stop) for number in found for start, stop in self._columns(variable)
        )

    def _layer(self, number: int, variable: Variable) -> int:
        exact = self.layers + 1 + number if number < 0 else number
        if not 0 <= exact <= self.layers:
            raise ModelError(
                f"{variable.told} names layer {number} of the {self.side}, which has layers 1 to {self.layers} (0: the "
                "embedding output)."
            )
        return exact

    def _columns(self, variable: Variable) -> list[tuple[int, int | None]]:
        """The columns of a variable in runs that touch no other: (0, None) is the whole vector."""
        if variable.heads is None and variable.dims is None:
            return [(0, None)]
        if self.width % self.heads:
            raise ModelError(
                f"{variable.told} names heads or dimensions in them, and the {self.side}'s width {self.width} is no "
                f"multiple of its {self.heads} heads; leave both out."
            )
        from potstill.patches import head_columns  # which loads torch

        size = self.width // self.heads
        heads = self._within(variable.heads, self.heads, "heads", variable)
        dims = self._within(variable.dims, size, "dimensions a head", variable)
        runs: list[tuple[int, int | None]] = [*head_columns(heads, size, dims)]
        return [(0, None)] if runs == [(0, self.width)] else runs

    def _within(self, given: Range | None, most: int, what: str, variable: Variable) -> Range:
        if given is None:
            return 0, most
        if given[1] > most:
            raise ModelError(
                f"{variable.told} names {what} {given[0]}:{given[1]} of the {self.side}, which has {most}, counted "
                "from 0."
            )
        return given


# the published mappings


def full(teacher: int, student: int) -> list[Alignment]:
    """Each layer of the student ↔ its block of the teacher's layers (FULL; also DIITO-XXS).

    Blocks are as equal as can be, the larger ones first, as in the authors' file for 9 layers.

    Args:
        teacher, student: how many layers they have.

    Raises: RecipeError where the student has more layers than the teacher.
    """
    if student > teacher:
        raise RecipeError(
            f"diito.mapping = 'full' gives each of the student's {student} layers one or more of the teacher's "
            f"{teacher}; take 'middle', or write a mapping."
        )
    size, larger = divmod(teacher, student)
    ends = [layer * size + min(layer, larger) for layer in range(student + 1)]
    return [_aligned("full", range(ends[layer - 1] + 1, ends[layer] + 1), (layer,)) for layer in range(1, student + 1)]


def middle(teacher: int, student: int) -> list[Alignment]:
    """The layer above the middle of each (MIDDLE): 7 of 12 ↔ 4 of 6, 2 of 3, 5 of 9."""
    return [_aligned("middle", (teacher // 2 + 1,), (student // 2 + 1,))]


def late(teacher: int, student: int) -> list[Alignment]:
    """The two layers before the last of each, one by one (LATE): 10 and 11 of 12 ↔ 4 and 5 of 6, 1 and 2 of 3.

    Raises: RecipeError where one has fewer than 3 layers.
    """
    if min(teacher, student) < 3:
        raise RecipeError(
            f"diito.mapping = 'late' takes the two layers before the last, and the teacher has {teacher} layers and "
            f"the student {student}; take 'full' or 'middle'."
        )
    return [_aligned("late", (teacher - before,), (student - before,)) for before in (2, 1)]


BUILT_IN: dict[str, Callable[[int, int], list[Alignment]]] = {"full": full, "middle": middle, "late": late}
"""By the name that the option `mapping` has for them: (the teacher's layers, the student's) → the entries."""


def _aligned(name: str, teacher: range | tuple[int, ...], student: tuple[int, ...]) -> Alignment:
    told = f"diito.mapping = '{name}'"
    return Alignment((Variable(tuple(teacher), told=told),), (Variable(student, told=told),))
