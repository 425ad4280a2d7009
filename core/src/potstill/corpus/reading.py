"""The documents of a piece of work, one after the other, with little of it in memory; what is damaged is told."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from potstill.corpus.sources import Unit
from potstill.errors import DataError
from potstill.places import first_line

LONGEST = 32 << 20
"""Bytes of a document that are read at most; a longer one is a damaged row."""
_ROWS, _BYTES = 1000, 8 << 20
"""Of Parquet or a data set about so much is decoded together."""


class Bad(str):
    """A damaged row or file, as a sentence."""


Found = Iterator[str | Bad]


def documents(unit: Unit, text: str) -> Found:
    """The texts of a piece of work, and in the place of each that is damaged a sentence that says where and why.

    Args:
        text: the field or column with the text.

    Raises: DataError where the system does not let it be read, which is no damage: it may later.
    """
    try:
        yield from _documents(unit, text)
    except OSError as problem:
        raise DataError(
            f"{unit.path} cannot be read on: {problem.strerror or first_line(problem)}; the same command goes on when "
            "it can be read again."
        ) from problem


def _documents(unit: Unit, text: str) -> Found:
    if unit.kind == "dataset":
        yield from _rows_of(unit)
    elif unit.kind == "stream":
        yield from _streamed(unit, text)
    elif unit.kind == "parquet":
        yield from _parquet(unit, text)
    elif unit.kind in ("json", "json.gz") and _is_array(unit):
        yield from _array(unit, text)
    else:
        for place, line in _lines(unit):
            if isinstance(line, Bad) or "json" not in unit.kind:
                yield line
            elif line.strip():
                yield _field(line, text, f"{unit.path}, {place}")


def line_number(path: Path, byte: int) -> int:
    """The number, from 1, of the line that begins at a byte of a file."""
    lines, left = 1, byte
    with path.open("rb") as file:
        while left and (block := file.read(min(left, 1 << 20))):
            lines += block.count(b"\n")
            left -= len(block)
    return lines


def _lines(unit: Unit) -> Iterator[tuple[str, str | Bad]]:
    """Lines as text with the place that errors name."""
    path, packed = Path(unit.path), unit.kind.endswith(".gz")
    number = at = 0
    try:
        with _opened(path, packed) as file:
            begin = 0 if packed else _first_line(file, unit.begin)
            at = begin
            while packed or at < unit.end:
                line = file.readline(LONGEST + 1)
                if not line:
                    return
                number += 1
                place = f"line {number}" if packed or unit.begin == 0 else f"byte {at}"
                size = len(line)
                if size > LONGEST and not line.endswith(b"\n"):
                    size += _skip_line(file)
                    yield place, Bad(f"{path}, {place}: this line is longer than {LONGEST >> 20} MB; break it up.")
                else:
                    yield place, _decoded(line, path, place, first=number == 1 and unit.begin == 0)
                at += size
    except (gzip.BadGzipFile, EOFError, zlib.error) as problem:
        after = f" after line {number}" if number else ""
        yield "", Bad(f"{path}{after} cannot be read: {first_line(problem)}.")


def _opened(path: Path, packed: bool) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if packed else path.open("rb")


def _first_line(file: IO[bytes], begin: int) -> int:
    """Goes to the first line that begins at a byte or later, and returns where it begins."""
    if begin == 0:
        return 0
    file.seek(begin - 1)
    return begin - 1 + _skip_line(file)


def _skip_line(file: IO[bytes]) -> int:
    """Reads to the line's end and returns how many bytes that were."""
    skipped = 0
    while block := file.readline(1 << 20):
        skipped += len(block)
        if block.endswith(b"\n"):
            break
    return skipped


def _decoded(line: bytes, path: Path, place: str, first: bool) -> str | Bad:
    try:
        text = line.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as problem:
        wrong = problem.object[problem.start]
        return Bad(f"{path}, {place}: byte {problem.start} of the line (0x{wrong:02x}) is not UTF-8; save it as UTF-8.")
    if "\0" in text:
        return Bad(f"{path}, {place}: the line holds a NUL byte, which text does not.")
    return text.removesuffix("\n").removesuffix("\r")


def _field(line: str, text: str, where: str) -> str | Bad:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as problem:
        return Bad(f"{where}: this is not valid JSON ({first_line(problem)}).")
    return _of_row(row, text, where)


