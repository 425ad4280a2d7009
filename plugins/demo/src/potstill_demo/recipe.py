"""The demo's recipe: the shipped `recipes/demo.toml`, written into the run's folder as a start for one's own."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

QUICK = (
    "name=demo-quick",
    "data.train_rows=2400",
    "data.validation_rows=300",
    "data.test_rows=300",
    "stage.teacher.epochs=1",
    "stage.teacher.batch_size=16",
    "stage.alone.epochs=2",
    "stage.alone.batch_size=16",
    "stage.distilled.epochs=2",
    "stage.distilled.batch_size=16",
)
"""What `--quick` changes: seconds instead of minutes, to see that everything works; its models are poor."""


def write(folder: Path, quick: bool = False) -> Path:
    """Writes demo.toml into the folder, unless one stands there, and returns its path."""
    from potstill.recipe import dump, parse, read, with_overrides

    path = folder / "demo.toml"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text((files("potstill_demo") / "recipes" / "demo.toml").read_text(encoding="utf-8"), encoding="utf-8")
    if quick:
        path.write_text(dump(parse(with_overrides(read(path), list(QUICK)), str(path))), encoding="utf-8")
    return path
