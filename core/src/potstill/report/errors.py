"""Where models err: the tables that a task makes (`potstill.details`), beside each other for several models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from potstill.report.elements import columns_in_order, figure, folded, note, pair, table, with_legend
from potstill.report.folder import BySplit
from potstill.report.table import cell

Rows = list[dict[str, Any]]
Models = Mapping[str, Rows]

_LISTED = 15
"""So many classes stand in the open."""
_DRAWN = ("classes", "mistakes", "lengths", "points", "intervals", "constant")


def errors(models: Mapping[str, BySplit], split: str) -> str:
    """HTML of all tables of all models on one split; "" where there are none."""
    tables = {name: found[split] for name, found in models.items() if found.get(split)}
    names = dict.fromkeys([*_DRAWN, *(name for found in tables.values() for name in found)])
    body = ""
    for name in names:
        having = {model: found[name] for model, found in tables.items() if found.get(name)}
        if having:
            body += _PARTS.get(name, _plain)(having, name, split)
    return body + _confusions(tables, split)


def interval_table(models: Mapping[str, BySplit]) -> str:
    """The intervals of all models on all splits; "" where none has one."""
    rows = [
        {"model": name, "of": f"{split}, {row.get('rows', '?')} rows", **_interval(row, tables.get("constant", ()))}
        for name, splits in models.items()
        for split, tables in splits.items()
        for row in tables.get("intervals", ())
    ]
    told = "Intervals say what other rows of the same kind could have given; other seeds differ beyond that."
    return f"<h3>Intervals</h3>\n{table(rows, columns_in_order(rows))}{note(told)}" if rows else ""


def _interval(row: Mapping[str, Any], constant: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    metric = str(row.get("metric"))
    value, low, high = (cell(metric, row.get(name)) for name in ("value", "low", "high"))
    told = {"metric": metric, "value": value, "interval": f"{low} to {high}", "how": str(row.get("how"))}
    alike = [cell(metric, one.get("value")) for one in constant if one.get("metric") == metric]
    return told | {"one answer for all": alike[0]} if alike else told


def _classes(models: Models, name: str, split: str) -> str:
    from potstill.report.figures import class_scores

    main, rows = class_rows(models)
    columns = columns_in_order(rows)
    named = [column for column in columns if column.startswith("F1 ")]
    listed = table(rows[:_LISTED], columns, named)
    if len(rows) > _LISTED:
        listed += folded(f"All {len(rows)} classes", table(rows, columns, named))
    drawn = with_legend({f"classes-{split}": class_scores(rows, list(models))})
    told = f"Precision, recall and support are of “{main}”, whose worst classes stand first."
    return f"<h3>By class</h3>\n{note(told)}{listed}{drawn}"


def class_rows(models: Models) -> tuple[str, Rows]:
    """The last model's name, and a row a class: its own numbers, then F1 of all models. Its worst stand first."""
    main = list(models)[-1]
    scores: dict[str, dict[str, Any]] = {
        f"F1 {model}" if len(models) > 1 else "f1": {str(row.get("class")): row.get("f1") for row in rows}
        for model, rows in models.items()
    }
    own: Rows = [
        {
            "class": str(row.get("class")),
            "support": row.get("support"),
            "precision": row.get("precision"),
            "recall": row.get("recall"),
        }
        for row in models[main]
    ]
    return main, [row | {column: found.get(str(row["class"])) for column, found in scores.items()} for row in own]


def _confusions(tables: Mapping[str, Mapping[str, Rows]], split: str) -> str:
    """A confusion matrix a model that has classes."""
    from potstill.report.figures import confusion

    drawn = []
    for number, (model, found) in enumerate(tables.items()):
        if found.get("classes") and "mistakes" in found:
            shown, every, matrix = confusion(found["classes"], found["mistakes"])
            title = escape(model) + (
                f", the {shown} of {every} classes with the most mistakes" if shown < every else ""
            )
            drawn.append(f"<div><p>{title}</p>\n{figure(matrix, f'confusion-{split}-{number}')}</div>\n")
    told = "Rows are labels, columns predictions; a cell is the share of the label's rows, green where it is right."
    return f"<h3>Confusion</h3>\n{note(told)}{pair(drawn)}" if drawn else ""


def _lengths(models: Models, name: str, split: str) -> str:
    from potstill.report.figures import lengths

    rows = [{"model": model, **row} for model, found in models.items() for row in found]
    more = folded("All numbers", table(rows, columns_in_order(rows)))
    return f"<h3>By length of the text</h3>\n{with_legend({f'lengths-{split}': lengths(models)})}{more}"


def _points(models: Models, name: str, split: str) -> str:
    from potstill.report.figures import scatter

    told = "Each point is a row, its label to the right and the prediction upwards; the line is where both are equal."
    return f"<h3>Predicted and true values</h3>\n{with_legend({f'points-{split}': scatter(models)})}{note(told)}"


def _plain(models: Models, name: str, split: str) -> str:
    """A table that the report knows nothing of, as it is."""
    rows = [{"model": model, **row} for model, found in models.items() for row in found]
    body = table(rows[:_LISTED], columns_in_order(rows))
    if len(rows) > _LISTED:
        body += folded(f"All {len(rows)} rows", table(rows, columns_in_order(rows)))
    return f"<h3>{escape(name.replace('_', ' ').capitalize())}</h3>\n{body}"


def _elsewhere(models: Models, name: str, split: str) -> str:
    """Nothing: the intervals stand beside the models, the mistakes in the confusion matrix."""
    return ""


_PARTS = {
    "classes": _classes,
    "mistakes": _elsewhere,
    "lengths": _lengths,
    "points": _points,
    "intervals": _elsewhere,
    "constant": _elsewhere,
}
