"""What the system refuses while files are written, as one sentence: no room, no right, too many open files."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from potstill.errors import DiskError, PotstillError

_ROOM = "make room there and give the same command again"
_RIGHT = "set its rights or name another place"
_REFUSALS = {
    errno.ENOSPC: ("no space is left on its disk", _ROOM),
    errno.EDQUOT: ("your quota on its disk is used up", _ROOM),
    errno.EFBIG: ("it would be larger than `ulimit -f` or its disk allows", "raise the limit or name another place"),
    errno.EACCES: ("permission is denied", _RIGHT),
    errno.EPERM: ("it is not permitted", _RIGHT),
    errno.EISDIR: ("a folder has its name", "move that or name another place"),
    errno.EROFS: ("its disk is read-only", "name another place"),
    errno.EMFILE: ("too many files are open", "raise the limit, as with `ulimit -n 4096`"),
    errno.ENFILE: ("too many files are open on this machine", "close some of its programs"),
    errno.ENAMETOOLONG: ("its name is too long", "give a shorter one"),
}
"""By the system's number: what is wrong, and what would be right."""

_NUMBER = re.compile(r"(?:\[Errno |os error )(\d+)")
_DRAFT = re.compile(r"\.([^/]+)\.(?:[0-9a-f]{8}-)?\d+\.tmp(?=/|$)")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises: DiskError where the system refuses what the block writes to `path`; other errors pass as they are."""
    try:
        yield
    except Exception as error:
        refused = refusal(error, path)
        if refused is None:
            raise
        raise refused from error


def refusal(error: BaseException, path: Path | None = None) -> DiskError | None:
    """An error that goes back to a refusal of the system, as a sentence; None for any other.

    Libraries wrap what the system says, and some keep nothing but its words and number.

    Args:
        path: what was written, where the error itself names no file.
    """
    if isinstance(error, PotstillError):
        return None
    cause: BaseException | None = error
    while cause is not None:
        number = _number(cause)
        if number in _REFUSALS:
            named = cause.filename if isinstance(cause, OSError) else None
            return _told(number, Path(os.fsdecode(named)) if isinstance(named, str | bytes) else path)
        cause = cause.__cause__ or cause.__context__
    return None


def _number(error: BaseException) -> int:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = _NUMBER.search(str(error))
    return int(found[1]) if found else 0


def _told(number: int, path: Path | None) -> DiskError:
    what, remedy = _REFUSALS[number]
    free = f" ({_free(path)} MB free)" if path and number in (errno.ENOSPC, errno.EDQUOT) else ""
    name = _DRAFT.sub(r"\1", str(path)) if path else "A file"
    return DiskError(f"{name} cannot be written: {what}{free}; {remedy}.")


def _free(path: Path) -> str:
    there = next(part for part in (path.absolute(), *path.absolute().parents) if part.exists())
    with suppress(OSError):
        return f"{shutil.disk_usage(there).free / 1e6:.1f}"
    return "?"
