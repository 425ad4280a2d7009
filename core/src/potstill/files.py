"""Files that are written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from potstill.disk import writing
from potstill.errors import FileError

_LEFT = re.compile(r"\.(?P<name>.+)\.(?:(?P<machine>[0-9a-f]{8})-)?(?P<process>\d+)\.(?P<kind>tmp|old)")
"""A draft, or what was moved aside for one."""
_LONG = 24 * 60 * 60.0
"""Seconds without a change after which a draft of another machine is nobody's."""


def write_text(path: Path, text: str) -> None:
    """Replaces a file in one step; a kill leaves the old one or the new one. A link stays one.

    Raises: DiskError where the disk is full or must not be written.
    """
    path = path.resolve() if path.is_symlink() else path
    draft = path.with_name(f".{path.name}.{_maker()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with draft.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """`write_text` of JSON, indented."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON value in a file that potstill wrote.

    Raises: FileError where it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FileError(
            f"{path} is damaged, for it is not JSON ({error}); put back a whole copy, or remove it and run again."
        ) from error


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill; it takes its name, in place of an old one, only when the block ends well. A link stays one.

    Raises: DiskError where the disk is full or must not be written.
    """
    path = path.resolve() if path.is_symlink() else path
    draft = path.with_name(f".{path.name}.{_maker()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(draft, ignore_errors=True)
        try:
            draft.mkdir()
            yield draft
            for part in [*draft.rglob("*"), draft]:
                _sync(part)
            _take_place(draft, path)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        sync_folder(path.parent)


def _take_place(draft: Path, path: Path) -> None:
    if not path.exists():
        draft.rename(path)
        return
    old = path.with_name(f".{path.name}.{_maker()}.old")
    try:
        path.rename(old)
        draft.rename(path)
    except BaseException:
        if old.exists() and not path.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def sweep_drafts(folder: Path) -> None:
    """Removes what a killed process left half-written directly below a folder.

    A folder that was moved aside and not yet replaced takes its name back. What another machine, or container, writes
    into a folder that both share stays for a day: whether its process lives cannot be seen from here.
    """
    for path in folder.glob(".*"):
        left = _LEFT.fullmatch(path.name)
        here = left is None or left["machine"] in (None, _machine())
        if left is None or (here and _at_work(int(left["process"]))):
            continue
        if left["kind"] == "old" and not (folder / left["name"]).exists():
            with suppress(OSError):  # another rank was faster
                path.rename(folder / left["name"])
        elif not here and _age(path) < _LONG:
            continue
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _maker() -> str:
    """This process, in the names of its drafts."""
    return f"{_machine()}-{os.getpid()}"


@cache
def _machine() -> str:
    """Eight digits for where a process's number means something: a machine, and on Linux the container on it."""
    with suppress(OSError):
        return text_hash(f"{platform.node()} {os.readlink('/proc/self/ns/pid')}")[:8]
    return text_hash(platform.node())[:8]


def _age(path: Path) -> float:
    """Seconds since anything changed in a file or folder; 0 where it is gone."""
    try:
        return time.time() - max(part.stat().st_mtime for part in [path, *path.rglob("*")])
    except OSError:
        return 0.0


def _at_work(process: int) -> bool:
    """Whether a process is another one and still alive."""
    return process != os.getpid() and psutil.pid_exists(process)


def sync_folder(path: Path) -> None:
    """Makes the names in a folder durable."""
    _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def path_hash(path: Path) -> str:
    """`file_hash` of a file, or a hash of the names and hashes of the files directly in a folder."""
    if path.is_file():
        return file_hash(path)
    return text_hash("|".join(f"{file.name}:{file_hash(file)}" for file in sorted(path.iterdir()) if file.is_file()))


def text_hash(text: str) -> str:
    """SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()
