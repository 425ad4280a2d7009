"""What the stages of one run share: recipe, data, places, processes, and the wish to stop."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import current_thread, main_thread
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedTokenizerBase

from potstill.complaints import validated
from potstill.corpus.running import RunningText, no_labels, open_running
from potstill.data.encode import encode, tokenizer_key
from potstill.data.examples import Examples, forget_labels
from potstill.data.source import Source, open_source
from potstill.data.transform import Transform, transformed
from potstill.errors import DataError, Interrupted, ModelError
from potstill.files import sweep_drafts, text_hash
from potstill.named import NamedFiles
from potstill.progress import Progress, Stoppable
from potstill.ranks import Ranks
from potstill.recipe import DataConfig, Recipe, StagePlan
from potstill.tasks import Task, load_task, task_class
from potstill.tasks.columns import columns_of
from potstill.tasks.names import label_names
from potstill.tracking import Tracking

if TYPE_CHECKING:
    from potstill.data.table import TokenTable
    from potstill.models import Model


SPLITS = ("train", "validation", "test")


def splits_of(plan: StagePlan) -> tuple[str, ...]:
    """What a stage reads: a stage that scores no rows may have data without the columns of the others."""
    return SPLITS if plan.evaluate else SPLITS[:1]


class Stop:
    """Whether somebody asked the run to stop (SIGTERM, Ctrl-C). A second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.requested = False

    def check(self) -> None:
        """Raises where a stop was asked for.

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
        given: models that the caller holds already, by "teacher" and "student"; stages work on copies of them.
        tables: data sets that the caller holds already, by split.
        tracking: where curves go beside metrics.jsonl; nowhere where it is left out.
        named: the files below `root`, of which some may be hashed already.
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
        tracking: Tracking | None = None,
        named: NamedFiles | None = None,
    ) -> None:
        self.recipe = recipe
        self.folder = folder
        self.root = root
        self.named = named or NamedFiles(root)
        self.progress = progress
        self.tracking = tracking or Tracking((), folder, recipe.name, progress)
        self.given = dict(given or {})
        self.tables = dict(tables or {})
        self.ranks = Ranks()
        self.stop = Stop()
        self.handed_on: dict[str, Path] = {}
        self._given_keys: dict[str, str] = {}
        self._sources: dict[str, Source | RunningText | None] = {}
        self._examples: dict[tuple[str | None, ...], Examples | None] = {}
        self._check_splits()
        sweep_drafts(cache_folder())
        self.task: Task = load_task(recipe.task, self._label_names())

    def _check_splits(self) -> None:
        """What the stages and the exports need is named, before anything is read or trained."""
        named = {split for split in SPLITS if split in self.tables or getattr(self.recipe.data, split) is not None}
        if "train" not in named and any(self.data_of(plan).train is None for plan in self.recipe.stages):
            raise DataError(f"The recipe '{self.recipe.name}' names no training rows: give data.train.")
        if self.recipe.export is not None and "validation" not in named:
            raise DataError("An export is proven on validation rows, and the recipe names no data.validation.")

    def find(self, reference: str) -> str:
        """Where the model of a reference lies: the folder of an earlier stage, a folder, or a hub id."""
        if reference.startswith("stage:"):
            name = reference.removeprefix("stage:")
            if name not in self.handed_on:
                raise ModelError(f"The model of the stage '{name}' is asked for before that stage is done.")
            return str(self.handed_on[name])
        place = self.named.path(reference)
        return str(place) if place.exists() else reference

    def data_of(self, plan: StagePlan) -> DataConfig:
        """The table `[data]` with the stage's own keys.

        Raises: RecipeError for a key or value that cannot be.
        """
        if not plan.data:
            return self.recipe.data
        own = {**self.recipe.data.model_dump(), **plan.data}
        return validated(DataConfig, own, lambda _: f"stage '{plan.name}', data: ")

    def source(self, split: str, data: DataConfig | None = None) -> Source | RunningText | None:
        """The rows of "train", "validation" or "test" as they are found; None where the recipe names none.

        Args:
            data: a stage's own table; the recipe's where it is left out.
        """
        data = self.recipe.data if data is None else data
        spec, rows = getattr(data, split), getattr(data, f"{split}_rows")
        if spec == getattr(self.recipe.data, split):
            spec = self.tables.get(split, spec)
        task = task_class(self.recipe.task.kind)
        columns = columns_of(data, task)
        corpus = None if data.corpus is None else data.corpus.model_dump()
        key = json.dumps([split, spec if isinstance(spec, str) else None, rows, columns, corpus])
        if key not in self._sources:
            where, cache = f"data.{split}", cache_folder()
            if spec is None:
                self._sources[key] = None
            elif data.corpus is None:
                self._sources[key] = open_source(spec, columns, self.root, rows, where, cache, task.shapes)
            else:
                text = str(columns["text"])
                self._sources[key] = open_running(spec, text, data.corpus, rows, self.root, where, cache)
        return self._sources[key]

    def examples(
        self,
        split: str,
        student: PreTrainedTokenizerBase,
        teacher: PreTrainedTokenizerBase | None,
        data: DataConfig,
        transforms: Sequence[Transform] = (),
        seed: int = 0,
    ) -> Examples | None:
        """The rows of a split, tokenized for both; None where the recipe names no such split.

        Args:
            teacher: None where the teacher is not looked at.
            data: the stage's table.
            transforms: what changes the rows before, and `seed` that of its draws.
        """
        # By content: a tokenizer that is gone may have left its id to another one.
        words = (tokenizer_key(student), None if teacher is None else tokenizer_key(teacher))
        changes = [str(seed), *(f"{transform.name} {transform.key}" for transform in transforms)] if transforms else []
        key = (split, *words, data.model_dump_json(), *changes)
        if key not in self._examples:
            # One rank fills the cache; the others find it filled.
            if not self.ranks.main:
                self.ranks.wait()
            self._examples[key] = self.examples_alone(split, student, teacher, data, transforms, seed)
            if self.ranks.main:
                self.ranks.wait()
            self.check_stop()
        return self._examples[key]

    def examples_alone(
        self,
        split: str,
        student: PreTrainedTokenizerBase,
        teacher: PreTrainedTokenizerBase | None,
        data: DataConfig,
        transforms: Sequence[Transform] = (),
        seed: int = 0,
    ) -> Examples | None:
        """`examples` for what one rank does while the others do not."""
        source = self.source(split, data)
        if source is None:
            return None
        if isinstance(source, RunningText):
            return self._running(split, source, student, teacher, data, transforms)
        if transforms and self.task.marks:
            raise DataError(
                f"{transforms[0].name} changes the text of rows, and in the task '{self.task.name}' labels belong to "
                "places of the text; leave it out."
            )
        for transform in transforms:
            source = transformed(source, transform, seed, cache_folder(), self.stoppable)
        labels = self._labels(split, source, data.labelled_rows)
        return tokenized(source, self.task, student, teacher, data.max_length, labels, cache_folder(), self.stoppable)

    def _running(
        self,
        split: str,
        text: RunningText,
        student: PreTrainedTokenizerBase,
        teacher: PreTrainedTokenizerBase | None,
        data: DataConfig,
        transforms: Sequence[Transform],
    ) -> Examples:
        if transforms:
            raise DataError(f"{text.path} is running text, whose rows '{transforms[0].name}' cannot change.")
        if teacher is not None and not same_tokenizer(student, teacher):
            raise ModelError(f"{text.path} is running text, on which teacher and student must share a tokenizer.")
        table = text.prepared(student, data.max_length, self.stoppable).table
        labels = self._checked(split, no_labels(len(table), self.task, text.path), text.path)
        files = table.files if text.config.order == "files" and split == "train" else None
        pad = student.pad_token_id or 0
        return Examples(table, None, labels, self.task, (pad, pad), self.task.masking(student), files=files)

    @property
    def stoppable(self) -> Stoppable:
        """The progress for work that may be broken off at any step: tokenizing, exporting.

        One rank may do it alone; where it stops, the others do too.
        """
        return Stoppable(self.progress, self.stop.check)

    def check_stop(self) -> None:
        """Raises `Interrupted` on every rank where any was asked to stop; all of them call this at the same place."""
        self.stop.requested = self.ranks.any(self.stop.requested)
        self.stop.check()

    def _labels(self, split: str, source: Source, keep: int | None) -> Any:
        if keep is not None and not self.task.label_column:
            raise DataError(
                f"data.labelled_rows = {keep}, and the task '{self.task.name}' makes its labels of the text, of every "
                "row; leave it out."
            )
        labels = self._checked(split, self.task.read_labels(source, self.progress.note), source.path)
        return forget_labels(labels, keep, source.origin) if split == "train" and keep is not None else labels

    def _checked(self, split: str, labels: Any, path: str) -> Any:
        if split == "validation" and not self.task.labelled(labels):
            raise DataError(
                f"No row of {path} has a label, so it cannot tell which student is best; name labelled rows or leave "
                "data.validation out."
            )
        return labels

    def _label_names(self) -> list[str] | None:
        source = self.source("train")
        if isinstance(source, RunningText):
            return label_names(self.recipe.task, self.root, []) or None
        values, stated = (source.labels(), source.label_names) if source else ([], None)
        return label_names(self.recipe.task, self.root, values, stated) or None

    def given_keys(self) -> dict[str, str]:
        """A hash of each model that the caller holds, by side."""
        for side, model in self.given.items():
            self._given_keys.setdefault(side, model_key(model))
        return dict(self._given_keys)

    def fingerprint(self, plan: StagePlan | None = None) -> str:
        """A hash of a stage's data, or of all data, for telling whether two runs saw the same."""
        plans = self.recipe.stages if plan is None else (plan,)
        read = dict.fromkeys((self.data_of(plan), split) for plan in plans for split in splits_of(plan))
        sources = [self.source(split, data) for data, split in read]
        return text_hash("|".join(source.fingerprint if source else "" for source in sources))


