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

from potstill.data.encode import encode, tokenizer_key
from potstill.data.examples import Examples, forget_labels
from potstill.data.source import Source, open_source
from potstill.errors import Interrupted, ModelError
from potstill.files import sweep_drafts, text_hash
from potstill.progress import Progress
from potstill.ranks import Ranks
from potstill.recipe import Recipe
from potstill.tasks import Task, label_names, load_task

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
        sweep_drafts(cache_folder())
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
                else open_source(
                    spec, columns, self.root, getattr(data, f"{split}_rows"), f"data.{split}", cache_folder()
                )
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
        shared = teacher is None or same_tokenizer(student, teacher)
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
        labels = self.task.targets(source.labels(), source.path)
        keep = self.recipe.data.labelled_rows
        return forget_labels(labels, keep) if split == "train" and keep is not None else labels

    def _label_names(self) -> list[str] | None:
        source = self.source("train")
        if self.recipe.task.labels is None and source is not None and source.label_names:
            return list(source.label_names)
        return label_names(self.recipe.task, self.root, source.labels() if source else []) or None

    def fingerprint(self) -> str:
        """A hash of all the data, for telling whether two runs saw the same."""
        splits = [self.source(split) for split in ("train", "validation", "test")]
        return text_hash("|".join(source.fingerprint if source else "" for source in splits))


def same_tokenizer(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether two tokenizers turn every text into the same tokens."""
    return one is other or tokenizer_key(one) == tokenizer_key(other)


def cache_folder() -> Path:
    """Where tokenized data is kept: `POTSTILL_CACHE`, else `potstill` in the user's cache folder."""
    base = os.environ.get("POTSTILL_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "potstill"
