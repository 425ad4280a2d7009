"""The page of a comparison: what differs, the tables, and every curve and picture of several runs in one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from html import escape
from pathlib import Path

from potstill.errors import UserError
from potstill.files import write_text
from potstill.report.comparison import Comparison
from potstill.report.elements import document, folded, note, section, table, with_legend
from potstill.report.errors import errors, interval_table
from potstill.report.folder import BySplit, RecordedRun, StageFolder
from potstill.report.seeds import HOW, seed_rows
from potstill.report.table import METRICS, columns_of, headline

_LISTED = 12
"""So many differences stand in the open."""
_OVERLAID = 4
"""So many metrics of a stage have a figure."""


def write_comparison(found: Comparison, target: Path) -> Path:
    """Writes the page and returns its path.

    Raises: UserError where it names no file or there is no such folder; DiskError where it must not be written.
    """
    if not target.name:
        raise UserError(f"--html: '{target}' names no file; give one such as runs.html.")
    if not target.absolute().parent.is_dir():
        raise UserError(f"--html: there is no folder '{target.parent}'.")
    write_text(target, page(found))
    return target


def page(found: Comparison) -> str:
    """The whole page."""
    sections = [
        _differences(found),
        _models(found),
        _seeds(found),
        _quality(found),
        *_curves(found),
        *_errors(found),
        _missing(found),
    ]
    return document(" · ".join(found.runs), f"{len(found.runs)} runs beside each other", sections)


def _differences(found: Comparison) -> str:
    first = next(iter(found.runs))
    body = "".join(note(sentence) for sentence in found.notes)
    for name, lines in found.differences.items():
        body += f"<h3>{escape(first)} → {escape(name)}</h3>\n{_listed(lines[:_LISTED] or ['the same recipe'])}"
        body += folded(f"{len(lines) - _LISTED} more", _listed(lines[_LISTED:])) if len(lines) > _LISTED else ""
    return section("What differs", body)


def _listed(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>\n" for line in lines)
    return f"<ul>\n{items}</ul>\n" if items else ""


def _models(found: Comparison) -> str:
    plain = [{key: value for key, value in row.items() if key != "run"} for row in found.rows]
    short, every = columns_of(plain, headline(found.metric)), columns_of(plain)
    more = folded("All metrics", table(found.rows, ["run", *every])) if short != every else ""
    intervals = {
        f"{name}: {model}": tables for name, run in found.runs.items() for model, tables in run.details.items()
    }
    body = folded("Intervals", interval_table(intervals)) if any(intervals.values()) else ""
    return section("Models", table(found.rows, ["run", *short]) + more + body)


def _seeds(found: Comparison) -> str:
    from potstill.report.overlaid import seeds

    if not found.seeds:
        return ""
    rows = seed_rows(found.seeds, headline(found.metric))
    columns = list(dict.fromkeys(column for row in rows for column in row))
    drawn = seeds(found.seeds, found.metric)
    return section(
        "Over seeds", table(rows, columns) + note(f"{HOW}.") + (with_legend({"seeds": drawn}) if drawn else "")
    )


def _quality(found: Comparison) -> str:
    from potstill.report.quality import NOTE, picture, points

    every = [replace(point, run=name) for name, run in found.runs.items() for point in points(run)]
    drawn = picture(every, found.metric)
    told = note(f"A colour is a run. {NOTE}")
    return section(drawn[0], with_legend({"quality": drawn[1]}) + told) if drawn else ""


def _curves(found: Comparison) -> Iterable[str]:
    """A section a stage: the loss, its terms and the metrics, a line a run."""
    from potstill.report.overlaid import overlaid

    names = dict.fromkeys(stage.name for run in found.runs.values() for stage in run.stages)
    for number, name in enumerate(names, start=1):
        stages = {run: stage for run, folder in found.runs.items() for stage in folder.stages if stage.name == name}
        figures = {
            f"{kind}-{number}-{place}": overlaid(stages, kind, series)
            for place, (kind, series) in enumerate(_series(stages, found.metric))
        }
        yield section(f"Training: {name}", with_legend(figures) if figures else "")


def _series(stages: Mapping[str, StageFolder], metric: str | None) -> list[tuple[str, str]]:
    """What has a figure: ("loss", ""), ("term", name), ("metric", name)."""
    lines = [line for stage in stages.values() for line in stage.losses]
    terms = list(dict.fromkeys(name for line in lines for name in line.get("terms") or {}))
    scores = [line["evaluation"] for stage in stages.values() for line in stage.evaluations]
    measured = dict.fromkeys(name for score in scores for name in score)
    first = dict.fromkeys(name for name in (metric, *METRICS, *measured) if name in measured and name != "loss")
    wanted = [name for name in first if name in headline(metric)] or list(first)
    parts = [("loss", "")] if lines else []
    parts += [("term", name) for name in terms] if len(terms) > 1 else []
    return parts + [("metric", str(name)) for name in wanted[:_OVERLAID]]


def _errors(found: Comparison) -> list[str]:
    """Where the runs' students err, each under its run's name."""
    models = {name: tables for name, run in found.runs.items() if (tables := _of_student(run))}
    bodies = {split: errors(models, split) for split in ("validation", "test")}
    return [section(f"Errors of the students on the {split} rows", body) for split, body in bodies.items()]


def _of_student(run: RecordedRun) -> BySplit:
    """The tables of the run's last student that has any."""
    trained = [stage for stage in run.stages if stage.result.get("trains") == "student" and stage.details.get("model")]
    named = [stage for stage in trained if stage.name == run.result.get("student")]
    return (named or trained)[-1].details["model"] if trained else {}


def _missing(found: Comparison) -> str:
    lines = [f"{name}: {sentence}" for name, run in found.runs.items() for sentence in dict.fromkeys(run.missing)]
    return section("Missing", _listed(lines))
