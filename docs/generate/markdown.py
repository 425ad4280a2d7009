"""Small pieces of Markdown, and docstrings as Markdown."""

from __future__ import annotations

import html
import inspect
import re
import textwrap
from collections.abc import Iterable, Sequence

_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises):(.*)$")
_ENTRY = re.compile(r"^([\w*, ]+): (.*)$")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; bars and line breaks in cells are made harmless."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines) + "\n"


def _cell(text: str) -> str:
    # Within a code span a backslash would show.
    return re.sub(r"`([^`]*\|[^`]*)`", _code_with_bars, " ".join(text.split())).replace("|", r"\|")


def _code_with_bars(span: re.Match[str]) -> str:
    return f"<code>{html.escape(span[1]).replace('|', '&#124;')}</code>"


def fenced(code: str, language: str = "") -> str:
    """A code block."""
    return f"```{language}\n{code.strip()}\n```\n"


def docstring(text: str | None, example_from: str | None = None) -> str:
    """A docstring as Markdown: sections become lists, what is indented becomes a block of Python.

    Args:
        example_from: how the first line of an example begins that is not indented.
    """
    lines = inspect.cleandoc(text or "").splitlines()
    parts: list[str] = []
    at = 0
    while at < len(lines):
        section = _SECTION.match(lines[at])
        starts = example_from is not None and lines[at].startswith(example_from)
        if section:
            end = _end(lines, at + 1)
            parts.append(_section(section[1], section[2], lines[at + 1 : end]))
        elif starts or _begins_code(lines, at):
            end = len(lines) if starts else _end(lines, at)
            parts.append(fenced(textwrap.dedent("\n".join(lines[at:end])), "python"))
        else:
            end = at + 1
            parts.append(lines[at])
        at = end
    return "\n".join(parts).strip() + "\n"


def _begins_code(lines: Sequence[str], at: int) -> bool:
    return lines[at].startswith("    ") and (at == 0 or not lines[at - 1].strip())


def _end(lines: Sequence[str], start: int) -> int:
    """Where the indented lines from `start` end."""
    at = start
    while at < len(lines) and (lines[at].startswith("    ") or not lines[at].strip()):
        at += 1
    return at


def _section(name: str, rest: str, lines: Sequence[str]) -> str:
    body = textwrap.dedent("\n".join(lines)).strip()
    title = "Arguments" if name == "Args" else name
    if name == "Returns" or not body:
        return f"\n*{title}:* {rest.strip()} {' '.join(body.split())}".rstrip() + "\n"
    entries: list[str] = []
    for line in body.splitlines():
        entry = _ENTRY.match(line)
        if entry:
            names = ", ".join(f"`{part.strip()}`" for part in entry[1].split(","))
            entries.append(f"- {names}: {entry[2]}")
        else:
            entries.append(f"  {line.strip()}" if entries else f"- {line.strip()}")
    return f"\n*{title}:*{' ' + rest.strip() if rest.strip() else ''}\n\n" + "\n".join(entries) + "\n"
