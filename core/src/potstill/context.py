"""What the stages of one run share: recipe, data, places, processes, and the wish to stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import current_thread, main_thread
from types import FrameType
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase

from potstill.data.encode import encode
from potstill.data.examples import Examples
from potstill.data.source import Source, open_source
from potstill.errors import DataError, Interrupted, ModelError
from potstill.files import text_hash
from potstill.progress import Progress
from potstill.ranks import Ranks
from potstill.recipe import Recipe
from potstill.tasks import Task, load_task

if TYPE_CHECKING:
    from potstill.models import Model


class Stop:
    """Whether somebody asked the run to stop (SIGTERM, Ctrl-C). A second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.requested = False

    def check(self) -> None:
        """Raises where a stop was asked for; for places where nothing has to be saved first.

        Raises:
            Interrupted: always then.
        """
        if self.requested:
            raise Interrupted("Stopped as asked; the same command goes on from the last checkpoint.")

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        """Turns SIGTERM and SIGINT into `requested` within the block (in the main thread only)."""
        if current_thread() is not main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True


class Context:
    """What the stages of one run share.

    Args:
        recipe: references resolved.
        folder: the run folder.
        root: where the recipe's paths stand.
        given: models that the caller holds already, by "teacher" and "student".
        tables: data sets that the caller holds already, by split.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        root: Path,
        *,
        progress: Progress,
        given: Mapping[str, Model] | None = None,
        tables: Mapping[str, Any] | None = None,
    ) -> None:
        self.recipe = recipe
        self.folder = folder
        self.root = root
        self.progress = progress
        self.given = dict(given or {})
        self.tables = dict(tables or {})
        self.ranks = Ranks()
        self.stop = Stop()
        self.handed_on: dict[str, Path] = {}
        self._sources: dict[str, Source | None] = {}
        self._examples: dict[tuple[str, int, int], Examples] = {}
        self.task: Task = load_task(recipe.task, self._label_names())

    def path(self, spec: str) -> Path:
        """A path of the recipe: absolute ones as they are, others below the data root."""
        path = Path(spec).expanduser()
        return path if path.is_absolute() else self.root / path

    def find(self, reference: str) -> str:
        """Where the model of a reference lies: the folder of an earlier stage, a folder, or a hub id."""
        if reference.startswith("stage:"):
            name = reference.removeprefix("stage:")
            if name not in self.handed_on:
                raise ModelError(f"The model of the stage '{name}' is asked for before that stage is done.")
            return str(self.handed_on[name])
        place = self.path(reference)
        return str(place) if place.exists() else reference

    def source(self, split: str) -> Source | None:
        """The rows of "train", "validation" or "test" as they were read; None where the recipe names none."""
        if split not in self._sources:
            data = self.recipe.data
            spec = self.tables.get(split, getattr(data, split))
            columns = {"text": data.text, "text_pair": data.text_pair, "label": data.label}
            self._sources[split] = (
                None
                if spec is None
                else open_source(spec, columns, self.root, getattr(data, f"{split}_rows"), f"data.{split}")
            )
        return self._sources[split]

    def examples(
        self, split: str, student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase | None
    ) -> Examples | None:
        """The rows of a split, tokenized for both; None where the recipe names no such split.

        Args:
            teacher: None where the teacher is not looked at.
        """
        source = self.source(split)
        if source is None:
            return None
        key = (split, id(student), id(teacher))
        if key not in self._examples:
            self._examples[key] = self._tokenized(split, source, student, teacher)
        return self._examples[key]

    def _tokenized(
        self, split: str, source: Source, student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase | None
    ) -> Examples:
        data = self.recipe.data
        shared = teacher is None or self.same_tokenizer(student, teacher)
        words = student if teacher is None else teacher

        def tokens(tokenizer: PreTrainedTokenizerBase) -> Any:
            # One rank fills the cache; the others find it filled.
            if not self.ranks.main:
                self.ranks.wait()
            table = encode(source, self.task, tokenizer, data.max_length, cache_folder(), self.progress)
            if self.ranks.main:
                self.ranks.wait()
            self.stop.check()
            return table

        labels = self._labels(split, source)
        pads = (student.pad_token_id or 0, words.pad_token_id or 0)
        return Examples(tokens(student), None if shared else tokens(words), labels, self.task, pads)

    def _labels(self, split: str, source: Source) -> Any:
        if "label" not in source.dataset.column_names:
            return self.task.targets([None] * len(source.dataset), f"data.{split}")
        values = list(source.dataset["label"])
        keep = self.recipe.data.labelled_rows
        if split == "train" and keep is not None:
            values = [value if row < keep else None for row, value in enumerate(values)]
        return self.task.targets(values, f"data.{split} '{source.path}'")

    def _label_names(self) -> list[str] | None:
        labels = self.recipe.task.labels
        if isinstance(labels, str):
            path = self.path(labels)
            if not path.is_file():
                raise DataError(f"task.labels names the file {path}, which does not exist.")
            return path.read_text(encoding="utf-8").splitlines()
        if labels is not None:
            return list(labels)
        source = self.source("train")
        if source is None or "label" not in source.dataset.column_names:
            return None
        return names_found(self.recipe.task.kind, source)

    @staticmethod
    def same_tokenizer(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
        """Whether two tokenizers turn every text into the same tokens."""
        return one is other or tokenizer_text(one) == tokenizer_text(other)

    def fingerprint(self) -> str:
        """A hash of all the data, for telling whether two runs saw the same."""
        splits = [self.source(split) for split in ("train", "validation", "test")]
        return text_hash("|".join(source.fingerprint if source else "" for source in splits))


def names_found(kind: str, source: Source) -> list[str] | None:
    """The label names that the rows of a source hold, for a task that has any."""
    from potstill.tasks import task_class

    return task_class(kind).names_from(source.dataset["label"]) or None


def tokenizer_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """All that decides what a tokenizer does, as text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return str(backend.to_str())
    return f"{type(tokenizer).__name__}{sorted(tokenizer.get_vocab().items())}"


def cache_folder() -> Path:
    """Where tokenized data is kept: `POTSTILL_CACHE`, else `potstill` in the user's cache folder."""
    base = os.environ.get("POTSTILL_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "potstill"
