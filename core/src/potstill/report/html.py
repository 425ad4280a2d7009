"""report.html: one page with all that a run says, styles and scripts inside, so that it works offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.files import write_text
from potstill.report.folder import RecordedRun, StageFolder
from potstill.report.table import cell, columns_of, heading, headline, is_number, rows_of

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_LONGEST_LIST = 12


def write_report(folder: Path) -> Path:
    """Writes `report.html` into a run folder, from whatever is there, and returns its path.

    What is missing or cannot be read is named on the page. Raises: UserError where there is no such folder.
    """
    target = Path(folder) / "report.html"
    write_text(target, page(RecordedRun(Path(folder))))
    return target


def page(run: RecordedRun) -> str:
    """The whole page."""
    from plotly.offline import get_plotlyjs

    sections = [
        _models(run),
        _pictures(run),
        _stages(run),
        _exports(run),
        _recipe(run),
        _environment(run),
        _missing(run),
    ]
    name = escape(run.name)
    style, script = ((files("potstill.report") / name).read_text("utf-8") for name in ("style.css", "script.js"))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name} – potstill</title>\n<style>\n{style}</style>\n<script>{get_plotlyjs()}</script>\n</head>\n"
        f"<body>\n<header>\n<h1>{name}</h1>\n{_lead(run)}</header>\n<main>\n{''.join(sections)}</main>\n"
        f"<script>\n{script}</script>\n</body>\n</html>\n"
    )


def _lead(run: RecordedRun) -> str:
    seconds: Any = run.result.get("seconds")
    parts = [
        str(run.environment.get("date", "")),
        f"{len(run.stages)} stage{'' if len(run.stages) == 1 else 's'}",
        duration(seconds) if is_number(seconds) else "",
        f"seed {run.recipe['seed']}" if "seed" in run.recipe else "",
        str(run.environment.get("device", "")),
    ]
    return f"<p>{escape(' · '.join(part for part in parts if part))}</p>\n"


def _models(run: RecordedRun) -> str:
    rows = rows_of(run)
    if not rows:
        return _section("Models", "<p>No model is finished yet.</p>\n")
    note = "<p class='note'>Metrics are those on the validation rows, “test …” those on the test rows.</p>\n"
    short, every = columns_of(rows, headline(_metric(run))), columns_of(rows)
    more = f"<details><summary>All metrics</summary>\n{table(rows, every)}</details>\n" if short != every else ""
    return _section("Models", table(rows, short) + note + more)


def _pictures(run: RecordedRun) -> str:
    from potstill.report.curves import quality_picture

    picture = quality_picture(rows_of(run), _metric(run))
    return _section(picture[0], _figure(picture[1], "quality")) if picture else ""


def _stages(run: RecordedRun) -> str:
    parts = [_stage(stage, number, _metric(run)) for number, stage in enumerate(run.stages, 1)]
    return _section("Training", "".join(parts)) if parts else ""


def _stage(stage: StageFolder, number: int, metric: str | None) -> str:
    from potstill.report.curves import loss_curves, metric_curves

    losses, metrics = loss_curves(stage), metric_curves(stage, headline(metric))
    figures = [
        _figure(figure, f"{kind}-{number}") if figure else f"<p class='note'>No {what} was logged.</p>\n"
        for figure, kind, what in ((losses, "loss", "loss"), (metrics, "metric", "evaluation"))
    ]
    return (
        f"<h3>{number} {escape(stage.name)}</h3>\n{_stage_facts(stage)}<div class='pair'>\n{''.join(figures)}</div>\n"
    )


def _stage_facts(stage: StageFolder) -> str:
    result = stage.result
    if not result:
        return "<p class='note'>This stage has not ended.</p>\n"
    best = result.get("best") or {}
    facts = [
        f"trains the {result['trains']}" if result.get("trains") else "",
        f"plugins {', '.join(result['plugins'])}" if result.get("plugins") else "no plugins",
        f"{result['updates']:,} updates" if is_number(result.get("updates")) else "",
        f"{result['rows']:,} rows" if is_number(result.get("rows")) else "",
        duration(result["seconds"]) if is_number(result.get("seconds")) else "",
        f"best at update {best['update']:,}" if is_number(best.get("update")) else "",
        f"kept the {result['kept']}" if result.get("kept") else "",
    ]
    return f"<p>{escape(' · '.join(fact for fact in facts if fact))}</p>\n"


def _exports(run: RecordedRun) -> str:
    parts = [f"<h3>{escape(name)}</h3>\n{_export(content['facts'])}" for name, content in run.exports.items()]
    return _section("Exports and parity", "".join(parts)) if parts else ""


def _export(facts: Mapping[str, Any]) -> str:
    latency = _latency(facts.get("timing"))
    rest = {key: value for key, value in facts.items() if key != "timing"} if latency else facts
    return latency + tree(rest)


def _latency(records: Any) -> str:
    """What `potstill.timing.records` gave, as tables; nothing where it is something else or damaged."""
    from potstill.report.latency import cells, columns, grid
    from potstill.timing import Timing, conditions

    try:
        every, shapes = cells(records), grid(records)
        line = conditions([Timing.of(record) for record in records])
    except (KeyError, TypeError, IndexError, ZeroDivisionError):
        return ""
    overview = table(shapes, columns_in_order(shapes)) if len(columns_in_order(shapes)) > 2 else ""
    lead = "<p>p50 in ms by batch size × tokens a row, and the speed-up over the first model:</p>\n" if overview else ""
    return f"{lead}{overview}{table(every, columns(every))}<p class='note'>{escape(line)}</p>\n"


def _recipe(run: RecordedRun) -> str:
    text = run.recipe_text
    return _section("Recipe", f"<pre>{escape(text)}</pre>\n") if text else ""


def _environment(run: RecordedRun) -> str:
    return _section("Environment", tree(run.environment)) if run.environment else ""


def _missing(run: RecordedRun) -> str:
    lines = "".join(f"<li>{escape(sentence)}</li>\n" for sentence in dict.fromkeys(run.missing))
    return _section("Missing", f"<ul>\n{lines}</ul>\n") if lines else ""


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Rows as an HTML table; numbers stand to the right."""
    numbers = {column for column in columns if any(is_number(row.get(column)) for row in rows)}
    kinds = {column: " class='number'" if column in numbers else "" for column in columns}
    heads = "".join(f"<th{kinds[column]}>{escape(heading(column))}</th>" for column in columns)
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


def _section(title: str, body: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}</section>\n"


def _figure(figure: Figure, name: str) -> str:
    from plotly.io import to_html

    html: str = to_html(
        figure,
        full_html=False,
        include_plotlyjs=False,
        div_id=name,
        config={"displayModeBar": False, "responsive": True},
    )
    return f"<div class='figure'>{html}</div>\n"


def _metric(run: RecordedRun) -> str | None:
    task = run.recipe.get("task")
    metric = task.get("metric") if isinstance(task, dict) else None
    return metric if isinstance(metric, str) else None