def tokenized(
    source: Source,
    task: Task,
    student: PreTrainedTokenizerBase,
    teacher: PreTrainedTokenizerBase | None,
    max_length: int,
    labels: Any,
    cache: Path,
    progress: Progress,
) -> Examples:
    """Rows as the student reads them and, where there is a teacher with a tokenizer of its own, as that does."""

    def tokens(tokenizer: PreTrainedTokenizerBase) -> TokenTable:
        return encode(source, task, tokenizer, max_length, cache, progress)

    pad, masking = student.pad_token_id or 0, task.masking(student)
    if teacher is None or same_tokenizer(student, teacher):
        return Examples(tokens(student), None, labels, task, (pad, pad), masking, source)
    return Examples(tokens(student), tokens(teacher), labels, task, (pad, teacher.pad_token_id or 0), masking, source)


def model_key(model: Model) -> str:
    """A hash of a model's kind, config, weights and tokenizer."""
    digest = hashlib.sha256(f"{type(model.module)} {tokenizer_key(model.tokenizer)}".encode())
    digest.update(repr(getattr(model.module, "config", None)).encode())
    for name, value in model.module.state_dict().items():
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def same_tokenizer(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether two tokenizers turn every text into the same tokens."""
    return one is other or tokenizer_key(one) == tokenizer_key(other)


def cache_folder() -> Path:
    """Where tokenized data is kept: `POTSTILL_CACHE`, else `potstill` in the user's cache folder.

    Raises: DataError where a file stands there.
    """
    base = os.environ.get("POTSTILL_CACHE")
    path = Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "potstill"
    if path.exists() and not path.is_dir():
        raise DataError(f"'{path}', where tokens are kept, is no folder; set POTSTILL_CACHE to another place.")
    return path
