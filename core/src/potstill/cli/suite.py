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


@click.command
@click.argument("suites", nargs=-1, required=True, metavar="glue|clue|FILE.toml …")
@click.option("--model", required=True, metavar="DIR|HUB-ID", help="The encoder: a run, a model folder, or a hub id.")
@click.option("--against", metavar="DIR|HUB-ID", help="Another encoder: is the first better, on each task?")
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

    \b
    Examples:
      potstill suite glue --model runs/student --data-root data --seeds 1,2,3
      potstill suite glue --model runs/student --data-root data --grid stage.tune.learning_rate=2e-5,5e-5 --seeds 1,2,3
      potstill suite glue --model runs/student --against runs/alone --data-root data --seeds 1,2,3
      potstill suite mine.toml mrpc.toml --model bert-base-uncased --set data.train_rows=2000
    """
    from potstill.suite.running import absent_tasks, prepare_suite, run_suite
    from potstill.suite.tasks import suite_tasks

    tasks = suite_tasks(suites, existing_root(data_root), only=only, plugins=plugins, settings=settings)
    place = Path(folder) if folder else Path("suites") / "-".join(Path(word).stem for word in suites)
    given = [(model, "--model")] + ([] if against is None else [(against, "--against")])
    models = [model_place(spec, option) for spec, option in given]
    runs: dict[str, Any] = {"grid": parse_grid(grids), "seeds": parse_seeds(seeds)}
    named = dict(zip(model_names(models), models, strict=True))
    progress = make_progress(quiet)
    absent = absent_tasks(tasks, progress, require_all=require_all)
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


def model_names(places: Sequence[str]) -> list[str]:
    """What to call models: as much of the ends of their paths as tells them apart, "model" of a run left out.

    Raises: UserError where two are the same.
    """
    if len({str(Path(place).resolve()) if Path(place).exists() else place for place in places}) < len(places):
        raise UserError(
            f"--model and --against are both '{places[0]}'; a model is neither better nor worse than itself."
        )
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
    from potstill.report.table import markdown, print_table
    from potstill.suite.tables import model_column, table_columns, verdict_rows
    from potstill.suite.verdict import compare

    first, second = found
    comparison = compare(first, second, place / first["name"], place / second["name"], progress)
    rows = verdict_rows(found, comparison)
    columns, names = table_columns(rows), [model_column(suite) for suite in found]
    path = place / f"{first['name']}-against-{second['name']}"
    write_json(path.with_name(f"{path.name}.json"), {"suites": found, **comparison})
    write_text(path.with_name(f"{path.name}.md"), f"{markdown(rows, columns, names=names)}\n{comparison['method']}\n")
    if as_json:
        say_json({"suites": found, **comparison})
        return
    print_table(rows, columns=columns, names=names)
    click.echo(comparison["method"])
    click.echo(f"folder  {place}")
