"""Labels that stand in a column of 0 and 1 for each class: read each as it is, and made one column of lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datasets import Dataset, Features, Value, concatenate_datasets

from potstill.data.columns import Columns, Names
from potstill.data.shapes import LABELS, Cells, Shape, is_missing, rows_of
from potstill.errors import DataError

_ROLE = "label:"
"""What the role of a class's column begins with."""
_NONE = ("", "-1", "-1.0")  # -1 as labels elsewhere, and as Jigsaw's test rows that nobody judged
_CELLS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}


def spread(columns: Mapping[str, Names | None]) -> dict[str, str]:
    """A column a role: of a list of columns each has a role of its own, and roles without a column are left out."""
    single = {role: name for role, name in columns.items() if isinstance(name, str) and name}
    several = columns.get("label") or ""
    return single | ({} if isinstance(several, str) else {f"{_ROLE}{n}": name for n, name in enumerate(several, 1)})


def flags_of(columns: Columns) -> dict[str, Shape]:
    """How the columns of classes are read, by their roles; {} where there are none."""
    return {role: FLAG for role in columns if role.startswith(_ROLE)}


def joined(dataset: Dataset, columns: Columns, where: str) -> tuple[tuple[str, ...], Dataset]:
    """The classes' names, which are those of their columns, and the data set with a column "label" in their place.

    Args:
        columns: column names by role, as `spread` gives them.

    Raises: DataError, naming row and column, where a row has a value for some of the classes only.
    """
    roles = list(flags_of(columns))
    names = [columns[role] for role in roles]
    rows = enumerate(rows_of(dataset.select_columns(roles)), 1)
    labels = [_label(dict(zip(names, row.values(), strict=True)), f"{where}, row {number}") for number, row in rows]
    added = Dataset.from_dict({"label": labels}, features=Features({"label": LABELS.feature}))
    return tuple(names), concatenate_datasets([dataset.remove_columns(roles), added], axis=1)


def _label(cells: Mapping[str, bool | None], place: str) -> dict[str, Any] | None:
    """A row's classes as `LABELS` has them; None where none of the cells is known."""
    missing = [name for name, cell in cells.items() if cell is None]
    if len(missing) == len(cells):
        return None
    if missing:
        name, cell = next((name, cell) for name, cell in cells.items() if cell is not None)
        raise DataError(
            f"{place}: '{missing[0]}' is missing, and '{name}' is {cell:d}; the columns of a row's classes hold 0 or 1 "
            "each, or nothing all of them."
        )
    return {"text": None, "names": [name for name, cell in cells.items() if cell]}


def _flag(row: Cells, name: str) -> bool | None:
    value = row.get(name)
    if isinstance(value, bool | None):
        return value
    text = str(value).strip().lower()
    if is_missing(value) or text in _NONE:
        return None
    if text not in _CELLS:
        raise ValueError(f"is {value!r:.60}, and the column of a class holds 0 or 1")
    return _CELLS[text]


FLAG = Shape(Value("bool"), _flag)
"""Whether a row has a class: 0 or 1, false or true, as numbers or as text; None where missing (null, "", NaN, -1)."""
