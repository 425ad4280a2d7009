"""Which files a corpus is made of, and the pieces of work they come to."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from potstill.corpus.digests import Stamp, digest_of, stamp
from potstill.data.columns import check_columns
from potstill.errors import DataError, did_you_mean
from potstill.files import text_hash
from potstill.places import first_line

PART = 16 << 20
"""Bytes of a text file that are one piece of work."""
ROWS = 50_000
"""Rows of a data set that are one piece of work."""
_KINDS = ("txt", "jsonl", "json", "txt.gz", "jsonl.gz", "json.gz", "parquet")
SUFFIXES = tuple(f".{kind}" for kind in _KINDS)


@dataclass(frozen=True)
class Unit:
    """A piece of work: a file, or a part of a long one.

    Attributes:
        path: the file; of a data set, how errors name it.
        kind: the file's suffix without its dot, "dataset", or "stream" for one that is read from the hub.
        begin, end: what part: bytes of a text file, row groups of Parquet, rows of a data set, files of a stream.
        content: a hash of the whole file's content and of the part.
        stamp: the file as it was when that hash was made.
        rows: a data set itself; a stream's `Remote`.
    """

    path: str
    kind: str
    begin: int
    end: int
    content: str
    stamp: Stamp | None = None
    rows: Any = None


@dataclass
class Listing:
    """What a recipe's `data.train` names.

    Attributes:
        units: in the order of the files.
        files: the number of each unit's file.
        names: the files.
        bad: what could not be opened, a sentence each.
        ignored: files of a folder that are no text by their suffix.
    """

    units: list[Unit] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    ignored: int = 0

    def add(self, name: str, units: list[Unit]) -> None:
        """One file more."""
        self.units += units
        self.files += [len(self.names)] * len(units)
        self.names.append(name)


def listing(spec: Any, text: str, root: Path, where: str, cache: Path, skip: bool) -> Listing:
    """The pieces of work of a corpus.

    Args:
        spec: paths, folders and hub names joined by " + ", or a `datasets.Dataset`.
        text: the column with the text, in files that have columns.
        root: where paths start.
        where: the recipe's key, for errors.
        cache: where hashes of files and data sets from the hub are kept.
        skip: files that cannot be opened are left out and told in `bad`.

    Raises: DataError for what is missing, is named twice, or cannot be opened.
    """
    found = Listing()
    if not isinstance(spec, str):
        found.add("a data set in memory", _given_units(spec, text, where))
        return found
    seen: dict[str, str] = {}
    for part in (part.strip() for part in spec.split(" + ")):
        told = f"{where} = '{part}'"
        name, _, split = part.partition("::")
        path = root / os.path.expanduser(name)
        if not part:
            raise DataError(f"{where} = '{spec}' has nothing beside a '+'; name a file, a folder or a hub id there.")
        files = None
        if not _is_dataset(path) and (os.path.lexists(path) or _looks_like_path(name)):
            files = list(_files(path, split, told, found))
        for file in [path] if files is None else files:
            real = os.path.realpath(file) + (f"::{split}" if files is None else "")
            if real in seen:
                raise DataError(f"{told} names {file} a second time (first in '{seen[real]}'); name every file once.")
            seen[real] = part
            if files is None:
                found.add(part, _saved_or_hub(part, text, root, told, cache))
            else:
                _add(found, file, text, cache)
        if found.bad and not skip:
            raise DataError(f'{found.bad[0].removesuffix(".")} (data.corpus.bad_rows = "skip" leaves such files out).')
    return found


def _looks_like_path(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) or Path(name).is_absolute() or name.startswith((".", "~"))


def _is_dataset(path: Path) -> bool:
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def _files(path: Path, split: str, told: str, found: Listing) -> Iterator[Path]:
    if path.is_dir():
        yield from _folder(path, split, told, found)
        return
    if not os.path.lexists(path):
        beside = [other.name for other in path.parent.glob("*")] if path.parent.is_dir() else []
        raise DataError(f"{told}: there is no file or folder {path}.{did_you_mean(path.name, beside)}")
    if not path.name.lower().endswith(SUFFIXES):
        raise DataError(f"{told} ends in '{path.suffix}'; running text may end in {', '.join(SUFFIXES)}.")
    if split:
        raise DataError(f"{told}: a file has no splits; leave out '::{split}'.")
    yield path


def _folder(path: Path, split: str, told: str, found: Listing) -> Iterator[Path]:
    """The text files of a folder and of those below it, by name; each folder once, however links lead to it."""
    files, seen = [], set()

    def told_of(problem: OSError) -> None:
        found.bad.append(f"{problem.filename} cannot be read: {problem.strerror}.")

    for folder, inner, names in os.walk(path, onerror=told_of, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            inner.clear()
            continue
        seen.add(real)
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        files += [Path(folder) / name for name in names if not name.startswith(".")]
    wanted = [file for file in files if file.name.lower().endswith(SUFFIXES)]
    found.ignored += len(files) - len(wanted)
    if split:
        wanted = [file for file in wanted if re.match(re.escape(split) + r"(?![A-Za-z0-9])", file.name)]
    if not wanted and not found.bad:
        of = f" of '{split}'" if split else ""
        raise DataError(f"{told}: the folder {path} holds no text{of}; running text may end in {', '.join(SUFFIXES)}.")
    yield from sorted(wanted)


def _add(found: Listing, path: Path, text: str, cache: Path) -> None:
    try:
        kind, before, parts = _looked_at(path, text)
    except OSError as problem:
        found.bad.append(f"{path} cannot be read: {problem.strerror or problem}.")
        return
    except BadFile as problem:
        found.bad.append(str(problem))
        return
    digest = digest_of(path, before, cache)
    found.add(
        str(path),
        [Unit(str(path), kind, b, e, text_hash(f"{digest} {kind} {b} {e}"), before) for b, e in parts],
    )


class BadFile(Exception):  # noqa: N818 - a sentence on its way to a count or an error
    """A file that is damaged as a whole."""


def _looked_at(path: Path, text: str) -> tuple[str, Stamp, list[tuple[int, int]]]:
    """A file's kind, its state, and the parts that it is read in.

    Raises: BadFile; OSError where it cannot be opened.
    """
    kind = next(kind for kind in sorted(_KINDS, key=len, reverse=True) if path.name.lower().endswith(f".{kind}"))
    if any("\ud800" <= sign <= "\udfff" for sign in str(path)):
        raise BadFile(f"{str(path)!a} has a name that is no UTF-8 text; rename the file.")
    before = stamp(path)
    if not path.is_file():
        raise BadFile(f"{path} is no file that holds text, but a device, a pipe or a folder; take it away.")
    if kind in ("txt", "jsonl", "json"):
        _check_encoding(path)
    return kind, before, _parts(path, kind, before.size, text)


def _parts(path: Path, kind: str, size: int, text: str) -> list[tuple[int, int]]:
    if kind in ("txt", "jsonl"):
        return [(begin, min(begin + PART, size)) for begin in range(0, size, PART)]
    return _row_groups(path, text) if kind == "parquet" else [(0, size)]


def _check_encoding(path: Path) -> None:
    with path.open("rb") as file:
        first = file.read(4)
    if first[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise BadFile(f"{path}, byte 0: this is UTF-16 text; save the file as UTF-8.")
    if b"\0" in first:
        raise BadFile(f"{path} holds a zero byte among its first four, as UTF-16 does; save the file as UTF-8.")


def _row_groups(path: Path, text: str) -> list[tuple[int, int]]:
    """Neighbouring row groups that together hold about as much as a part of a text file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(path)
        schema = metadata.schema.to_arrow_schema()
    except (pa.ArrowException, OSError) as problem:
        if isinstance(problem, OSError) and problem.errno is not None:
            raise
        raise BadFile(f"{path} is not a readable Parquet file: {first_line(problem)}.") from None
    try:
        check_columns({"text": text}, schema.names, str(path))
    except DataError as problem:
        raise BadFile(str(problem)) from None
    kind = schema.field(text).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not any(check(kind) for check in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)):
        raise BadFile(f"{path}: the column '{text}' (data.text) holds {kind}, not text.")
    parts, begin, size = [], 0, 0
    for group in range(metadata.num_row_groups):
        size += metadata.row_group(group).total_byte_size
        if size >= PART or group == metadata.num_row_groups - 1:
            parts.append((begin, group + 1))
            begin, size = group + 1, 0
    return parts


