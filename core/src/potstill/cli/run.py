"""`potstill run`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from potstill.cli.display import main_process, make_progress
from potstill.cli.options import json_option, prepare, quiet_option, recipe_options, track_option
from potstill.cli.output import say_json
from potstill.errors import UserError

if TYPE_CHECKING:
    from potstill.recipe import Recipe
    from potstill.runner import Result


@click.command
@recipe_options
@click.option("--folder", metavar="DIR", help="The run folder. [default: runs/NAME]")
@click.option(
    "--fresh", is_flag=True, help="Remove what an earlier run left in the folder instead of going on with it."
)
@track_option
@quiet_option
@json_option
def run(folder: str | None, fresh: bool, track: tuple[str, ...], quiet: bool, as_json: bool, **options: Any) -> None:
    """Run a recipe: train its stages, measure the models, export the student.

    The same command again goes on where a run stopped. Without a recipe file the options make one;
    --save-recipe keeps it. Paths in a recipe start at --data-root, paths in options at the current folder.

    \b
    Examples:
      potstill run thucnews-bilstm.toml --data-root data --set hinton.temperature=4
      potstill run --teacher bert-sst2 --student-layers 2,4,6 --train a.csv --validation b.csv \\
          --text sentence --label label -p hinton:temperature=2 -p accumulate:batches=4 --export onnx
      accelerate launch --num_processes 2 -m potstill run thucnews-bilstm.toml   (on two GPUs)
      torchrun --nproc-per-node 2 -m potstill run thucnews-bilstm.toml           (two processes on CPUs)
    """
    prepared = prepare(**options)
    target = Path(folder) if folder else Path("runs") / prepared.recipe.name
    if fresh:
        _clear(target)
    progress = make_progress(quiet)
    if _teacher_unused(prepared.recipe):
        progress.note("No stage names a plugin, so the teacher is not used; add one with -p NAME.")

    from potstill import runner

    result = runner.run(prepared.recipe, folder=target, data_root=prepared.data_root, progress=progress, track=track)
    if main_process():
        _show(result, prepared.recipe, as_json)


def _show(result: Result, recipe: Recipe, as_json: bool) -> None:
    from potstill.report.table import columns_of, headline, model_rows, print_table
    from potstill.tasks import task_class

    folder = Path(result.folder)
    rows = model_rows(folder)
    if as_json:
        say_json({"folder": folder, "model": result.model, "metrics": result.metrics, "rows": rows})
        return
    metric = recipe.task.metric or task_class(recipe.task.kind).default_metric
    print_table(rows, columns=columns_of(rows, headline(metric)))
    click.echo(f"model   {result.model}")
    report = folder / "report.html"
    click.echo(f"report  {report}" if report.is_file() else f"folder  {folder}")


def _teacher_unused(recipe: Recipe) -> bool:
    """Whether there is a teacher that nobody trains and no plugin could look at."""
    trained = any(stage.trains == "teacher" for stage in recipe.stages)
    return recipe.teacher is not None and not trained and not any(stage.plugins for stage in recipe.stages)


def _clear(folder: Path) -> None:
    """Removes what an earlier run left in its folder."""
    if folder.exists() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(f"--fresh cannot remove '{folder}' under several processes: remove it before the launch.")
    from potstill.runfolder import RunFolder

    RunFolder(folder).clear()
