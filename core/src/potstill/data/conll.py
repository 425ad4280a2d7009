"""Files with a word a line, its tag in the last column, and a blank line between sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from potstill.data.columns import Columns
from potstill.data.shapes import Shapes
from potstill.errors import DataError

_DOCUMENT = "-DOCSTART-"
_BLANK = " \t\r\n"
"""What may stand between columns and at a line's ends. Other spaces, as Chinese texts have, are parts of words."""


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

    Columns stand between tabs where the first word's line has any, else between spaces or tabs. Lines that begin a
    document are left out, and so are those before a sentence's first word that begin with "# " and have " = ", which
    are CoNLL-U's comments.

    Raises: DataError, naming the line, for a word without a tag, or with other columns than the words before it.
    """
    words: list[str] = []
    tags: list[str] = []

    def sentence() -> dict[str, Any]:
        found = {"text": [*words], "label": [*tags]}
        return {role: found[role] for role in columns}

    for cells in _lines(path, "label" in columns):
        if cells:
            words.append(cells[0])
            tags.append(cells[-1])
        elif words:
            yield sentence()
            words, tags = [], []
    if words:
        yield sentence()


def _lines(path: Path, tagged: bool) -> Iterator[list[str]]:
    """The columns of each word, and none where a blank line ends a sentence."""
    tabs, first, width, begins = False, 0, 0, True
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            text = line.strip(_BLANK)
            if not text:
                begins = True
                yield []
            elif not (text.startswith(_DOCUMENT) or (begins and text.startswith("# ") and " = " in text)):
                tabs = tabs if first else "\t" in text
                cells = [cell.strip(_BLANK) for cell in line.split("\t")] if tabs else re.split("[ \t]+", text)
                if not first:
                    first, width = number, len(cells)
                if tagged and (len(cells) < 2 or not cells[-1]):
                    raise DataError(f"{path}, line {number}: the word '{cells[0]}' has no tag in a column behind it.")
                if tagged and len(cells) != width:
                    raise DataError(
                        f"{path}, line {number}: there are {len(cells)} columns and in line {first} {width}; each word "
                        "has as many, its tag in the last one."
                    )
                begins = False
                yield cells
