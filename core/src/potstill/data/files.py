"""Data files as data sets. Text formats are read row by row, so that nothing guesses a type and errors have lines."""

from __future__ import annotations

import codecs
import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, Value
from datasets.data_files import DataFilesDict, DataFilesList

from potstill.data.columns import TEXTS, Columns, beside_of, by_role, check_columns, values_of, with_labels
from potstill.data.conll import check_conll, conll_rows
from potstill.data.jsonarray import elements, not_json
from potstill.data.shapes import PLAIN, Shapes, read_cell
from potstill.data.squad import squad_rows
from potstill.errors import DataError
from potstill.places import first_line

Row = dict[str, Any]
"""One row by role."""
_LAYOUT = 2
"""Part of the key of `datasets`' cache; to be raised when the readers below read differently."""


def read(paths: Sequence[Path], columns: Columns, where: str, cache: str | None, shapes: Shapes = PLAIN) -> Dataset:
    """The files' rows, one file after the other, with one column a role.

    CSV and TSV columns are text whatever they look like; quotes have a meaning in CSV and none in TSV. Labels of JSON
    keep their type. A .txt file has a text a line, or, where words have tags, is read as .conll is.

    Args:
        paths: files of one format.
        where: how errors name the data as a whole.
        cache: the folder of `datasets`' cache; None for its own default.
        shapes: how the columns are read that are not text or one label, by role.

    Raises: DataError, naming file and line, for what cannot be read.
    """
    kind = paths[0].suffix.lower().removeprefix(".")
    shapes = {role: shape for role, shape in shapes.items() if role in columns}
    if kind == "parquet":
        return _parquet(paths, columns, where, cache, shapes)
    if kind == "txt" and shapes.keys() >= {"text", "label"}:
        kind = "conll"
    if kind == "conll":
        check_conll(columns, shapes, paths[0])
    if kind == "txt":
        columns = _text_only(columns, paths[0])
        shapes = {role: shape for role, shape in shapes.items() if role in columns}
    digests = tuple(_checked_digest(path) for path in paths)
    dataset = Dataset.from_generator(
        rows_of,
        features=Features({role: shapes[role].feature if role in shapes else Value("string") for role in columns}),
        cache_dir=cache,
        gen_kwargs={
            "paths": tuple(map(str, paths)),  # no lists here: `datasets` would take them for shards
            "columns": dict(columns),
            "shapes": dict(shapes),
            "kind": kind,
            "key": (_LAYOUT, *digests),
        },
    )
    typed = kind in ("json", "jsonl") and "label" in columns and "label" not in shapes
    return _typed_labels(dataset) if typed else dataset


def rows_of(paths: Sequence[str], columns: Columns, shapes: Shapes, kind: str, key: object) -> Iterator[Row]:
    """The rows of text files by role; labels of JSON without a shape are JSON. `key` is for the cache alone."""
    row = None
    for path in paths:
        for row in READERS[kind](Path(path), columns, shapes):
            yield row
    if row is None:
        raise DataError(f"{paths[0]} holds no rows.")  # here, since `datasets` cannot make a data set without rows


def _csv(path: Path, columns: Columns, shapes: Shapes) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)  # the default refuses long articles
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            yield from _table(reader, lambda: reader.line_num, columns, shapes, path)
        except csv.Error as problem:
            raise DataError(f"{path}, line {reader.line_num}: this is not valid CSV: {problem}.") from None


def _tsv(path: Path, columns: Columns, shapes: Shapes) -> Iterator[Row]:
    line = 0

    def cells() -> Iterator[list[str]]:
        nonlocal line
        for text in file:
            line += 1
            text = text.removesuffix("\n").removesuffix("\r")
            yield text.split("\t") if text else []

    with path.open(encoding="utf-8-sig", newline="\n") as file:
        yield from _table(cells(), lambda: line, columns, shapes, path)


def _table(
    rows: Iterator[list[str]], line: Callable[[], int], columns: Columns, shapes: Shapes, path: Path
) -> Iterator[Row]:
    header = next(rows, [])
    check_columns(columns, header, str(path))
    places = {role: header.index(name) for role, name in columns.items()}
    for cells in rows:
        if not cells:
            continue
        if len(cells) != len(header):
            raise DataError(
                f"{path}, line {line()}: there are {len(cells)} columns and the header names {len(header)}."
            )
        found: Row = {role: cells[place] for role, place in places.items()}
        yield found | _read(dict(zip(header, cells, strict=True)), columns, shapes, f"{path}, line {line()}")


def _txt(path: Path, columns: Columns, shapes: Shapes) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                text = line.removesuffix("\n")
                yield {"text": text} | _read({columns["text"]: text}, columns, shapes, f"{path}, line {number}")


def _read(row: Mapping[str, Any], columns: Columns, shapes: Shapes, place: str) -> Row:
    return {role: read_cell(row, columns[role], shape, place) for role, shape in shapes.items()}


def _json(path: Path, columns: Columns, shapes: Shapes) -> Iterator[Row]:
    texts = {role: _Texts(path, name) for role, name in columns.items() if role != "label" and role not in shapes}
    seen: dict[str, None] = {}
    for place, row in squad_rows(path) or _objects(path):
        seen.update(dict.fromkeys(row))
        plain = "label" in columns and "label" not in shapes
        if plain and not isinstance(row.get(columns["label"]), str | int | float | list | None):
            raise DataError(
                f"{path}, {place}: the label {row[columns['label']]!r} is no text, number or list of these."
            )
        found: Row = {}
        for role, name in columns.items():
            if role in shapes and role in TEXTS:
                check_columns({role: name}, list(row), f"{path}, {place},")
            if role in shapes:
                found[role] = read_cell(row, name, shapes[role], f"{path}, {place}")
            elif role == "label":
                found[role] = None if row.get(name) is None else json.dumps(row[name])
            else:
                if name not in row:
                    check_columns({role: name}, list(row), f"{path}, {place},")
                found[role] = texts[role].text(row[name], place)
        yield found
    if seen:
        check_columns(columns, list(seen), str(path))


