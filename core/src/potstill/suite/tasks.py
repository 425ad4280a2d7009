"""A suite's tasks, from suite files and from recipes.

A suite is a TOML file: `[recipe]` holds what every task's recipe starts from, and each `[tasks.NAME]` the tables that
this task has otherwise, with two keys of its own: `metrics`, which its column shows and whose first one chooses, and
`hub`, keys of `[data]` that hold where no --data-root is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from potstill import recipe as recipes
from potstill.complaints import validated
from potstill.context import cache_folder
from potstill.data.source import Source, open_source
from potstill.errors import AbsentDataError, RecipeError, UserError, did_you_mean
from potstill.recipes import SUITES, shipped
from potstill.settings import Settings, Strings, Table
from potstill.tasks import LOWER_IS_BETTER, load_task, task_class
from potstill.tasks.columns import columns_of
from potstill.tasks.names import label_names

TASKS = "tasks"
ENCODER = "encoder"
"""The folder beside those of the tasks, with what all of them start from."""
AVERAGE = "average"
"""The row below those of the tasks."""
_GIVEN = {"student": "the encoder of --model", "teacher": "a model of --teacher"}


class SuiteFile(Settings):
    """A whole suite file."""

    name: str | None = None
    """For readers; folders go by the file's name."""
    recipe: Table = Field(default_factory=dict)
    """What every task's recipe starts from."""
    tasks: dict[str, Table] = Field(min_length=1)
    """By name, the tables of each task's recipe that are its own, and its keys `metrics` and `hub`."""


class TaskKeys(Settings):
    """What a task of a suite says beside the tables of its recipe."""

    metrics: Strings = ()
    """What is shown of the task; the first one chooses among epochs and settings."""
    hub: Table = Field(default_factory=dict)
    """Keys of [data] where no --data-root is given, such as train = "nyu-mll/glue:cola::train"."""


@dataclass(frozen=True)
class SuiteTask:
    """One task.

    Attributes:
        recipe: tables of a recipe, whose student is yet to come.
        metrics: what is shown; the first one chooses.
        root: where the recipe's paths stand.
    """

    name: str
    recipe: dict[str, Any]
    metrics: tuple[str, ...]
    root: Path


