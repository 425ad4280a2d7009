"""report.html: one page with all that a run says, styles and scripts inside, so that it works offline."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from potstill.files import write_text
from potstill.report.elements import (
    columns_in_order,
    document,
    duration,
    figure,
    folded,
    note,
    pair,
    section,
    table,
    tree,
)
from potstill.report.errors import errors, interval_table
from potstill.report.folder import RecordedRun, StageFolder
from potstill.report.table import cell, columns_of, headline, is_number, rows_of


def write_report(folder: Path) -> Path:
    """Writes `report.html` into a run folder, from whatever is there, and returns its path.

    What is missing or cannot be read is named on the page.
    Raises: UserError where there is no such folder; DiskError where it must not be written.
    """
    target = Path(folder) / "report.html"
    write_text(target, page(RecordedRun(Path(folder))))
    return target


def page(run: RecordedRun) -> str:
    """The whole page."""
    sections = [
        _models(run),
        _quality(run),
        _stages(run),
        *_errors(run),
        _exports(run),
        section("Recipe", f"<pre>{escape(run.recipe_text)}</pre>\n" if run.recipe_text else ""),
        section("Environment", tree(run.environment) if run.environment else ""),
    ]
    return document(run.name, _lead(run), [*sections, _missing(run)])


def _lead(run: RecordedRun) -> str:
    seconds: Any = run.result.get("seconds")
    parts = [
        str(run.environment.get("date", "")),
        f"{len(run.stages)} stage{'' if len(run.stages) == 1 else 's'}",
        duration(seconds) if is_number(seconds) else "",
        f"seed {run.recipe['seed']}" if "seed" in run.recipe else "",
        str(run.environment.get("device", "")),
    ]
    return " · ".join(part for part in parts if part)


def _models(run: RecordedRun) -> str:
    rows = rows_of(run)
    if not rows:
        return section("Models", "<p>No model is finished yet.</p>\n")
    short, every = columns_of(rows, headline(run.metric)), columns_of(rows)
    more = folded("All metrics", table(rows, every)) if short != every else ""
    told = note("Metrics are those on the validation rows, “test …” those on the test rows.")
    return section("Models", table(rows, short) + told + interval_table(run.details) + more)


def _quality(run: RecordedRun) -> str:
    from potstill.report.quality import NOTE, picture, points

    found = picture(points(run), run.metric)
    return (
        section(found[0], figure(found[1], "quality") + note(f"A colour is a model with its exported forms. {NOTE}"))
        if found
        else ""
    )


def _stages(run: RecordedRun) -> str:
    return section("Training", "".join(_stage(stage, number, run.metric) for number, stage in enumerate(run.stages, 1)))


def _stage(stage: StageFolder, number: int, metric: str | None) -> str:
    from potstill.report.curves import loss_curves, metric_curves

    losses, metrics = loss_curves(stage), metric_curves(stage, headline(metric))
    figures = [
        figure(curves, f"{kind}-{number}") if curves else note(f"No {what} was logged.")
        for curves, kind, what in ((losses, "loss", "loss"), (metrics, "metric", "evaluation"))
    ]
    return f"<h3>{number} {escape(stage.name)}</h3>\n{_stage_facts(stage)}{pair(figures)}"


def _errors(run: RecordedRun) -> list[str]:
    """Where the models err: on the validation rows, and folded on the test rows."""
    found = {split: errors(run.details, split) for split in ("validation", "test")}
    if found["validation"] and found["test"]:
        return [
            section("Errors on the validation rows", found["validation"] + folded("On the test rows", found["test"]))
        ]
    return [section(f"Errors on the {split} rows", body) for split, body in found.items()]


def _stage_facts(stage: StageFolder) -> str:
    result = stage.result
    if not result:
        return note("This stage has not ended.")
    best = result.get("best") or {}
    facts = [
        f"trains the {result['trains']}" if result.get("trains") else "",
        f"plugins {cell('plugins', result['plugins'])}" if result.get("plugins") else "no plugins",
        f"{result['updates']:,} updates" if is_number(result.get("updates")) else "",
        f"{result['rows']:,} rows" if is_number(result.get("rows")) else "",
        duration(result["seconds"]) if is_number(result.get("seconds")) else "",
        f"best at update {best['update']:,}" if is_number(best.get("update")) else "",
        f"kept the {result['kept']}" if result.get("kept") else "",
    ]
    return f"<p>{escape(' · '.join(fact for fact in facts if fact))}</p>\n"


def _exports(run: RecordedRun) -> str:
    parts = [f"<h3>{escape(name)}</h3>\n{_export(content['facts'])}" for name, content in run.exports.items()]
    return section("Exports and parity", "".join(parts))


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
    return f"{lead}{overview}{table(every, columns(every))}{note(line)}"


def _missing(run: RecordedRun) -> str:
    lines = "".join(f"<li>{escape(sentence)}</li>\n" for sentence in dict.fromkeys(run.missing))
    return section("Missing", f"<ul>\n{lines}</ul>\n" if lines else "")