def _of_row(row: Any, text: str, where: str) -> str | Bad:
    if not isinstance(row, dict):
        return Bad(f'{where}: {row!r:.60} is not an object with columns, such as {{"{text}": "…"}}.')
    if text not in row:
        return Bad(f"{where}: there is no field '{text}' (data.text); the fields are {', '.join(map(repr, row))}.")
    return _checked(row[text], text, where)


def _checked(value: Any, text: str, where: str) -> str | Bad:
    if value is None:
        return Bad(f"{where}: the text '{text}' is missing.")
    if not isinstance(value, str):
        return Bad(f"{where}: '{text}' is {value!r:.60}, not text.")
    if len(value) > LONGEST:
        return Bad(f"{where}: '{text}' is longer than {LONGEST >> 20} MB; break it up.")
    if "\0" in value:
        return Bad(f"{where}: '{text}' holds a NUL byte, which text does not.")
    try:
        value.encode()
    except UnicodeEncodeError as problem:
        return Bad(f"{where}: '{text}' holds half a character (U+{ord(value[problem.start]):04X}), which is no text.")
    return value


def _is_array(unit: Unit) -> bool:
    """By the first sign that is no space; what cannot be unpacked is told where its lines are read."""
    with suppress(gzip.BadGzipFile, EOFError, zlib.error), _opened(Path(unit.path), unit.kind == "json.gz") as file:
        start = file.read(3).removeprefix(b"\xef\xbb\xbf")
        while not start.strip() and (block := file.read(1 << 16)):
            start = block
        return start.lstrip().startswith(b"[")
    return False


def _array(unit: Unit, text: str) -> Found:
    from potstill.data.jsonarray import elements

    row, path = 0, Path(unit.path)
    try:
        with TextIOWrapper(_opened(path, unit.kind == "json.gz"), encoding="utf-8-sig") as file:
            for row, value in enumerate(elements(file, path), 1):
                yield _of_row(value, text, f"{path}, row {row}")
    except (DataError, ValueError, RecursionError, gzip.BadGzipFile, EOFError, zlib.error) as problem:
        # What is behind a damaged element cannot be told apart.
        yield Bad(str(problem) if isinstance(problem, DataError) else f"{path} after row {row}: {first_line(problem)}.")


def _parquet(unit: Unit, text: str) -> Found:
    row, group = 0, unit.begin
    try:
        # Page by page: row groups of long texts are large.
        with pq.ParquetFile(unit.path, pre_buffer=False, buffer_size=1 << 20) as file:
            row = sum(file.metadata.row_group(group).num_rows for group in range(unit.begin))
            for group in range(unit.begin, unit.end):
                told = file.metadata.row_group(group)
                together = max(1, min(_ROWS, _BYTES * told.num_rows // max(1, told.total_byte_size)))
                for block in file.iter_batches(together, [group], columns=[text], use_threads=False):
                    for value in _values(block.column(0)):
                        row += 1
                        yield _checked(value, text, f"{unit.path}, row {row}")
    except (pa.ArrowException, OSError, ValueError) as problem:
        if isinstance(problem, OSError) and problem.errno is not None:
            raise
        yield Bad(f"{unit.path}, row group {group + 1}, after row {row}: {first_line(problem)}.")


def _values(column: Any) -> Iterator[Any]:
    try:
        yield from column.to_pylist()
    except UnicodeDecodeError:
        for value in column.cast(pa.large_binary()).to_pylist():
            yield None if value is None else value.decode("utf-8", "surrogateescape")  # told as half a character


def _rows_of(unit: Unit) -> Found:
    rows = unit.rows.select(range(unit.begin, unit.end)).with_format("arrow")
    row = unit.begin
    for block in rows.iter(_ROWS // 10):
        for value in _values(block.column("text")):
            row += 1
            yield _checked(value, "text", f"{unit.path}, row {row}")


def _streamed(unit: Unit, text: str) -> Found:
    """What cannot be read is an error, not a damaged row: the network may have cut it short."""
    row = 0
    try:
        for row, value in enumerate(unit.rows.texts(unit.begin, text), 1):
            yield _checked(value, text, f"{unit.path}, file {unit.begin + 1}, row {row}")
    except (pa.ArrowException, EOFError, zlib.error, ValueError) as problem:
        raise DataError(
            f"{unit.path}, file {unit.begin + 1} after row {row}, cannot be read: {first_line(problem)}; the same "
            "command goes on."
        ) from problem
