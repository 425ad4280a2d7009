"""`potstill suite`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from potstill.cli.compose import model as model_place
from potstill.cli.display import main_process, make_progress
from potstill.cli.options import (
    data_root_option,
    existing_root,
    json_option,
    plugin_option,
    quiet_option,
    set_option,
)
from potstill.cli.output import say_json
from potstill.cli.sweep import parse_grid, parse_seeds
from potstill.errors import UserError

if TYPE_CHECKING:
    from potstill.progress import Progress
    from potstill.suite.tasks import SuiteTask


@click.command
@click.argument("suites", nargs=-1, required=True, metavar="glue|clue|FILE.toml …")
@click.option("--model", required=True, metavar="DIR|HUB-ID", help="The encoder: a run, a model folder, or a hub id.")
@click.option("--against", metavar="DIR|HUB-ID", help="Another encoder: is the first better, on each task?")
@click.option("--teacher", metavar="DIR", help="A suite's folder of one model, which teaches in every task.")
@click.option("--task", "only", multiple=True, metavar="NAME", help="Only this task of them; repeatable.")
@data_root_option
@click.option("--seeds", metavar="1,2,3", help="Seeds that each task runs with. [default: the recipes' own]")
@click.option(
    "--grid",
    "grids",
    multiple=True,
    metavar="KEY=V1,V2,…",
    help="A setting and its values, of which the best on average over the seeds counts; repeatable.",
)
@plugin_option
@set_option
@click.option("--require-all", is_flag=True, help="Refuse a task whose data is absent instead of leaving it out.")
@click.option("--keep-models", is_flag=True, help="Keep every fine-tuned model, not only its scores.")
@click.option("--folder", metavar="DIR", help="Where the runs go. [default: suites/NAME]")
@quiet_option
@json_option
def suite(
    suites: tuple[str, ...],
    model: str,
    against: str | None,
    teacher: str | None,
    only: tuple[str, ...],
    data_root: str | None,
    seeds: str | None,
    grids: tuple[str, ...],
    plugins: tuple[str, ...],
    settings: tuple[str, ...],
    require_all: bool,
    keep_models: bool,
    folder: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Fine-tune and measure one encoder on a list of tasks: glue, clue, your own suite file, or recipes.

    Each task begins with a new head. The same command again goes on where it stopped; what is finished is not run
    again. It ends with one table, mean ± standard deviation over the seeds, and the average of the tasks. Without
    --data-root, glue and clue are read from the hub.

    The fine-tuned models that a suite kept (--keep-models) can teach another one: --teacher names its folder, -p the
    plugin that learns from it. `potstill compare` puts the folders of several suites side by side.

    \b
    Examples:
      potstill suite glue --model runs/student --data-root data --seeds 1,2,3
      potstill suite glue --model runs/student --data-root data --grid stage.tune.learning_rate=2e-5,5e-5 --seeds 1,2,3
      potstill suite glue --model runs/student --against runs/alone --data-root data --seeds 1,2,3
      potstill suite mine.toml mrpc.toml --model bert-base-uncased --set data.train_rows=2000
      potstill suite glue --model runs/student --data-root data --teacher suites/glue/bert -p hinton
    """
    from potstill.suite.running import absent_tasks, prepare_suite, run_suite
    from potstill.suite.tasks import check_keys, keys_of, suite_tasks

    tasks = suite_tasks(suites, existing_root(data_root), only=only, plugins=plugins, settings=settings)
    place = Path(folder) if folder else Path("suites") / "-".join(Path(word).stem for word in suites)
    given = [(model, "--model")] + ([] if against is None else [(against, "--against")])
    models = [model_place(spec, option) for spec, option in given]
    runs: dict[str, Any] = {"grid": parse_grid(grids), "seeds": parse_seeds(seeds)}
    _check_unlike(models)
    named = dict(zip(run_names(models, plugins), models, strict=True))
    if teacher is not None:
        check_keys(keys_of(settings), "--set", "teacher")
        check_keys(runs["grid"], "--grid", "teacher")
    progress = make_progress(quiet)
    absent = absent_tasks(tasks, progress, require_all=require_all)
    tasks = [task for task in tasks if task.name not in absent]
    tasks = tasks if teacher is None else _taught(tasks, teacher)
    for name, spec in list(named.items())[1:]:  # so that its faults, too, are told before anything is trained
        prepare_suite(tasks, spec, folder=place / name, **runs)
    found = [
        run_suite(
            tasks,
            spec,
            **runs,
            folder=place / name,
            name=name,
            absent=absent,
            keep_models=keep_models,
            progress=progress,
        )
        for name, spec in named.items()
    ]
    if not main_process():
        return
    if against is None:
        _show(found[0], place, as_json)
    else:
        _judge(found, place, progress, as_json)