def suite_tasks(
    words: Sequence[str],
    data_root: Path | None,
    *,
    only: Sequence[str] = (),
    plugins: Sequence[str] = (),
    settings: Sequence[str] = (),
) -> list[SuiteTask]:
    """The tasks that the words of a command name, in order.

    Args:
        words: names of suites that ship with potstill or a plugin, suite files, and recipes.
        data_root: where paths stand; each file's folder where it is left out, and the hub for suites that say so.
        only: names of the tasks that are meant; all where there is none.
        plugins, settings: changes to each recipe, as after `-p` and `--set`.

    Raises: RecipeError for a file that cannot be, a task that is named twice, or a metric that its kind has not.
    """
    found = [task for word in words for task in _tasks(word, data_root)]
    names = [task.name for task in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RecipeError(f"Two tasks are called '{twice}'; give one of them another name.")
    taken = next((name for name in (ENCODER, AVERAGE) if name in names), None)
    if taken is not None:
        raise RecipeError(
            f"A task cannot be called '{taken}', as a folder or row beside the tasks' is; give it another name."
        )
    unknown = next((name for name in only if name not in names), None)
    if unknown is not None:
        raise UserError(f"There is no task '{unknown}'; there are {', '.join(names)}.{did_you_mean(unknown, names)}")
    return [_changed(task, plugins, settings) for task in found if not only or task.name in only]


def with_student(task: SuiteTask, encoder: Path) -> dict[str, Any]:
    """The task's recipe with the encoder as its student."""
    return {**task.recipe, "student": as_table(encoder)}


def as_table(folder: Path) -> dict[str, str]:
    """A model's folder as the table of a teacher or a student."""
    return {"model": str(folder.absolute())}


def absence(task: SuiteTask) -> str | None:
    """Why the task's data is not there; None where it is.

    Raises: DataError where it is there, and cannot be used; RecipeError for a metric that its labels do not have.
    """
    parsed = recipes.parse(task.recipe, task.name)
    for split in ("train", "validation"):
        if getattr(parsed.data, split) is None:
            raise RecipeError(f"The task '{task.name}' of the suite names no data.{split}; it needs both.")
    if parsed.data.corpus is not None:  # running text, which has no labels
        return None
    try:
        train, _ = _opened(parsed, task.root, "train"), _opened(parsed, task.root, "validation")
    except AbsentDataError as error:
        return str(error)
    names = label_names(parsed.task, task.root, train.labels(), train.label_names)
    for metric in task.metrics:
        load_task(parsed.task.model_copy(update={"metric": metric}), names or None)
    return None


def _opened(recipe: recipes.Recipe, root: Path, split: str) -> Source:
    kind, data = task_class(recipe.task.kind), recipe.data
    columns = columns_of(data, kind)
    rows = getattr(data, f"{split}_rows")
    return open_source(getattr(data, split), columns, root, rows, f"data.{split}", cache_folder(), kind.shapes)


def _tasks(word: str, data_root: Path | None) -> list[SuiteTask]:
    path, is_shipped = _file(word)
    tables = recipes.read(path, "suite")
    root = data_root or (Path.cwd() if is_shipped else path.absolute().parent)
    if TASKS not in tables:
        return [_of_recipe(tables, str(path), root)]
    suite = validated(SuiteFile, tables, lambda _: f"suite '{path}': ")
    return [
        _of_suite(name, suite.recipe, own, f"suite '{path}'", root, hub=data_root is None)
        for name, own in suite.tasks.items()
    ]


def _file(word: str) -> tuple[Path, bool]:
    """The file that a word means, and whether it came with a package."""
    known = {suite.name: suite.path for suite in shipped(SUITES)}
    path = Path(word).expanduser()
    if path.is_file() or word not in known:
        if not path.exists() and not path.suffix:
            near = did_you_mean(word, known)
            raise UserError(f"There is no suite '{word}'; there are {', '.join(known)}, and files in TOML.{near}")
        return path, False
    return known[word], True


def _of_suite(
    name: str, shared: Mapping[str, Any], own: Mapping[str, Any], where: str, root: Path, *, hub: bool
) -> SuiteTask:
    said = {key: own[key] for key in TaskKeys.model_fields if key in own}
    keys = validated(TaskKeys, said, lambda _: f"{where}, task '{name}': ")
    tables = _merged(shared, {key: value for key, value in own.items() if key not in said})
    tables = _merged(tables, {"data": keys.hub} if hub and keys.hub else {})
    first = {"metric": keys.metrics[0]} if keys.metrics else {}
    tables = {**tables, "name": name, "task": {**first, **tables.get("task", {})}}
    return _checked(name, tables, keys.metrics, f"{where}, task '{name}'", root)


def _of_recipe(tables: dict[str, Any], where: str, root: Path) -> SuiteTask:
    return _checked(str(tables["name"]), tables, (), where, root)


def _checked(name: str, tables: dict[str, Any], metrics: tuple[str, ...], where: str, root: Path) -> SuiteTask:
    parsed = recipes.parse(tables, where)
    kind = task_class(parsed.task.kind)
    wanted = metrics or (parsed.task.metric or kind.default_metric,)
    for metric in wanted:
        if metric not in (*kind.metrics, "loss"):
            raise RecipeError(
                f"{where}: the task '{parsed.task.kind}' has no metric '{metric}'; it has {', '.join(kind.metrics)}."
                f"{did_you_mean(metric, kind.metrics)}"
            )
    less = [metric for metric in wanted if metric in LOWER_IS_BETTER]
    if less and len(less) < len(wanted):
        more = next(metric for metric in wanted if metric not in less)
        raise RecipeError(
            f"{where}: less of '{less[0]}' is better and more of '{more}', and a task counts with the mean of its "
            "metrics; name metrics of one kind."
        )
    return SuiteTask(name, tables, wanted, root)


def check_keys(keys: Iterable[str], option: str, table: str = "student") -> None:
    """Raises: UserError for a key of the table "student" or "teacher", which the command gives by itself."""
    own = next((key for key in keys if key.split(".")[0] == table), None)
    if own is not None:
        raise UserError(f"{option} {own}: in a suite the {table} is {_GIVEN[table]}; leave '{own}' out.")


def keys_of(settings: Iterable[str]) -> list[str]:
    """The keys of what stands after `--set`."""
    return [setting.partition("=")[0].strip() for setting in settings]


def _changed(task: SuiteTask, plugins: Sequence[str], settings: Sequence[str]) -> SuiteTask:
    check_keys(keys_of(settings), "--set")
    tables = recipes.with_plugins(task.recipe, list(plugins)) if plugins else task.recipe
    tables = recipes.with_overrides(tables, list(settings)) if settings else tables
    recipes.parse(tables, f"task '{task.name}'")
    return SuiteTask(task.name, tables, task.metrics, task.root)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Tables laid over tables; lists and values replace."""
    both = {key: _merged(below[key], above[key]) for key in _tables_of_both(below, above)}
    return {**below, **above, **both}


def _tables_of_both(below: Mapping[str, Any], above: Mapping[str, Any]) -> Iterable[str]:
    return [key for key in above if isinstance(above[key], Mapping) and isinstance(below.get(key), Mapping)]
