"""`potstill compare`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from potstill.cli.options import json_option
from potstill.cli.output import say_json
from potstill.cli.suite import compare_suites
from potstill.errors import UserError

if TYPE_CHECKING:
    from potstill.report.comparison import Comparison


@click.command
@click.argument("folders", nargs=-1, required=True, metavar="FOLDER FOLDER …", type=click.Path(path_type=Path))
@click.option("--html", metavar="FILE", type=click.Path(path_type=Path), help="Write a page with all curves overlaid.")
@json_option
def compare(folders: tuple[Path, ...], html: Path | None, as_json: bool) -> None:
    """Put two or more runs side by side: what differs in their settings, and every model's metrics.

    Of runs that differ by their seeds alone it shows the mean, the standard deviation and an interval too. Of the
    folders that `potstill suite` made for its models it shows every task, and whether the first is better.

    \b
    Examples:
      potstill compare runs/with-teacher runs/without-teacher
      potstill compare sweeps/distil/seed=* --html seeds.html
      potstill compare suites/glue/student+hinton suites/glue/student
    """
    from potstill.report.comparison import Comparison, check_places
    from potstill.suite.kept import is_suite

    if any(map(is_suite, folders)):
        if html is not None:
            raise UserError("--html shows the curves of runs, and a suite has none of its own; name run folders in it.")
        check_places(folders)
        compare_suites(folders, as_json)
        return
    found = Comparison(folders)
    if html is not None:
        from potstill.report.comparepage import write_comparison

        write_comparison(found, html)
    if as_json:
        say_json({"rows": found.rows, "differences": found.differences, "seeds": _seeds(found)})
        return
    _show(found)
    if html is not None:
        click.echo(f"page  {html}")


def _show(found: Comparison) -> None:
    from potstill.report.seeds import HOW, seed_rows
    from potstill.report.table import columns_of, headline, print_table

    for sentence in found.notes:
        click.echo(sentence, err=True)
    first = next(iter(found.runs))
    for name, lines in found.differences.items():
        click.echo(f"{first} → {name}")
        click.echo("\n".join(f"  {line}" for line in lines) or "  the same recipe")
    wanted = headline(found.metric)
    print_table(found.rows, columns=["run", *columns_of([_without_run(row) for row in found.rows], wanted)])
    if found.seeds:
        rows = seed_rows(found.seeds, wanted)
        print_table(rows, columns=list(dict.fromkeys(column for row in rows for column in row)))
        click.echo(HOW)


def _seeds(found: Comparison) -> list[dict[str, Any]]:
    return [
        {"runs": group, "model": model, "metric": metric, **asdict(spread)}
        for group, models in found.seeds.items()
        for model, metrics in models.items()
        for metric, spread in metrics.items()
    ]


def _without_run(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "run"}
