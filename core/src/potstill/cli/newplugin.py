"""Making a plugin's distribution from the template."""

from __future__ import annotations

import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from potstill import __version__
from potstill.errors import UserError

_ENDING = ".in"


def make(name: str, folder: Path | None = None) -> Path:
    """Writes a working distribution, `potstill-NAME`, into a new folder (default: `./potstill-NAME`).

    Raises: UserError where the name cannot be a plugin's, or the folder holds something already.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name):
        raise UserError(
            f"'{name}' cannot be a plugin's name: lower-case letters, digits, '-' and '_', such as my-loss."
        )
    target = folder or Path(f"potstill-{name.replace('_', '-')}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"'{target}' exists and is not an empty folder; name another one with --folder.")
    _fill(files("potstill") / "templates" / "plugin", target, _words(name))
    return target


def _words(name: str) -> dict[str, str]:
    major, minor, *_ = __version__.split(".")
    module = name.replace("-", "_")
    return {
        "@name@": name,
        "@module@": module,
        "@package@": f"potstill_{module}",
        "@distribution@": f"potstill-{name.replace('_', '-')}",
        "@Class@": "".join(part.capitalize() for part in module.split("_")),
        "@minor@": f"{major}.{minor}",
        "@next@": f"{major}.{int(minor) + 1}",
    }


def _fill(source: Traversable, target: Path, words: dict[str, str]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for item in source.iterdir():
        path = target / _replaced(item.name, words).removesuffix(_ENDING)
        if item.is_dir():
            _fill(item, path, words)
        elif item.name.endswith(_ENDING):
            path.write_text(_replaced(item.read_text(encoding="utf-8"), words), encoding="utf-8")


def _replaced(text: str, words: dict[str, str]) -> str:
    for mark, word in words.items():
        text = text.replace(mark, word)
    return text
