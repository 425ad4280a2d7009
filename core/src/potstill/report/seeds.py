"""Runs that differ by their seeds alone: which these are, and what their metrics say together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, stdev
from typing import Any

from potstill.recipe import Recipe, plain
from potstill.report.folder import RecordedRun
from potstill.report.table import SIZES, cell, columns_of, is_number, rows_of

HOW = "mean ± the sample's standard deviation over seeds, with Student's 95 % interval of the mean"


@dataclass(frozen=True)
class Spread:
    """One metric over several seeds.

    Attributes:
        count: of models; a teacher that all runs share is one.
        deviation: the sample's, n - 1; None of one model.
        low, high: Student's 95 % interval of the mean; None of one model.
    """

    count: int
    mean: float
    deviation: float | None = None
    low: float | None = None
    high: float | None = None

    def shown(self, metric: str) -> str:
        """ "0.6612 ± 0.0031 (0.6535 to 0.6689)", or the number alone."""
        if self.deviation is None:
            return cell(metric, self.mean)
        mean, deviation, low, high = (cell(metric, value) for value in (self.mean, self.deviation, self.low, self.high))
        return f"{mean} ± {deviation} ({low} to {high})"


def spread(values: Sequence[float]) -> Spread:
    """The spread of at least one value."""
    if len(values) < 2:
        return Spread(1, float(values[0]))
    from scipy.stats import t

    middle, deviation = mean(values), stdev(values)
    half = float(t.ppf(0.975, len(values) - 1)) * deviation / sqrt(len(values))
    return Spread(len(values), middle, deviation, middle - half, middle + half)


def by_seed(recipes: Mapping[str, Recipe], data: Mapping[str, Any]) -> list[list[str]]:
    """The names of runs in groups whose recipes differ by name and seeds alone, in the order they come.

    Args:
        data: by the run's name, what tells its rows from other rows; runs of one group read the same.

    Returns: of runs with the same seeds the first, since a repetition is no other seed.
    """
    groups: dict[str, dict[tuple[int, ...], str]] = {}
    for name, recipe in recipes.items():
        alike = f"{_without_seeds(recipe)} {data.get(name)}"
        groups.setdefault(alike, {}).setdefault(_seeds(recipe), name)
    return [list(group.values()) for group in groups.values()]


def spreads(runs: Mapping[str, RecordedRun]) -> dict[str, dict[str, Spread]]:
    """Of each model of a group of runs, every metric and measured number over the seeds."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, run in runs.items():
        keys = {stage: folder.result.get("key") or name for stage, folder in run.finished_stages.items()}
        for row in rows_of(run):
            model = str(row.get("model", "?"))
            for metric, value in row.items():
                if is_number(value):
                    # Models of one key are one model, such as a teacher that a sweep trained once or that came trained.
                    found.setdefault(model, {}).setdefault(metric, {})[keys.get(run.origin(model), "")] = value
    return {
        model: {metric: spread(list(values.values())) for metric, values in metrics.items()}
        for model, metrics in found.items()
    }


def seed_rows(
    groups: Mapping[str, Mapping[str, Mapping[str, Spread]]], headline: Sequence[str]
) -> list[dict[str, Any]]:
    """A row a model of each group, with its metrics as `Spread.shown`.

    Args:
        groups: what `spreads` gives, by the group's name.
        headline: the metrics that are shown, where any is there.
    """
    rows: list[dict[str, Any]] = []
    for group, models in groups.items():
        for model, metrics in models.items():
            wanted = [name for name in columns_of([metrics], headline) if name not in SIZES]
            count = max((metrics[name].count for name in wanted), default=1)
            rows.append({"runs": group, "model": model, "seeds": count})
            rows[-1] |= {name: metrics[name].shown(name) for name in wanted}
    return rows


def _seeds(recipe: Recipe) -> tuple[int, ...]:
    """The seed of each stage."""
    return tuple(recipe.seed if plan.seed is None else plan.seed for plan in recipe.stages)


def _without_seeds(recipe: Recipe) -> str:
    tables = plain(recipe)
    stages = [{key: value for key, value in stage.items() if key != "seed"} for stage in tables.pop("stage")]
    rest = {key: value for key, value in tables.items() if key not in ("name", "seed")}
    return json.dumps([rest, stages], sort_keys=True, default=str)
