"""Columns that hold more than one text or one label a row: words, tags, answers with their places."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from datasets import ClassLabel, Dataset, Features, List, Value, concatenate_datasets

from potstill.errors import DataError

Cells = Mapping[str, Any]
"""One row as a file holds it, by column."""


@dataclass(frozen=True)
class Shape:
    """How the column of a role is read, whatever kind of file it comes from.

    Attributes:
        feature: what a row holds afterwards, as `datasets` names it.
        read: a row and the column's name -> the row's value; None where it is missing. Raises ValueError, which says
            what is wrong with it, as in "is 5, not a list of words".
        beside: columns that `read` looks at too, where they are there.
    """

    feature: Any
    read: Callable[[Cells, str], Any]
    beside: tuple[str, ...] = ()


Shapes = Mapping[str, Shape]
"""By role; a role without one is read as text, or as one label."""
PLAIN: Shapes = {}
_BLOCK = 4096


def shaped(dataset: Dataset, columns: Mapping[str, str], shapes: Shapes, where: str) -> Dataset:
    """The data set with the columns of `shapes` as these read them; what stood beside them is gone.

    Raises: DataError, naming the row, for a value that cannot be read.
    """
    there = {role: shape for role, shape in shapes.items() if role in dataset.column_names}
    if not there:
        return dataset
    extra = [name for name in beside(there) if name in dataset.column_names]
    made: dict[str, list[Any]] = {role: [] for role in there}
    for number, row in enumerate(rows_of(dataset.select_columns([*there, *extra])), 1):
        cells = {**row, **{columns[role]: row[role] for role in there}}
        for role, shape in there.items():
            made[role].append(read_cell(cells, columns[role], shape, f"{where}, row {number}"))
    features = Features({role: shape.feature for role, shape in there.items()})
    kept = dataset.remove_columns([*there, *extra])
    added = Dataset.from_dict(made, features=features)
    return concatenate_datasets([kept, added], axis=1) if kept.column_names else added


def rows_of(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """The rows as Python values, by column; much faster than iterating over the data set."""
    for block in dataset.with_format("arrow").iter(_BLOCK):
        yield from block.to_pylist()


def read_cell(row: Cells, name: str, shape: Shape, place: str) -> Any:
    """One value as its shape reads it.

    Args:
        place: how errors name the row.

    Raises: DataError.
    """
    try:
        return shape.read(row, name)
    except ValueError as problem:
        raise DataError(f"{place}: '{name}' {problem}.") from None


def beside(shapes: Shapes) -> list[str]:
    """The columns that shapes look at besides their own."""
    return [name for shape in shapes.values() for name in shape.beside]


def names_in(feature: Any) -> list[str] | None:
    """The names of a column of lists of `ClassLabel`; None for any other."""
    inner = getattr(feature, "feature", None)
    return list(inner.names) if isinstance(inner, ClassLabel) else None


def _words(row: Cells, name: str) -> list[str]:
    value = row[name]
    if isinstance(value, str):
        return value.split()
    if value is None:
        raise ValueError("is missing")
    if not isinstance(value, list):
        raise ValueError(f"is {value!r:.60}, neither a list of words nor a text with spaces between them")
    for number, word in enumerate(value, 1):
        if not isinstance(word, str):
            raise ValueError(f"holds {word!r:.60} as word {number}, which is not text")
    return value


def _tags(row: Cells, name: str) -> list[str] | None:
    value = row.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return value.split()
    if not isinstance(value, list):
        raise ValueError(f"is {value!r:.60}, neither a list of tags nor a text with spaces between them")
    kinds = {isinstance(tag, str) for tag in value}
    for number, tag in enumerate(value, 1):
        if isinstance(tag, bool) or not isinstance(tag, str | int):
            raise ValueError(f"holds {tag!r:.60} as tag {number}, which is neither a name nor a whole number")
    if len(kinds) > 1:
        raise ValueError("holds both names and numbers; tags are all the one or all the other")
    return [str(tag) for tag in value]


def _labels(row: Cells, name: str) -> dict[str, Any] | None:
    value = row.get(name)
    if is_missing(value):
        return None
    if isinstance(value, str):
        return {"text": value, "names": None}
    if isinstance(value, dict):
        if value.keys() == LABELS.feature.keys():  # read before, from a file
            return value
        raise ValueError(f"is {value!r:.60}, which is no text, number or list of these")
    parts = value if isinstance(value, list) else [value]
    return {"text": None, "names": [_label(part, number) for number, part in enumerate(parts, 1)]}


def _label(value: Any, number: int) -> str:
    if not isinstance(value, str | int | float) or _is_nan(value):
        raise ValueError(f"holds {value!r:.60} as label {number}, which is neither a name nor a number")
    # Columns of integers with gaps become floats.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing: null, "" or NaN."""
    return value is None or value == "" or _is_nan(value)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _answers(row: Cells, name: str) -> dict[str, list[Any]] | None:
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, list) and any(isinstance(one, dict) for one in value):  # as SQuAD's own files have them
        value = {key: [_part(one, key) for one in value] for key in ("text", "answer_start")}
    if isinstance(value, dict):
        texts, starts = _part(value, "text"), value.get("answer_start")
    else:
        texts, starts = value, row.get("answer_start")
    return _paired(_listed(texts), None if starts is None else _listed(starts))


def _part(one: Any, key: str) -> Any:
    if not isinstance(one, dict) or key not in one:
        raise ValueError(f"holds {one!r:.60}, which has no '{key}'")
    return one[key]


def _listed(value: Any) -> list[Any]:
    """Several values; one by itself is a list of one, and an empty text, as of a CSV file, of none."""
    if isinstance(value, list):
        return value
    return [] if value is None or value == "" else [value]


def _paired(texts: list[Any], starts: list[Any] | None) -> dict[str, list[Any]]:
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"holds {text!r:.60}, which is not the text of an answer")
    if starts is None:
        return {"text": texts, "answer_start": [-1] * len(texts)}
    if len(starts) != len(texts):
        raise ValueError(f"has {len(texts)} texts and {len(starts)} places (answer_start); each answer has one place")
    return {"text": texts, "answer_start": [_place(start) for start in starts]}


def _place(value: Any) -> int:
    try:
        if isinstance(value, bool):
            raise ValueError
        number = int(value)
        if number != float(value):
            raise ValueError
    except (TypeError, ValueError, OverflowError):  # the last for Infinity, which Python's JSON reads
        raise ValueError(f"has the place (answer_start) {value!r:.60}, which is not a whole number") from None
    return number


WORDS = Shape(List(Value("string")), _words)
"""A list of words, or a text with spaces between them."""
TAGS = Shape(List(Value("string")), _tags)
"""A list of names or of numbers, which are written as text, or a text with spaces between them; None where missing."""
LABELS = Shape({"text": Value("string"), "names": List(Value("string"))}, _labels)
"""Labels, which may be numbers, as "names", or a text that the task takes apart; None where missing (null, "", NaN)."""
ANSWERS = Shape({"text": List(Value("string")), "answer_start": List(Value("int64"))}, _answers, ("answer_start",))
"""Texts and where each begins in the context, -1 where that is not said: two lists in one column, as the hub has them,
or beside each other, as text and number, or a list of SQuAD's objects; None where missing."""
