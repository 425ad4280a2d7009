"""The run folder: whose it is, what is in it, and what is finished."""

from __future__ import annotations

import fcntl
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from potstill.discovery import installed
from potstill.disk import writing
from potstill.errors import DataError, ModelError, RecipeError, UserError
from potstill.files import read_json, sweep_drafts, text_hash, write_json, write_text
from potstill.named import with_models
from potstill.recipe import Recipe, difference, dump, load
from potstill.tracking import FOLDER as TRACKING

_REPLACED = ("result.json", "model", "stages", "export", "report.html", "recipe.toml", TRACKING)
"""What a run replaces in its folder; the result first, since without it nothing counts as finished."""

Files = Mapping[str, Mapping[str, str]]
"""By "teacher" and "student", something of each file and folder that their tables name, by its words there."""


class RunFolder:
    """One run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder for this run alone.

        Raises:
            UserError: it cannot be written, or another run holds it.
        """
        try:
            with writing(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
                lock = (self.path / "lock").open("w")
        except (FileExistsError, NotADirectoryError) as error:
            file = next(path for path in (self.path, *self.path.parents) if path.exists())
            raise UserError(
                f"The run folder {self.path} cannot be made, for {file} is a file; give another."
            ) from error
        with lock:
            if _first_rank():
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as error:
                    raise UserError(
                        f"Another run is at work in {self.path}; wait for it or give another --folder."
                    ) from error
            yield

    def begin(self, recipe: Recipe, root: Path, files: Files) -> None:
        """Writes down what this run is, or checks that the folder's run is the same.

        A run that stopped before its first checkpoint, such as for a wrong column, binds nobody. A model that lies
        elsewhere now and is what it was is the same, and the folder notes where it lies.

        Args:
            files: as in `check_inputs`.

        Raises:
            RecipeError: the folder holds a run of another recipe.
            UserError: it holds what a run would replace, and is no run's.
        """
        sweep_drafts(self.path)
        path = self.path / "recipe.toml"
        if self.is_run and self.started:
            moved = self._moved(files)
            differences = difference(with_models(load(path), moved), recipe)
            if differences:
                raise RecipeError(
                    f"The folder {self.path} holds a run of another recipe ({'; '.join(differences[:3])}"
                    f"{'; …' if len(differences) > 3 else ''}); give another --folder or --name, "
                    "or --fresh to begin anew."
                )
            if _first_rank() and not (self.path / "environment.json").is_file():
                self._note_environment(root)
            if _first_rank() and any(moved.values()):
                self._note_moved(recipe, moved)
            return
        if not _first_rank():
            return
        if self.is_run:
            for name in ("stages", TRACKING):
                shutil.rmtree(self.path / name, ignore_errors=True)
        elif found := [name for name in _REPLACED if (self.path / name).exists()]:
            raise UserError(
                f"{self.path} is no run folder and holds a '{found[0]}', which a run would replace; "
                "give another --folder."
            )
        self._note_environment(root)
        write_text(path, dump(recipe))

    def _environment(self) -> dict[str, Any]:
        path = self.path / "environment.json"
        return dict(read_json(path)) if path.is_file() else {}

    def _moved(self, files: Files) -> Files:
        """Where files and folders that the run knows under another path lie now, by side and that path."""
        return {
            side: _renamed(known, files.get(side, {})) for side, known in self._environment().get("files", {}).items()
        }

    def _note_moved(self, recipe: Recipe, moved: Files) -> None:
        """Exchanges the paths alone, so that what else has changed is still seen."""
        known = self._environment()
        files = {
            side: {moved[side].get(word, word): found for word, found in words.items()}
            for side, words in known["files"].items()
        }
        write_text(self.path / "recipe.toml", dump(recipe))
        write_json(self.path / "environment.json", {**known, "files": files})

    def clear(self) -> None:
        """Removes what a run left in the folder; whatever else is there stays.

        Raises: UserError where the folder is no run's, or a run is at work in it.
        """
        if not self.path.exists():
            return
        if not self.is_run:
            raise UserError(f"--fresh: '{self.path}' is no run folder; nothing was removed.")
        with self.locked():
            for part in (self.path / name for name in (*_REPLACED, "environment.json")):
                if part.is_dir() and not part.is_symlink():
                    shutil.rmtree(part)
                else:
                    part.unlink(missing_ok=True)

    def _note_environment(self, root: Path) -> None:
        write_json(self.path / "environment.json", {**environment(), "data_root": str(root.resolve())})

    def check_inputs(self, data: str, given: Mapping[str, str], files: Files, root: Path) -> None:
        """Notes what data, models and vocabularies the run works on, or checks that they are what they were.

        Args:
            data: a hash of all rows.
            given: a hash of each model that the caller holds, by side.
            files: hashes of the files and folders that the tables of "teacher" and "student" name, by their words.
            root: where the recipe's paths stand now; noted, as the same data may have been moved.

        Raises:
            DataError: the data is not what this run began with.
            ModelError: the models are not.
        """
        path = self.path / "environment.json"
        known = read_json(path)
        if known.setdefault("data", data) != data:
            raise DataError(
                f"The data is not what the run in {self.path} began with; give another --folder to start a new run."
            )
        if known.setdefault("given", dict(given)) != given:
            raise ModelError(
                f"The models given as objects are not those that the run in {self.path} began with; "
                "give another folder to start a new run."
            )
        before = known.setdefault("files", {side: dict(found) for side, found in files.items()})
        for side, found in files.items():
            changed = found.items() ^ before[side].items()
            if changed:
                raise ModelError(
                    f"The {side}'s '{min(changed)[0]}' is not what the run in {self.path} began with; "
                    "give another --folder to start a new run."
                )
        if _first_rank():
            write_json(path, {**known, "data_root": str(root.resolve())})

    def stage_folder(self, number: int, name: str) -> Path:
        """The folder of stage `number`, from 1."""
        return self.path / "stages" / f"{number:02d}-{name}"

    @property
    def is_run(self) -> bool:
        """Whether the folder's recipe is one that a run wrote, and not the user's own."""
        return (self.path / "recipe.toml").is_file() and ((self.path / "environment.json").is_file() or self.started)

    @property
    def started(self) -> bool:
        """Whether there is something to go on with: a checkpoint, a finished stage, a result."""
        return self.finished or bool(self.stages()) or any(self.path.glob("stages/*/checkpoints/*"))

    @property
    def finished(self) -> bool:
        """Whether the whole run is done."""
        return (self.path / "result.json").is_file()

    def stages(self) -> list[Path]:
        """The folders of finished stages, in order."""
        return sorted(path.parent for path in self.path.glob("stages/*/result.json"))


def _renamed(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """The words that are gone, with those that are new and have the same hash."""
    new = {found: word for word, found in now.items() if word not in before}
    return {word: new[found] for word, found in before.items() if word not in now and found in new}


def environment() -> dict[str, Any]:
    """Versions and machine, as recorded with a run."""
    import torch

    names = ("potstill", "torch", "transformers", "datasets", "tokenizers", "accelerate", "numpy", "onnxruntime")
    plugins = {found.distribution: found.version for found in installed("potstill.plugins")}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: found for name in names if (found := _version(name))},
        "plugins": plugins,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})",
        "threads": torch.get_num_threads(),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _first_rank() -> bool:
    import os

    return os.environ.get("RANK", "0") == "0"


def content_key(parts: Mapping[str, Any]) -> str:
    """A hash of all that decides what a stage makes."""
    import json

    return text_hash(json.dumps(parts, sort_keys=True, default=str))
