"""A suite's table as papers print it: points of a hundred, mean ± deviation over seeds, and the tasks' average."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from potstill.report.table import heading, markdown
from potstill.suite.tasks import AVERAGE
from potstill.tasks import LOWER_IS_BETTER

_CONSTANT, _SETTING = "one answer for all", "best setting"
_VERDICT = ("difference", "95 % over rows", "p over seeds", "verdict")
_OWN = ("task", "metric", _CONSTANT, _SETTING, *_VERDICT)
Found = Mapping[str, Any]
"""What `run_suite` gives."""


def score_rows(suites: Sequence[Found]) -> list[dict[str, Any]]:
    """One row a task and one for the average; beside the task its metrics, then a column for each model.

    The deviation is the sample's (n - 1) over the seeds; with one seed the number stands alone. Where tasks tell what
    one answer for all rows scores, and where a setting was chosen among several, a column says so. A task whose data is
    absent is in no average, and has a row that says so.
    """
    rows = [_row(suites, name) for name in dict.fromkeys(name for suite in suites for name in suite["tasks"])]
    averages = {model_column(suite): points(list(by_seed(suite).values())) for suite in suites}
    return [*rows, {"task": AVERAGE, "metric": "", **averages}]


def score_table(suites: Sequence[Found]) -> str:
    """`score_rows` in Markdown."""
    rows = score_rows(suites)
    return markdown(rows, table_columns(rows), names=list(map(model_column, suites)))


def _row(suites: Sequence[Found], name: str) -> dict[str, Any]:
    done = {model_column(suite): suite["tasks"].get(name, {}) for suite in suites}
    ran = {column: task for column, task in done.items() if "runs" in task}
    if not ran:
        return {"task": name, "metric": "", **dict.fromkeys(done, "left out")}
    metrics = next(iter(ran.values()))["metrics"]
    row: dict[str, Any] = {"task": name, "metric": " / ".join(map(heading, metrics))}
    row |= {column: _cell(task) if column in ran else None for column, task in done.items()}
    constant: Mapping[str, float] = next((task["constant"] for task in ran.values() if task.get("constant")), {})
    row |= {_CONSTANT: _constant(metrics, constant)} if constant else {}
    chosen = {column: _settings(task["settings"]) for column, task in ran.items() if task.get("settings")}
    if len(set(chosen.values())) > 1:
        chosen = {column: f"{column}: {setting}" for column, setting in chosen.items()}
    return row | ({_SETTING: "; ".join(dict.fromkeys(chosen.values()))} if chosen else {})


def model_column(suite: Found) -> str:
    """The model's name, which may be that of another column."""
    return f"model {suite['name']}" if suite["name"] in _OWN else str(suite["name"])


def verdict_rows(suites: Sequence[Found], comparisons: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """`score_rows` of suites, with what `compare` found of the first against each of the others beside them.

    Of one other: difference, interval, p-value and verdict; of several, difference and verdict in a column each.
    """
    found = [{**comparison["tasks"], AVERAGE: comparison["average"]} for comparison in comparisons]
    lower = {name for name, task in suites[0]["tasks"].items() if task.get("metrics", [""])[0] in LOWER_IS_BETTER}
    rows = []
    for row in score_rows(suites):
        judged = [own[row["task"]] for own in found if own.get(row["task"]) is not None]
        scale = 1 if row["task"] in lower else 100
        if len(judged) < len(found):
            continue
        if len(judged) == 1:
            rows.append(row | _verdict(judged[0], scale))
        else:
            others = [f"against {model_column(suite)}" for suite in suites[1:]]
            rows.append(row | dict(zip(others, [_short(own, scale) for own in judged], strict=True)))
    return rows


def _short(found: Mapping[str, Any], scale: float) -> str:
    return f"{scale * found['difference']:+.2f} {found['verdict']}"


def _verdict(found: Mapping[str, Any], scale: float) -> dict[str, Any]:
    ends = found["rows"]
    cells = (
        f"{scale * found['difference']:+.2f}",
        None if ends is None else f"{scale * ends[0]:+.2f} … {scale * ends[1]:+.2f}",
        None if found["seeds"] is None else f"{found['seeds']['p']:.3f}",
        found["verdict"],
    )
    return dict(zip(_VERDICT, cells, strict=True))


def by_seed(suite: Found) -> dict[Any, float]:
    """The average over the tasks, by seed; {} where the tasks' seeds differ, or less of a metric is better.

    A task with several metrics counts with their mean, as on GLUE's leaderboard.
    """
    tasks = [task for task in suite["tasks"].values() if "runs" in task]
    seeds = [[run["seed"] for run in task["runs"]] for task in tasks]
    if any(own != seeds[0] for own in seeds) or any(
        metric in LOWER_IS_BETTER for task in tasks for metric in task["metrics"]
    ):
        return {}
    return {seed: mean(of_run(task, number) for task in tasks) for number, seed in enumerate(seeds[0])}


def points(values: Sequence[float]) -> str | None:
    """ "83.20 ± 0.41": a hundred times the mean, and the sample's deviation."""
    return _told([100 * value for value in values]) if values else None


def of_run(task: Mapping[str, Any], number: int) -> float:
    return float(mean(task["runs"][number][metric] for metric in task["metrics"]))


def _cell(task: Mapping[str, Any]) -> str:
    return " / ".join(_metric(metric, [run[metric] for run in task["runs"]]) for metric in task["metrics"])


def _constant(metrics: Sequence[str], found: Mapping[str, float]) -> str:
    return " / ".join(_metric(metric, [found[metric]]) if metric in found else "–" for metric in metrics)


def _metric(name: str, values: Sequence[float]) -> str:
    return _told(values, 4) if name in LOWER_IS_BETTER else _told([100 * value for value in values])


def _told(values: Sequence[float], digits: int = 2) -> str:
    if not all(map(math.isfinite, values)):
        return "nan"  # such as a correlation of predictions that are all alike, with one of the seeds
    return f"{mean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.split('.')[-1]} {value}" for key, value in settings.items())


def table_columns(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The columns that some row has, in order."""
    return list(dict.fromkeys(key for row in rows for key in row))
