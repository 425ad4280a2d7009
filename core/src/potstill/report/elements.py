"""The parts of a page: the document with styles and scripts inside, sections, tables, lists of facts, figures."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from potstill.report.table import cell, heading, is_number

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_LONGEST_LIST = 12


def document(title: str, lead: str, sections: Iterable[str]) -> str:
    """A whole page that loads nothing from elsewhere.

    Args:
        title, lead: plain text; what stands at the top.
        sections: HTML.
    """
    from plotly.offline import get_plotlyjs

    style, script = ((files("potstill.report") / name).read_text("utf-8") for name in ("style.css", "script.js"))
    name = escape(title)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name} – potstill</title>\n<style>\n{style}</style>\n<script>{get_plotlyjs()}</script>\n</head>\n"
        f"<body>\n<header>\n<h1>{name}</h1>\n<p>{escape(lead)}</p>\n</header>\n<main>\n{''.join(sections)}</main>\n"
        f"<script>\n{script}</script>\n</body>\n</html>\n"
    )


def section(title: str, body: str) -> str:
    """A card with a title; nothing where the body is empty."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}</section>\n" if body else ""


def note(text: str) -> str:
    """A line in small letters."""
    return f"<p class='note'>{escape(text)}</p>\n"


def folded(summary: str, body: str) -> str:
    """HTML that shows when its summary is clicked."""
    return f"<details><summary>{escape(summary)}</summary>\n{body}</details>\n"


def pair(figures: Iterable[str]) -> str:
    """Figures side by side where the page is wide enough."""
    return f"<div class='pair'>\n{''.join(figures)}</div>\n"


def figure(figure: Figure, name: str) -> str:
    """A figure; `name` is unique on the page."""
    from plotly.io import to_html

    html: str = to_html(
        figure,
        full_html=False,
        include_plotlyjs=False,
        div_id=name,
        config={"displayModeBar": False, "responsive": True},
    )
    return f"<div class='figure'>{html}</div>\n"


def with_legend(figures: Mapping[str, Figure]) -> str:
    """Figures by their names on the page, under one legend for all of them, whose names a click hides.

    Plotly's own legend leaves little of a figure where there are many names or long ones.
    """
    colours: dict[str, str] = {}
    for one in figures.values():
        one.update_layout(showlegend=False)
        colours |= {mark.meta: mark.marker.color or mark.line.color for mark in one.data if mark.meta}
    names = "".join(
        f"<li><button aria-pressed='true'><i style='background: {colour}'></i>{escape(name)}</button></li>\n"
        for name, colour in colours.items()
    )
    return f"<ul class='legend'>\n{names}</ul>\n" + pair(figure(one, name) for name, one in figures.items())


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], names: Collection[str] = ()) -> str:
    """Rows as an HTML table; numbers stand to the right.

    Args:
        names: as `heading` takes them.
    """
    numbers = {column for column in columns if any(is_number(row.get(column)) for row in rows)}
    kinds = {column: " class='number'" if column in numbers else "" for column in columns}
    heads = "".join(f"<th{kinds[column]}>{escape(heading(column, names))}</th>" for column in columns)
    lines = "".join(
        f"<tr>{''.join(f'<td{kinds[name]}>{escape(cell(name, row.get(name)))}</td>' for name in columns)}</tr>\n"
        for row in rows
    )
    return f"<div class='scroll'><table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{lines}</tbody></table></div>\n"


def tree(content: Any) -> str:
    """Nested facts: tables as description lists, lists of tables as tables, long lists cut with their length."""
    if isinstance(content, Mapping):
        entries = (f"<dt>{escape(heading(str(key)))}</dt><dd>{tree(value)}</dd>\n" for key, value in content.items())
        return f"<dl>\n{''.join(entries)}</dl>\n"
    if isinstance(content, list):
        if content and all(isinstance(part, Mapping) for part in content):
            return table(content[:_LONGEST_LIST], columns_in_order(content)) + _cut(content)
        return escape(", ".join(map(str, content[:_LONGEST_LIST]))) + _cut(content)
    if isinstance(content, bool):
        return "yes" if content else "no"
    return escape(cell("", content))


def columns_in_order(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows' own keys, in the order they come."""
    return list(dict.fromkeys(str(key) for row in rows for key in row))


def duration(seconds: float) -> str:
    """ "42 s", "3 min 20 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _cut(content: Sequence[Any]) -> str:
    return f" … ({len(content)} in all)" if len(content) > _LONGEST_LIST else ""
