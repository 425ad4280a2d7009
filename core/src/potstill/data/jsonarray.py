"""A JSON array read element by element, so that a large file is never in memory as a whole."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from potstill.errors import DataError

_BLOCK = 1 << 16
"""Characters that are read together; more where one element is longer."""
_SPACE = re.compile(r"[ \t\n\r]*")
_BEHIND = frozenset(",] \t\n\r")
"""What may stand right behind an element."""


def elements(file: TextIO, path: Path) -> Iterator[Any]:
    """The elements of the array that a file holds.

    Raises: DataError, naming the row, where it is no whole array.
    """
    window = _Window(file, path)
    window.take("[")
    while window.next() != "]":
        if window.row:
            window.take(",")
        yield window.value()
    window.take("]")
    if window.next():
        raise window.wrong("there is more behind the array's end")


def not_json(path: Path, place: str, problem: str) -> DataError:
    """What to raise for a file that is not JSON."""
    return DataError(
        f"{path}, {place}: this is not valid JSON ({problem}); a file holds one array of objects or one object a line."
    )


class _Window:
    """The part of a file from `at` on that is in memory."""

    def __init__(self, file: TextIO, path: Path) -> None:
        self.row = 0
        self._file, self._path = file, path
        self._text, self._at, self._read = "", 0, 0

    def next(self) -> str:
        """The next character that is not a space, not yet taken; "" at the end of the file."""
        self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
        while self._at == len(self._text) and self._more():
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
        return self._text[self._at : self._at + 1]

    def take(self, character: str) -> None:
        """Goes past a character, which has to come next."""
        if self.next() != character:
            raise self.wrong(f"Expecting '{character}'")
        self._at += 1

    def value(self) -> Any:
        """The next element; more of the file is read as long as it is not whole."""
        self.next()
        self.row += 1
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as problem:
                if not self._more():
                    self._at = problem.pos
                    raise self.wrong(problem.msg) from None
            else:
                # A number may go on in the part that is not read yet.
                if self._text[end : end + 1] in _BEHIND or not self._more():
                    self._at = end
                    return value

    def wrong(self, problem: str) -> DataError:
        """What to raise for what stands here."""
        at = self._read - len(self._text) + self._at
        return not_json(self._path, f"row {self.row or 1}", f"{problem}, at character {at}")

    def _more(self) -> bool:
        """Reads on, each time as much as there is of an element that is not whole; False at the end of the file."""
        block = self._file.read(max(_BLOCK, len(self._text) - self._at))
        if block:
            self._text, self._at = self._text[self._at :] + block, 0
            self._read += len(block)
        return bool(block)


_DECODER = json.JSONDecoder()
