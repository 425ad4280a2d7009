"""Files with a word a line, its tag in the last column, and a blank line between sentences."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from potstill.data.columns import Columns
from potstill.data.shapes import Shapes
from potstill.errors import DataError

_DOCUMENT = "-DOCSTART-"


def check_conll(columns: Columns, shapes: Shapes, path: Path) -> None:
    """Raises: DataError where the rows are not to be words, or have a second text."""
    if "text" not in shapes:
        raise DataError(
            f"{path} holds a word a line, with its tag, which only a task on words reads, such as "
            "task.kind = 'token-classification'."
        )
    if "text_pair" in columns:
        raise DataError(f"{path} holds words and tags, so it has no column '{columns['text_pair']}' (data.text_pair).")


def conll_rows(path: Path, columns: Columns, shapes: Shapes) -> Iterator[dict[str, Any]]:
    """The sentences of a file, as "text", a list of words, and "label", a list of tags, where they have that role.

    Columns stand between tabs in a file that has any, else between spaces. Lines that begin a document are left out.

    Raises: DataError, naming the line, for a word without a tag.
    """
    words: list[str] = []
    tags: list[str] = []

    def sentence() -> dict[str, Any]:
        found = {"text": [*words], "label": [*tags]}
        return {role: found[role] for role in columns}

    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            cells = line.split("\t") if "\t" in line else line.split()
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                if words:
                    yield sentence()
                words, tags = [], []
                continue
            if cells[0] == _DOCUMENT:
                continue
            if "label" in columns and (len(cells) < 2 or not cells[-1]):
                raise DataError(f"{path}, line {number}: the word '{cells[0]}' has no tag in a column behind it.")
            words.append(cells[0])
            tags.append(cells[-1])
    if words:
        yield sentence()
