"""Options that several commands share, and the recipe that they make together."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from potstill.cli.compose import Parts, compose
from potstill.errors import RecipeError

if TYPE_CHECKING:
    from potstill.recipe import Recipe

F = TypeVar("F", bound=Callable[..., Any])
_Option = Callable[[Callable[..., Any]], Callable[..., Any]]

LABEL = "The label's column; of multi-label also one of 0 and 1 a class: toxic,insult."
"""What --label is."""
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
track_option = click.option(
    "--track", multiple=True, metavar="NAME", help="Live curves: tensorboard, wandb or trackio; repeatable."
)
quiet_option = click.option("--quiet", "-q", is_flag=True, help="No bars and no notes.")
data_root_option = click.option(
    "--data-root", metavar="DIR", help="Where the recipe's paths start. [default: the recipe's folder]"
)
plugin_option = click.option(
    "-p",
    "--plugin",
    "plugins",
    multiple=True,
    metavar="NAME[:OPTION=VALUE,…]",
    help="Add a plugin to the last stage that trains the student; repeatable.",
)
set_option = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting: data.max_length=64, stage.distil.epochs=2, PLUGIN.OPTION=4; repeatable.",
)
_IN_RECIPE = {
    "task": "task.kind",
    "teacher": "teacher.model",
    "student": "student.model",
    "student_layers": "student.layers",
    "export": "export.plugins",
    "epochs": "stage.NAME.epochs",
    "learning_rate": "stage.NAME.learning_rate",
    "batch_size": "stage.NAME.batch_size",
}
"""Where a recipe has what an option says; all other options are keys of its table [data]."""


def _layers(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...]:
    """`2,4,6` as a tuple of integers; () where nothing is said."""
    if value is None:
        return ()
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"'{value}' is no list of layers such as 2,4,6.", ctx, param) from None


def columns(ctx: click.Context, param: click.Parameter, value: str | None) -> str | list[str] | None:
    """A column's name, or `toxic,insult` as a list of them; quotes keep a comma within a name."""
    if value is None or "," not in value:
        return value
    names = next(csv.reader([value], skipinitialspace=True))
    if not all(names):
        raise click.BadParameter(f"'{value}' is no list of columns such as toxic,insult.", ctx, param)
    return names if len(names) > 1 else names[0]


_ABOVE_0 = click.FloatRange(0, min_open=True)
_CHANGES: list[_Option] = [
    data_root_option,
    click.option("--name", help="The run's name. [default: the recipe's]"),
    click.option("--seed", type=click.IntRange(0), metavar="N", help="The seed of everything random."),
    plugin_option,
    set_option,
    click.option("--save-recipe", metavar="FILE", help="Write the recipe with all changes to a file."),
]  # fmt: skip
_PARTS: list[_Option] = [
    click.option("--teacher", metavar="DIR|HUB-ID", help="The teacher, already trained on the task."),
    click.option("--student", metavar="DIR|HUB-ID|PLUGIN", help="The student to train."),
    click.option("--student-layers", callback=_layers, metavar="2,4,6", help="Or: teacher layers to start it from."),
    click.option("--train", metavar="FILE", help="CSV, TSV, JSON lines, Parquet, text, a folder, or a hub id::split."),
    click.option("--validation", metavar="FILE", help="Rows that the best student is chosen on."),
    click.option("--test", metavar="FILE", help="Rows that are measured once, at the end."),
    click.option("--text", metavar="COLUMN", help="The text's column. [default: text, or the task's own]"),
    click.option("--text-pair", metavar="COLUMN", help="The second text's column. [default: none, or the task's own]"),
    click.option("--label", callback=columns, metavar="COLUMN,…", help=f"{LABEL} [default: label, or the task's own]"),
    click.option("--task", metavar="KIND", help="text-classification, regression, … [default: the teacher's]"),
    click.option("--max-length", type=click.IntRange(1), metavar="N", help="Tokens a row at most."),
    click.option("--epochs", type=_ABOVE_0, metavar="X", help="Times through the training rows."),
    click.option("--learning-rate", type=_ABOVE_0, metavar="X", help="The peak learning rate."),
    click.option("--batch-size", type=click.IntRange(1), metavar="N", help="Rows a micro-batch."),
    click.option("--export", multiple=True, metavar="PLUGIN", help="A plugin that exports the student, such as onnx."),
]  # fmt: skip