def _saved_or_hub(part: str, text: str, root: Path, told: str, cache: Path) -> list[Unit]:
    from huggingface_hub import is_offline_mode

    from potstill.corpus.remote import on_the_hub
    from potstill.data.source import find_rows, fingerprint

    if not (_is_dataset(root / os.path.expanduser(part.partition("::")[0])) or is_offline_mode()):
        remote = on_the_hub(part, text, told)
        return [
            Unit(told, "stream", number, number + 1, text_hash(f"{remote.key} stream {number}"), None, remote)
            for number in range(remote.files)
        ]
    dataset = find_rows(part, {"text": text}, root, told, cache)
    if _is_dataset(root / os.path.expanduser(part.partition("::")[0])) and dataset._indices is None:
        # Saved whole, so the files are the rows.
        files = [Path(file["filename"]) for file in dataset.cache_files]
        content = " ".join([text, *(digest_of(file, stamp(file), cache) for file in files)])
        return _dataset_units(dataset, content, text, told)
    return _dataset_units(dataset, fingerprint(dataset), text, told)


def _given_units(dataset: Any, text: str, where: str) -> list[Unit]:
    from datasets import Dataset

    from potstill.data.columns import by_role
    from potstill.data.source import fingerprint

    told = f"{where} (a data set in memory)"
    if not isinstance(dataset, Dataset):
        raise DataError(f"{told} is a {type(dataset).__name__}; give paths, hub ids or one datasets.Dataset.")
    rows = by_role(dataset.with_format(None), {"text": text}, told)
    return _dataset_units(rows, fingerprint(rows), text, told)


def _dataset_units(dataset: Any, content: str, text: str, told: str) -> list[Unit]:
    """Pieces of rows whose column is called "text"; `text` is what it was called."""
    kind = getattr(dataset.features["text"], "dtype", "a list")
    if kind not in ("string", "large_string"):
        raise DataError(f"{told}: the column '{text}' (data.text) holds {kind}, not text.")
    return [
        Unit(told, "dataset", begin, end, text_hash(f"{content} dataset {begin} {end}"), None, dataset)
        for begin in range(0, len(dataset), ROWS)
        for end in [min(begin + ROWS, len(dataset))]
    ]
