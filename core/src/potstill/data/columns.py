"""Columns of a data set by their roles: whether they are there, and whether texts are text."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, Value

from potstill.data.shapes import PLAIN, Shapes, beside, names_in
from potstill.errors import DataError, did_you_mean

Columns = Mapping[str, str]
"""Column names by role: "text", "text_pair", "label"; of labels with a column for each class, a role for each."""
Names = str | Sequence[str]
"""What a role's column is called, or its columns."""

TEXTS = ("text", "text_pair")
ROLES = (*TEXTS, "label")
_NUMBERS = ("int", "uint", "float")
_BLOCK = 4096


def check_columns(columns: Columns, there: Sequence[str], where: str) -> None:
    """Raises: DataError where a column is missing, with the nearest name and those that are there, or there twice."""
    for role, name in columns.items():
        if name not in there:
            raise DataError(
                f"{where} has no column '{name}' (data.{_key(role)}); its columns are {', '.join(map(repr, there))}."
                f"{did_you_mean(name, there)}"
            )
        if list(there).count(name) > 1:
            raise DataError(
                f"{where} has {list(there).count(name)} columns '{name}' (data.{_key(role)}); rename all but one."
            )


def _key(role: str) -> str:
    """The key of a recipe's table [data] that names the role's column: "label" for "label:2" too."""
    return role.partition(":")[0]


def by_role(dataset: Dataset, columns: Columns, where: str, shapes: Shapes = PLAIN) -> Dataset:
    """The columns that have a role, renamed to it, and those beside them that their shapes look at; no others.

    Raises: DataError where a column is missing.
    """
    check_columns(columns, dataset.column_names, where)
    kept = dataset.select_columns([*columns.values(), *beside_of(columns, shapes, dataset.column_names)])
    return kept.rename_columns({name: role for role, name in columns.items()})


def beside_of(columns: Columns, shapes: Shapes, there: Sequence[str]) -> list[str]:
    """The columns that are there and that shapes look at, beside those that have a role."""
    asked = beside({role: shape for role, shape in shapes.items() if role in columns})
    return [name for name in asked if name in there and name not in columns.values()]


def as_text(dataset: Dataset, columns: Columns, where: str, shapes: Shapes = PLAIN) -> Dataset:
    """The data set with text columns that are text: a column of numbers alone is written as text.

    Columns that have a shape of their own stay as they are.

    Raises: DataError, naming the first row whose text is missing or something else.
    """
    for role in (role for role in TEXTS if role in dataset.column_names and role not in shapes):
        kind = dataset.features[role].dtype if isinstance(dataset.features[role], Value) else ""
        if kind.startswith(_NUMBERS):
            dataset = _cast(dataset, role)
        elif kind not in ("string", "large_string"):
            _check_texts(dataset, role, columns[role], where)
            dataset = _cast(dataset, role)
        if _has_nulls(dataset, role):
            _check_texts(dataset, role, columns[role], where)
    return dataset


def named_labels(dataset: Dataset, columns: Columns, where: str) -> tuple[tuple[str, ...] | None, Dataset]:
    """The names of a `ClassLabel` column and the data set with names for its numbers; (None, as it was) without one.

    A negative number is no label. The column may hold lists of `ClassLabel`: within these a missing or negative number
    stays what it is, as text, since what it means there, and whether it may be, is for the task to say.

    Raises: DataError, naming the row, for a number that has no name.
    """
    feature = dataset.features.get("label")
    listed = names_in(feature)
    if listed is None and not isinstance(feature, ClassLabel):
        return None, dataset
    names: tuple[str, ...] = tuple(feature.names if listed is None else listed)

    def named(number: int | None, row: int) -> str | None:
        if number is None or number < 0:
            return None if number is None else str(number)
        if number >= len(names):
            raise DataError(
                f"{where}, row {row}: '{columns['label']}' holds {number}, and its ClassLabel names {len(names)} "
                f"classes, 0 to {len(names) - 1}."
            )
        return names[number]

    values = enumerate(_values(dataset, "label"), 1)
    if listed is None:
        labels = [None if value is None or value < 0 else named(value, row) for row, value in values]
        return names, with_labels(dataset, labels)
    rows = [None if value is None else [named(number, row) for number in value] for row, value in values]
    return names, dataset.remove_columns("label").add_column("label", pa.array(rows, type=pa.list_(pa.string())))


def with_labels(dataset: Dataset, labels: list[Any]) -> Dataset:
    """The data set with other labels, of one type."""
    kind = pa.string() if any(isinstance(label, str) for label in labels) else None
    return dataset.remove_columns("label").add_column("label", pa.array(labels, type=kind))


def values_of(dataset: Dataset, column: str) -> list[Any]:
    """A whole column as Python values, equal texts one object; much faster than `list(dataset[column])`."""
    return [sys.intern(value) if isinstance(value, str) else value for value in _values(dataset, column)]


def _values(dataset: Dataset, column: str) -> Iterator[Any]:
    for block in dataset.select_columns([column]).with_format("arrow").iter(_BLOCK):
        yield from block.column(0).to_pylist()


def _cast(dataset: Dataset, role: str) -> Dataset:
    # In memory, since the cache of a data set from a folder would be written beside the user's own files.
    features = Features({**dataset.features, role: Value("string")})
    return dataset.cast(features, keep_in_memory=True)


def _has_nulls(dataset: Dataset, role: str) -> bool:
    blocks = dataset.select_columns([role]).with_format("arrow").iter(_BLOCK)
    return any(block.column(0).null_count for block in blocks)


def _check_texts(dataset: Dataset, role: str, name: str, where: str) -> None:
    for row, value in enumerate(_values(dataset, role), 1):
        if not isinstance(value, str):
            told = "is missing" if value is None else f"is {value!r:.60}, not text"
            raise DataError(f"{where}, row {row}: the text '{name}' {told}.")