def change_options(command: F) -> F:
    """Adds the options that change a recipe."""
    return _with(command, _CHANGES)


def recipe_options(command: F) -> F:
    """Adds a recipe file that may be left out, the options that change it and those that stand in for it."""
    return click.argument("recipe", required=False, metavar="[RECIPE.toml]")(_with(command, [*_CHANGES, *_PARTS]))


def _with(command: F, options: Sequence[_Option]) -> F:
    for option in reversed(options):
        option(command)  # it notes itself on the function, which stays the same
    return command


@dataclass(frozen=True)
class Prepared:
    """A recipe that is ready to be run.

    Attributes:
        raw: as the file and the options say it, without defaults.
        data_root: where its relative paths start.
    """

    raw: dict[str, Any]
    recipe: Recipe
    data_root: Path


def prepare(
    recipe: str | None,
    *,
    data_root: str | None,
    name: str | None,
    seed: int | None,
    plugins: tuple[str, ...],
    settings: tuple[str, ...],
    save_recipe: str | None,
    **parts: Any,
) -> Prepared:
    """The recipe of a file, or of the options where there is no file, with all changes made.

    Order: the file, `-p`, `--set`, `--seed` and `--name`. Relative paths start at `data_root`, by default at the
    recipe's folder; those from options at the current folder.
    Raises: RecipeError; UserError.
    """
    from potstill import recipe as recipes

    composed = Parts(name=name, **parts)
    if recipe is None:
        raw, where, root = compose(composed), "the command line", Path.cwd()
    else:
        _refuse_parts(composed, recipe)
        raw, where, root = read(recipe), recipe, Path(recipe).absolute().parent
    raw = recipes.with_plugins(raw, list(plugins)) if plugins else raw
    raw = recipes.with_overrides(raw, list(settings)) if settings else raw
    raw |= {key: value for key, value in (("seed", seed), ("name", name)) if value is not None}
    ready = Prepared(raw, recipes.parse(raw, where), existing_root(data_root) or root)
    if save_recipe is not None:
        _save(ready.raw, Path(save_recipe))
    return ready


def _save(raw: dict[str, Any], path: Path) -> None:
    import tomli_w

    from potstill.files import write_text

    text = tomli_w.dumps(raw)
    if not path.parent.is_dir():
        raise RecipeError(f"--save-recipe: there is no folder '{path.parent}'.")
    if path.exists() and not (path.is_file() and path.read_bytes() == text.encode()):
        raise RecipeError(f"--save-recipe: '{path}' exists and holds something else; name another file.")
    write_text(path, text)
    click.echo(f"The recipe is in {path}.", err=True)


def read(recipe: str) -> dict[str, Any]:
    """A recipe file's tables; where there is no such file, the error says which plugin ships it."""
    from potstill.recipe import read as read_tables

    path = Path(recipe).expanduser()
    if not path.exists():
        from potstill.recipes import shipped

        if path.stem in {found.name for found in shipped()}:
            raise RecipeError(f"recipe '{recipe}' does not exist; `potstill recipes copy {path.stem}` makes it here.")
    return read_tables(path)


def _refuse_parts(parts: Parts, recipe: str) -> None:
    said = parts.said()
    if not said:
        return
    option = "--" + said[0].replace("_", "-")
    key = _IN_RECIPE.get(said[0], f"data.{said[0]}")
    raise RecipeError(f"{option} stands in for a recipe file, but there is '{recipe}'; change it by --set {key}=….")


def existing_root(data_root: str | None) -> Path | None:
    """The folder of --data-root, absolute; None where it is not said.

    Raises: RecipeError where it is not there.
    """
    if data_root is None:
        return None
    path = Path(data_root).expanduser()
    if not path.is_dir():
        raise RecipeError(f"--data-root: there is no folder '{data_root}'.")
    return path.absolute()
