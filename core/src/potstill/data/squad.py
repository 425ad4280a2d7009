"""SQuAD's own JSON, where questions stand within paragraphs within articles, as rows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from potstill.errors import DataError

Rows = Iterator[tuple[str, dict[str, Any]]]
_HEAD = 4096
_NESTED = re.compile(r'\s*\{.*"data"\s*:\s*\[\s*[{\]]', re.DOTALL)
"""How such a file begins, and maybe a row of ordinary JSON; which of them it is, the whole tells."""


def squad_rows(path: Path) -> Rows | None:
    """The questions of a file in SQuAD's form as rows, each with the place to name in errors; None for another file.

    Columns: "id", "question", "context", "answers" (a list of objects with "text" and "answer_start").

    Raises: DataError where the file is cut off, or a question or a context is missing.
    """
    with path.open(encoding="utf-8-sig") as file:
        if not _NESTED.match(file.read(_HEAD)):
            return None
        file.seek(0)
        try:
            whole = json.load(file)
        except json.JSONDecodeError as problem:
            if problem.msg == "Extra data":  # one object a line
                return None
            raise DataError(f"{path} is not valid JSON: {problem}.") from None
    articles = whole.get("data")
    return _questions(articles, path) if _are_articles(articles, whole) else None


def _are_articles(found: Any, whole: dict[str, Any]) -> bool:
    if found == []:
        return whole.keys() <= {"version", "data"}
    return isinstance(found, list) and any(
        isinstance(one, dict) and one.keys() & {"paragraphs", "title"} for one in found
    )


def _questions(articles: list[Any], path: Path) -> Rows:
    for a, article in enumerate(articles, 1):
        for p, paragraph in enumerate(_list(article, "paragraphs", path, f"article {a}"), 1):
            context = _part(paragraph, "context", path, f"article {a}, paragraph {p}")
            for q, asked in enumerate(_list(paragraph, "qas", path, f"article {a}, paragraph {p}"), 1):
                place = f"article {a}, paragraph {p}, question {q}"
                question = _part(asked, "question", path, place)
                told = {"id": asked.get("id"), "answers": asked.get("answers")}
                yield place, {**told, "question": question, "context": context}


def _part(table: Any, key: str, path: Path, place: str) -> Any:
    if not isinstance(table, dict) or key not in table:
        raise DataError(f"{path}, {place}: there is no '{key}', and the file is in the form of SQuAD.")
    return table[key]


def _list(table: Any, key: str, path: Path, place: str) -> list[Any]:
    found = _part(table, key, path, place)
    if not isinstance(found, list):
        raise DataError(f"{path}, {place}: '{key}' is {json.dumps(found):.60}, not a list as in SQuAD.")
    return found