def _taught(tasks: Sequence[SuiteTask], teacher: str) -> list[SuiteTask]:
    from potstill.suite.teachers import fine_tuned, with_teachers

    if not teacher:
        raise UserError("--teacher is empty: name the folder of a suite.")
    return with_teachers(tasks, fine_tuned(Path(teacher).expanduser(), [task.name for task in tasks]))


def _check_unlike(models: Sequence[str]) -> None:
    if len({str(Path(place).resolve()) if Path(place).exists() else place for place in models}) < len(models):
        raise UserError(
            f"--model and --against are both '{models[0]}'; a model is neither better nor worse than itself."
        )


def run_names(models: Sequence[str], plugins: Sequence[str] = ()) -> list[str]:
    """What to call the models' runs: the model, and "+" before each plugin that was added, once."""
    added = "".join(f"+{name}" for name in dict.fromkeys(plugin.partition(":")[0] for plugin in plugins))
    return [f"{name}{added}" for name in told_apart(models)]


def told_apart(places: Sequence[str]) -> list[str]:
    """As much of the ends of different paths as tells them apart, "model" of a run left out."""
    parts = [Path(place.removesuffix("/model")).parts for place in places]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["-".join(part.strip("/") for part in own[-count:]) for own in parts]
        if len(set(names)) == len(names):
            break
    return names


def _show(found: dict[str, Any], place: Path, as_json: bool) -> None:
    from potstill.report.table import print_table
    from potstill.suite.tables import model_column, score_rows, table_columns

    if as_json:
        say_json(found)
        return
    rows = score_rows([found])
    print_table(rows, columns=table_columns(rows), names=[model_column(found)])
    click.echo(f"folder  {place / found['name']}")


def _judge(found: Sequence[dict[str, Any]], place: Path, progress: Progress, as_json: bool) -> None:
    """Two encoders side by side, and which is better; kept beside their folders too."""
    from potstill.files import write_json, write_text
    from potstill.report.table import markdown
    from potstill.suite.tables import model_column, table_columns, verdict_rows
    from potstill.suite.verdict import compare

    first, second = found
    comparison = compare(first, second, place / first["name"], place / second["name"], progress)
    rows = verdict_rows(found, [comparison])
    table = markdown(rows, table_columns(rows), names=[model_column(suite) for suite in found])
    path = place / f"{first['name']}-against-{second['name']}"
    write_json(path.with_name(f"{path.name}.json"), {"suites": found, **comparison})
    write_text(path.with_name(f"{path.name}.md"), f"{table}\n{comparison['method']}\n")
    if as_json:
        say_json({"suites": found, **comparison})
        return
    _tell(found, [comparison])
    click.echo(f"folder  {place}")


def compare_suites(folders: Sequence[Path], as_json: bool) -> None:
    """Suites that ran, side by side, and the first against each of the others.

    Raises: UserError for a folder that is no suite's, and for suites without a task, rows or seeds in common.
    """
    from potstill.suite.kept import read_suite, shared
    from potstill.suite.verdict import compare

    found = [read_suite(folder, "potstill compare") for folder in folders]
    names = told_apart([str(folder.resolve()) for folder in folders])
    suites, left = shared([{**suite, "name": name} for suite, name in zip(found, names, strict=True)])
    progress = make_progress(quiet=as_json)
    for task in left:
        progress.note(f"{task}: left out, as not all of the suites ran it.")
    (first, place), *others = zip(suites, folders, strict=True)
    comparisons = [compare(first, other, place, folder, progress) for other, folder in others]
    if as_json:
        say_json({"suites": suites, "comparisons": dict(zip(names[1:], comparisons, strict=True))})
    else:
        _tell(suites, comparisons)


def _tell(suites: Sequence[dict[str, Any]], comparisons: Sequence[dict[str, Any]]) -> None:
    from potstill.report.table import print_table
    from potstill.suite.tables import model_column, table_columns, verdict_rows

    rows = verdict_rows(suites, comparisons)
    print_table(rows, columns=table_columns(rows), names=[model_column(suite) for suite in suites])
    click.echo(comparisons[0]["method"])
