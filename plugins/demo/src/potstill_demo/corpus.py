"""A labelled text data set out of the docstrings of Python's own standard library: no network, nothing downloaded.

Text is a paragraph of a docstring, its label the subject area of the module it stands in. All paragraphs of one
top-level definition (a class with its methods, a function, a module's own docstring) stand on one side of the split,
and no text stands twice.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sysconfig
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from potstill.errors import DataError
from potstill_demo.subjects import subject_of

SHARES = {"validation": 0.10, "test": 0.15}
"""Share of each subject's paragraphs; the rest is for training."""
FEWEST_WORDS = 4
FEWEST_PER_SUBJECT = 100
"""A subject with fewer paragraphs (its modules are not installed) is left out."""

_LEFT_OUT = {"test", "tests", "idle_test", "turtledemo", "site-packages", "dist-packages", "__phello__", "_vendor"}
_DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_WORD = re.compile(r"[A-Za-z]{2,}")
_SIGNATURE = re.compile(r"^\s*[\w.\[\], ()<>=]*\w\([^()]*(\([^()]*\)[^()]*)*\)\s*(->.*|:|=.*)?$")
_RULE = re.compile(r"^\s*[-=~^*+#_.]{3,}\s*$")
_IMPORT = re.compile(r"^\s*(from [\w.]+ )?import [\w., ]+$")
_RIGHTS = re.compile(r"copyright|licen[cs]e|all rights reserved|written by|__author__", re.IGNORECASE)


@dataclass(frozen=True)
class Paragraph:
    """One example. `definition` is the top-level class or function it stands in, "" for a module's own docstring."""

    text: str
    label: str
    module: str
    definition: str


def standard_library() -> Path:
    """The folder with the standard library's sources."""
    return Path(sysconfig.get_path("stdlib"))


def paragraphs(library: Path) -> list[Paragraph]:
    """Every paragraph with a subject, in the order of the files; texts that stand twice are kept once.

    A text that stands under two subjects has no right label and is left out. Files that do not parse are skipped.

    Raises: DataError where the folder has no docstrings (a library packed as byte code or in a zip file).
    """
    first: dict[str, Paragraph] = {}
    labels: dict[str, set[str]] = defaultdict(set)
    for found in _read(library):
        key = " ".join(_WORD.findall(found.text.lower()))
        first.setdefault(key, found)
        labels[key].add(found.label)
    kept = [found for key, found in first.items() if len(labels[key]) == 1]
    counts = Counter(found.label for found in kept)
    kept = [found for found in kept if counts[found.label] >= FEWEST_PER_SUBJECT]
    if len({found.label for found in kept}) < 2:
        raise DataError(
            f"found {len(kept)} docstring paragraphs under {library}: the demo needs a Python whose standard library "
            "is installed as .py files."
        )
    return kept


def split(found: list[Paragraph]) -> dict[str, list[Paragraph]]:
    """ "train", "validation" and "test", by top-level definition.

    The definitions of a subject are taken in the order of a hash of their names, so the result is the same on every
    machine with this library. A definition that is larger than what a side still lacks goes to a later side: the few
    with hundreds of paragraphs stand in "train", as one of them would be most of its subject's test rows.
    """
    groups: dict[tuple[str, str, str], list[Paragraph]] = defaultdict(list)
    for paragraph in found:
        groups[paragraph.label, paragraph.module, paragraph.definition].append(paragraph)
    counts = Counter(paragraph.label for paragraph in found)
    room = {(side, label): share * counts[label] for side, share in SHARES.items() for label in counts}
    sides: dict[str, list[Paragraph]] = {"train": [], "validation": [], "test": []}
    for group in sorted(groups, key=_hash):
        rows = groups[group]
        side = next((side for side in SHARES if room[side, group[0]] >= len(rows)), "train")
        if side != "train":
            room[side, group[0]] -= len(rows)
        sides[side].extend(rows)
    return {side: sorted(rows, key=lambda row: _hash((row.text,))) for side, rows in sides.items()}


def write(folder: Path, library: Path | None = None) -> tuple[dict[str, int], list[str]]:
    """Writes train.parquet, validation.parquet, test.parquet and labels.txt.

    Returns: the number of rows of each side, and the texts for training.
    """
    import pyarrow
    import pyarrow.parquet

    sides = split(paragraphs(library or standard_library()))
    folder.mkdir(parents=True, exist_ok=True)
    for side, rows in sides.items():
        columns = {name: [getattr(row, name) for row in rows] for name in ("text", "label", "module", "definition")}
        pyarrow.parquet.write_table(pyarrow.table(columns), folder / f"{side}.parquet")
    labels = sorted({row.label for row in sides["train"]})
    (folder / "labels.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")
    return {side: len(rows) for side, rows in sides.items()}, [row.text for row in sides["train"]]


def _hash(parts: tuple[str, ...]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _read(library: Path) -> Iterator[Paragraph]:
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).with_suffix("").parts
        module = ".".join(parts).removesuffix(".__init__")
        label = subject_of(module)
        if label is None or not _LEFT_OUT.isdisjoint(parts):
            continue
        for definition, docstring in _docstrings(path):
            for text in cut(docstring):
                yield Paragraph(text, label, module, definition)


def _docstrings(path: Path) -> Iterator[tuple[str, str]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in old sources
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    yield from _walk(tree, "")


def _walk(node: ast.AST, definition: str) -> Iterator[tuple[str, str]]:
    """Docstrings of `node` and all definitions in it, with the name of the top-level definition they stand in."""
    if isinstance(node, (ast.Module, *_DEFINITIONS)):
        docstring = ast.get_docstring(node)
        if docstring:
            yield definition, docstring
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _DEFINITIONS):
            yield from _walk(child, definition or child.name)
        elif isinstance(child, (ast.stmt, ast.excepthandler)):
            yield from _walk(child, definition)


def cut(docstring: str) -> list[str]:
    """The paragraphs of prose in a docstring, each on one line.

    Doctests (from the first prompt to the next empty line), signatures, imports and ruled lines are dropped, and with
    them the paragraphs that have too few words left, are mostly signs, or say who owns the file.
    """
    texts = []
    for block in re.split(r"\n[ \t]*\n", docstring):
        lines = []
        for line in block.splitlines():
            if line.lstrip().startswith((">>>", "$ ")):
                break
            if not (_RULE.match(line) or _SIGNATURE.match(line) or _IMPORT.match(line)):
                lines.append(line)
        text = " ".join(" ".join(lines).split())
        if _is_prose(text):
            texts.append(text)
    return texts


def _is_prose(text: str) -> bool:
    words = _WORD.findall(text)
    return len(words) >= FEWEST_WORDS and sum(map(len, words)) >= 0.6 * len(text) and not _RIGHTS.search(text)
