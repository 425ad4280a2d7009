"""A finished piece of work: sequences in an Arrow file, their lengths as the index, and how often each token occurs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from potstill.corpus.cleaning import Cleaner, Rules
from potstill.corpus.reading import Bad, documents
from potstill.corpus.sources import Unit
from potstill.corpus.words import Ids, Words
from potstill.data.table import CHUNK
from potstill.errors import DataError, FileError
from potstill.files import file_hash, new_folder, read_json, text_hash, write_json

TABLE, INDEX, COUNTS, MANIFEST = "tokens.arrow", "lengths.npy", "counts.npy", "manifest.json"
LAYOUT = 1
"""Part of every shard's name; to be raised when the same input would become other bytes."""
_TOLD = 20
"""So many damaged rows a manifest describes; the others it counts."""
_CHARACTERS = 1 << 18
"""About so many characters are tokenized in one step."""
_HEADERS = Lock()
"""Held while NumPy reads headers, which are parsed as Python: in CPython 3.11 two threads that parse may both fail."""


class DamagedRow(DataError):  # noqa: N818 - what is wrong with the data
    """A damaged row where none is allowed."""


def shard_key(unit: Unit, text: str, words: Words, rules: Rules) -> str:
    """The name of a unit's shard: a hash of all that its bytes follow from."""
    return text_hash(json.dumps([LAYOUT, unit.content, text, words.key, asdict(rules)]))[:32]


def write_shard(
    folder: Path, unit: Unit, text: str, words: Words, rules: Rules, skip: bool, check: Callable[[], None]
) -> dict[str, Any]:
    """Prepares a piece of work; its folder appears whole or not at all. Returns the manifest.

    Args:
        skip: damaged rows are left out and counted.
        check: called at every step and when all is read; may raise to stop.

    Raises: DamagedRow at the first one, unless they are skipped.
    """
    with new_folder(folder) as draft:
        facts = _Writer(draft, words, rules).write(unit, text, skip, check)
        check()
        hashes = {name: file_hash(draft / name) for name in (TABLE, INDEX, COUNTS)}
        manifest = {**facts, "sha256": hashes}
        write_json(draft / MANIFEST, manifest)
    return manifest


def read_shard(folder: Path) -> dict[str, Any] | None:
    """A shard's manifest; None where there is no shard, or a damaged one."""
    try:
        manifest: dict[str, Any] = read_json(folder / MANIFEST)
        if any(file_hash(folder / name) != manifest["sha256"][name] for name in (TABLE, INDEX, COUNTS)):
            return None
        with _HEADERS:
            lengths, counts = np.load(folder / INDEX, mmap_mode="r"), np.load(folder / COUNTS)
        told = manifest["rows"], manifest["tokens"], manifest["tokens"]
        return manifest if (len(lengths), int(lengths.sum()), int(counts.sum())) == told else None
    except (OSError, FileError, KeyError, TypeError, ValueError):
        return None


def told_of(manifest: dict[str, Any], unit: Unit) -> list[str]:
    """The damaged rows that a manifest describes, a sentence each; the file may have another name than it had then."""
    return [unit.path + told for told in manifest["told"]]


class _Writer:
    def __init__(self, folder: Path, words: Words, rules: Rules) -> None:
        self.folder, self.words, self.cleaner = folder, words, Cleaner(words, rules)
        self.kind = pa.uint16() if words.vocabulary <= 1 << 16 else pa.int32()
        self.counts = np.zeros(words.vocabulary, np.int64)
        self.lengths: list[npt.NDArray[np.int32]] = []
        self._flat: list[Ids] = []  # sequences that do not fill a record batch yet
        self._waiting: list[npt.NDArray[np.int64]] = []

    def write(self, unit: Unit, text: str, skip: bool, check: Callable[[], None]) -> dict[str, Any]:
        """Writes the files and returns the manifest's numbers."""
        schema = pa.schema([("input_ids", pa.list_(self.kind))])
        with pa.OSFile(str(self.folder / TABLE), "wb") as sink, pa.ipc.new_file(sink, schema) as out:
            seen, told = self._read(unit, text, skip, check, out)
            self._put(*self.cleaner.rest(), out)
            self._flush(out, last=True)
        lengths = np.concatenate([np.zeros(0, np.int32), *self.lengths])
        np.save(self.folder / INDEX, lengths)
        np.save(self.folder / COUNTS, self.counts)
        return {
            "made_of": unit.path,
            "begin": unit.begin,
            "end": unit.end,
            **{name: seen[name] for name in ("documents", "characters", "bad")},
            "told": told,
            "rows": len(lengths),
            "tokens": int(lengths.sum()),
            "dropped": dict(self.cleaner.dropped),
        }

    def _read(
        self, unit: Unit, text: str, skip: bool, check: Callable[[], None], out: Any
    ) -> tuple[Counter[str], list[str]]:
        """Tokenizes all documents; what was seen, and the first damaged rows without the file's name before them."""
        seen: Counter[str] = Counter()
        told: list[str] = []
        texts: list[str] = []
        size = 0
        for found in documents(unit, text):
            if isinstance(found, Bad):
                if not skip:
                    raise DamagedRow(found)
                seen["bad"] += 1
                told += [found.removeprefix(unit.path)] if len(told) < _TOLD else []
                continue
            texts.append(found)
            size += len(found) + 1
            if size >= _CHARACTERS:
                self._take(texts, seen, out)
                texts, size = [], 0
                check()
        self._take(texts, seen, out)
        return seen, told

    def _take(self, texts: list[str], seen: Counter[str], out: Any) -> None:
        seen["documents"] += len(texts)
        seen["characters"] += sum(map(len, texts))
        filled = [text for text in texts if text and not text.isspace()]
        self.cleaner.dropped["empty"] += len(texts) - len(filled)
        if filled:
            self._put(*self.cleaner.add(*self.words.ids(filled)), out)

    def _put(self, flat: Ids, lengths: npt.NDArray[np.int64], out: Any) -> None:
        if len(lengths):
            self.counts += np.bincount(flat, minlength=len(self.counts))
            self.lengths.append(lengths.astype(np.int32))
            self._flat.append(flat)
            self._waiting.append(lengths)
            self._flush(out, last=False)

    def _flush(self, out: Any, last: bool) -> None:
        """Writes what fills record batches of `CHUNK` rows, and at the end the short last one."""
        rows = sum(map(len, self._waiting))
        whole = rows if last else rows // CHUNK * CHUNK
        if not whole:
            return
        flat, lengths = np.concatenate(self._flat), np.concatenate(self._waiting)
        ends = np.concatenate([[0], np.cumsum(lengths)])
        for start in range(0, whole, CHUNK):
            stop = min(start + CHUNK, whole)
            offsets = pa.array((ends[start : stop + 1] - ends[start]).astype(np.int32))
            values = pa.array(flat[ends[start] : ends[stop]].astype(self.kind.to_pandas_dtype()))
            out.write_batch(pa.record_batch([pa.ListArray.from_arrays(offsets, values)], names=["input_ids"]))
        self._flat, self._waiting = [flat[ends[whole] :].copy()], [lengths[whole:].copy()]
