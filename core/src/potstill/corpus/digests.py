"""Hashes of input files, kept beside what marks a file as unchanged, so that gigabytes are not read at every start."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock

from potstill.errors import FileError
from potstill.files import file_hash, read_json, text_hash, write_json

_WRITING = Lock()
"""Of one process: two threads would write the same draft."""


@dataclass(frozen=True)
class Stamp:
    """What the system says of a file: a change of its content changes at least the time of the last change of state."""

    size: int
    modified: int
    changed: int
    inode: int


def stamp(path: Path) -> Stamp:
    """The file as it is now. OSError where it is not there."""
    told = path.stat()
    return Stamp(told.st_size, told.st_mtime_ns, told.st_ctime_ns, told.st_ino)


def digest_of(path: Path, now: Stamp, cache: Path) -> str:
    """SHA-256 of a file's content, computed where the file is another one than when it was computed last."""
    place = cache / "corpus" / "digests" / f"{text_hash(str(path.resolve()))[:32]}.json"
    try:
        kept = read_json(place)
        if kept["stamp"] == asdict(now):
            return str(kept["sha256"])
    except (OSError, FileError, KeyError, TypeError):
        pass  # no entry, or one that is damaged: it is made anew
    found = file_hash(path)
    with _WRITING:
        write_json(place, {"path": str(path), "stamp": asdict(now), "sha256": found})
    return found
