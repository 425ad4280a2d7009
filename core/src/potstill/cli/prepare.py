"""`potstill prepare`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from potstill.cli.display import make_progress
from potstill.cli.options import json_option, quiet_option, recipe_options
from potstill.cli.options import prepare as composed
from potstill.cli.output import say_json

if TYPE_CHECKING:
    from potstill.preparation import PreparedSplit

_BAR = 40


@click.command
@recipe_options
@click.option("--stats", is_flag=True, help="Tell lengths, unknown tokens and the most frequent tokens too.")
@quiet_option
@json_option
def prepare(stats: bool, quiet: bool, as_json: bool, **options: Any) -> None:
    """Tokenize what a recipe reads, and train nothing; `potstill run` does it too, and finds it done.

    What is done stays in the cache, by content: a preparation that was interrupted goes on, and a corpus of which parts
    were prepared before, alone or with others, is joined without tokenizing them again. Takes the same options as
    `potstill run`.

    \b
    Examples:
      potstill prepare pretrain.toml --data-root data --stats
      potstill prepare pretrain.toml --set data.corpus.workers=2 --set 'data.train="books + wiki.jsonl"'
    """
    ready = composed(**options)

    from potstill import preparation

    found = preparation.prepare(ready.recipe, ready.data_root, make_progress(quiet))
    if as_json:
        say_json([_facts(one, stats) for one in found])
        return
    for one in found:
        click.echo(f"{one.source}\n  {one.told}")
        if stats:
            _show(one.statistics())


def _facts(one: PreparedSplit, stats: bool) -> dict[str, Any]:
    told = {"stage": one.stage, "split": one.split, "source": one.source, **one.facts}
    return {**told, **one.statistics()} if stats else told


def _show(numbers: Mapping[str, Any]) -> None:
    most = max(count for _, _, count in numbers["lengths"]) or 1
    for low, high, count in numbers["lengths"]:
        bar = "█" * round(_BAR * count / most)
        click.echo(f"  {f'{low}–{high}':>9} tokens {count:>12,} {bar}".rstrip())
    click.echo(f"  unknown {numbers['unknown']:.3%}")
    frequent = ", ".join(f"{word} {share:.1%}" for word, share in numbers["frequent"].items())
    click.echo(f"  frequent {frequent}")
