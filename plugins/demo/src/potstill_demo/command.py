"""The command `potstill demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from potstill.progress import Progress


@click.command
@click.option("--folder", metavar="DIR", help="The run folder. [default: runs/demo, with --quick runs/demo-quick]")
@click.option("--quick", is_flag=True, help="Few rows, few updates: to see in half a minute that everything works.")
@click.option("--quiet", "-q", is_flag=True, help="No bars and no notes.")
def demo(folder: str | None, quick: bool, quiet: bool) -> None:
    """Distil a small BERT on this machine's own text: no network, no weights, about 3 minutes.

    Makes a data set out of the docstrings of Python's standard library (which subject area does a paragraph
    belong to?), trains a teacher, the same small student without and with it, exports the student to ONNX,
    checks that it is the same model, and times both. The same command again goes on where it stopped.

    \b
    Examples:
      potstill demo
      potstill demo --quick --folder /tmp/demo
    """
    from potstill.cli.display import main_process, make_progress
    from potstill_demo import recipe

    target = Path(folder) if folder else Path("runs") / ("demo-quick" if quick else "demo")
    progress = make_progress(quiet)
    prepare(target, progress)
    path = recipe.write(target, quick)

    from potstill import runner

    result = runner.run(path, folder=target, data_root=target, progress=progress)
    if quick:
        progress.note(
            "--quick trains too little for its numbers to mean anything; leave it out for a real distillation."
        )
    if main_process():
        show(result.folder)


def prepare(folder: Path, progress: Progress) -> None:
    """Makes data/ with the data set and the vocabulary, unless an earlier call finished it."""
    from potstill_demo import corpus, vocabulary

    vocabulary_file = folder / "data" / "vocab.txt"  # written last
    if vocabulary_file.is_file():
        return
    with progress.bar("reading docstrings", 2) as bar:
        rows, texts = corpus.write(folder / "data")
        bar.advance(rows=sum(rows.values()))
        pieces = vocabulary.train(texts, vocabulary.SIZE, vocabulary_file)
        bar.advance(word_pieces=pieces)
    progress.note(
        f"{sum(rows.values()):,} paragraphs out of {corpus.standard_library()}: "
        + ", ".join(f"{count:,} for {side}" for side, count in rows.items())
    )


def show(folder: Path) -> None:
    """Prints the table of models and, last, where the report is."""
    from potstill.report.table import columns_of, model_rows, print_table

    rows = model_rows(folder)
    print_table(rows, columns=columns_of(rows, ("accuracy", "macro_f1")))
    click.echo(f"recipe  {folder / 'demo.toml'}")
    click.echo(f"model   {folder / 'model'}")
    click.echo(f"report  {folder / 'report.html'}")