def _objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSON array or of JSON lines, each with the place to name in errors."""
    with path.open(encoding="utf-8-sig") as file:
        is_array = file.read(1024).lstrip().startswith("[")
        file.seek(0)
        if is_array:
            found = ((f"row {number}", value) for number, value in enumerate(elements(file, path), 1))
        else:
            lines = ((f"line {number}", line) for number, line in enumerate(file, 1) if line.strip())
            found = ((place, _parsed(line, path, place)) for place, line in lines)
        for place, value in found:
            if not isinstance(value, dict):
                raise DataError(
                    f'{path}, {place}: {value!r:.60} is not an object with columns, such as {{"text": "…"}}.'
                )
            yield place, value


def _parsed(text: str, path: Path, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as problem:
        raise not_json(path, place, str(problem)) from None


class _Texts:
    """One column of JSON: all text, or all numbers, which are then written as text."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.number_at: str | None = None
        self.number: Any = None
        self.text_at: str | None = None

    def text(self, value: Any, place: str) -> str:
        if isinstance(value, str):
            self.text_at = self.text_at or place
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise DataError(f"{self.path}, {place}: '{self.name}' is {json.dumps(value):.60}, not text.")
        elif self.number_at is None:
            self.number_at, self.number = place, value
        if self.text_at and self.number_at:
            raise DataError(
                f"{self.path}, {self.number_at}: '{self.name}' is {self.number!r}, not text as in {self.text_at}."
            )
        return str(value)


READERS = {"csv": _csv, "tsv": _tsv, "txt": _txt, "json": _json, "jsonl": _json, "conll": conll_rows}
SUFFIXES = (*(f".{kind}" for kind in READERS), ".parquet")


def _typed_labels(dataset: Dataset) -> Dataset:
    written = values_of(dataset, "label")
    meant = {label: None if label is None else json.loads(label) for label in set(written)}
    labels = [meant[label] for label in written]
    if any(isinstance(label, list) for label in labels):
        labels = [None if label is None else _names_of(label) for label in labels]
    elif any(isinstance(label, str) for label in labels):
        labels = [None if label is None else str(label) for label in labels]
    elif any(isinstance(label, float) for label in labels):
        labels = [None if label is None else float(label) for label in labels]
    elif not all(isinstance(label, bool | None) for label in labels):
        labels = [None if label is None else int(label) for label in labels]
    return with_labels(dataset, labels)


def _names_of(label: Any) -> list[str | None]:
    """The labels of a row as text, since a column holds values of one type; one alone is a list of one."""
    parts = label if isinstance(label, list) else [label]
    return [None if part is None else str(part) for part in parts]


def _text_only(columns: Columns, path: Path) -> Columns:
    """Of a plain text file the roles it can have: it has no label, and a pair is an error."""
    if "text_pair" in columns:
        raise DataError(f"{path} holds one text a line, so it has no column '{columns['text_pair']}' (data.text_pair).")
    return {"text": columns["text"]}


def _parquet(paths: Sequence[Path], columns: Columns, where: str, cache: str | None, shapes: Shapes) -> Dataset:
    digests, wanted = [], list(columns.values())
    for path in paths:
        try:
            file = pq.read_metadata(path)
            there = file.schema.to_arrow_schema().names
            check_columns(columns, there, str(path))
            wanted = [*columns.values(), *beside_of(columns, shapes, there)]
        except pa.ArrowException as problem:
            raise DataError(f"{path} is not a readable Parquet file: {first_line(problem)}.") from None
        if not file.num_rows:
            raise DataError(f"{path} holds no rows.")
        digests.append((_digest(path),))
    # Named by content, not by the time of change, which a copy may keep.
    files = DataFilesDict({"train": DataFilesList([str(path) for path in paths], digests)})
    dataset = Dataset.from_parquet(files, split="train", cache_dir=cache, columns=wanted)
    return by_role(dataset, columns, where, shapes)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checked_digest(path: Path) -> str:
    """SHA-256 of the file. Raises: DataError, naming byte and line, where it is not UTF-8 or is empty."""
    digest, decoder = hashlib.sha256(), codecs.getincrementaldecoder("utf-8")()
    done = lines = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            _decode(decoder, block, done, lines, path)
            if not done and b"\0" in block[:2]:
                raise DataError(f"{path} begins with a zero byte, as UTF-16 does; save the file as UTF-8.")
            done, lines = done + len(block), lines + block.count(b"\n")
    if not done:
        raise DataError(f"{path} is empty.")
    _decode(decoder, b"", done, lines, path)
    return digest.hexdigest()


def _decode(decoder: codecs.IncrementalDecoder, block: bytes, done: int, lines: int, path: Path) -> None:
    try:
        decoder.decode(block, final=not block)
    except UnicodeDecodeError as problem:
        kept = len(problem.object) - len(block)  # bytes of a character that began in the block before
        at, line = done - kept + problem.start, 1 + lines + problem.object.count(b"\n", 0, problem.start)
        value = f"0x{problem.object[problem.start]:02x}"
        raise DataError(f"{path}, line {line}: byte {at} ({value}) is not UTF-8; save the file as UTF-8.") from None
