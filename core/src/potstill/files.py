"""Files that are written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from potstill.errors import FileError


def write_text(path: Path, text: str) -> None:
    """Replaces a file in one step; a kill leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
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
    """A folder to fill; it takes its name, in place of an old one, only when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        yield draft
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    for part in [*draft.rglob("*"), draft]:
        _sync(part)
    if path.exists():
        old = path.with_name(f".{path.name}.{os.getpid()}.old")
        path.rename(old)
        draft.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    else:
        draft.rename(path)
    sync_folder(path.parent)


def sweep_drafts(folder: Path) -> None:
    """Removes what a killed process left half-written directly below a folder.

    A folder that was moved aside and not yet replaced takes its name back.
    """
    for path in folder.glob(".*.tmp"):
        if _being_written(path):
            continue
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    for path in folder.glob(".*.old"):
        if _being_written(path):
            continue
        name = path.name[1:].rsplit(".", 2)[0]
        if (folder / name).exists():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):  # another rank was faster
                path.rename(folder / name)


def _being_written(draft: Path) -> bool:
    """Whether the process that a draft's name tells is another one and still alive."""
    process = draft.name.split(".")[-2]
    return process.isdecimal() and int(process) != os.getpid() and psutil.pid_exists(int(process))


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
