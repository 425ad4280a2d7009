"""Tasks: what a model's head predicts, how text becomes tokens, labels numbers, logits losses and metrics.

An entry point in the group `potstill.tasks` names a class; the recipe's `task.kind` chooses one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from potstill.batch import EXAMPLE, Unit
from potstill.complaints import known_keys, validated
from potstill.data.encode import Encoded, tokenize, tokenizer_key
from potstill.data.examples import has_labels
from potstill.data.shapes import PLAIN, Shapes
from potstill.discovery import installed
from potstill.errors import ModelError, PluginError, RecipeError, did_you_mean
from potstill.settings import Settings
from potstill.tasks.scores import LOWER_IS_BETTER as LOWER_IS_BETTER
from potstill.tasks.scores import better as better

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from potstill.batch import Batch
    from potstill.collate import Masked
    from potstill.data.columns import Columns
    from potstill.data.examples import Examples
    from potstill.data.source import Source
    from potstill.data.table import Tokens
    from potstill.details import Details
    from potstill.models import Model
    from potstill.recipe import TaskConfig

    Labels = npt.NDArray[Any] | list[Any]

GROUP = "potstill.tasks"


@dataclass(frozen=True)
class Prediction:
    """One thing that a model predicts, as losses between teacher and student compare it.

    Attributes:
        name: unique within the task.
        logits: [n, classes]; [n, 1] for a value.
        kind: "categorical" (softmax), "bernoulli" (sigmoid each), "value" (compared as it is).
        per: the unit that a mean over the n rows is a mean of.
        labels: [n] classes, negative where there is no label, for a task whose labels are not one a row of the batch.
        choices: [n, classes] true at the classes that a row can be, where the others are padding; None: all of them.
            What cannot be is alike, and far below all else, in the logits of teacher and student.
    """

    name: str
    logits: Tensor
    kind: Literal["categorical", "value", "bernoulli"]
    per: Unit = EXAMPLE
    labels: Tensor | None = None
    choices: Tensor | None = None


def full_precision(logits: Tensor) -> Tensor:
    """Half-precision logits as float32, in which losses are computed; others as they are (float64 stays)."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def class_mean(values: Tensor, choices: Tensor | None) -> Tensor:
    """[..., classes] as a mean over the classes, [...]: over `Prediction.choices` alone, whatever the padding."""
    return values.mean(-1) if choices is None else values.where(choices, 0).sum(-1) / choices.sum(-1)


class Task(ABC):
    """Base of every task.

    Args:
        config: the recipe's table `[task]`.
        names: the classes' names in the order of their numbers; None where the task has none.
    """

    name: ClassVar[str]
    """As in the recipe; equal to the entry point's name."""
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    """The class of `transformers` that reads a model for this task."""
    default_metric: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]]
    """What `score` may return; beside these there is always "loss"."""
    label_column: ClassVar[bool] = True
    """Whether the data has a column of labels; without one, `masking` makes labels of the text."""
    label_columns: ClassVar[bool] = False
    """Whether the label may stand in a list of columns too, one of 0 and 1 for each class; its shape is `LABELS`."""
    named: ClassVar[bool] = False
    """Whether the head's numbers are classes with names."""
    architectures: ClassVar[tuple[str, ...]] = ()
    """How the names of model classes with this task's head end, by which a model without a card is recognised."""
    columns: ClassVar[Columns] = {"text": "text", "label": "label"}
    """The names that the data's columns usually have, by role: those of a recipe or a saved model that says no others.
    """
    shapes: ClassVar[Shapes] = PLAIN
    """How the columns are read that are neither text nor one label, by role ("text", "text_pair", "label")."""
    marks: ClassVar[tuple[str, ...]] = ()
    """What `encode` keeps beside each token, such as the word it begins, -1 where there is nothing to keep.

    Predictions are about the tokens whose first mark is not negative (`Batch.valid`).
    """
    units: ClassVar[tuple[Unit, ...]] = ()
    """What its predictions are means of beside the units that every stage knows."""
    axes: ClassVar[tuple[str, ...]] = ("batch", "classes")
    """What the axes of the logits are, [batch, classes] or [batch, seq, classes]."""
    choice_axis: ClassVar[int] = -1
    """The axis of the logits over which a model chooses: classes, or the tokens of a row."""

    class Options(Settings):
        """The task's own keys in the table `[task]`; every field has a default and a description."""

    options: Any
    """An instance of `Options`."""

    def __init__(self, config: TaskConfig, names: list[str] | None) -> None:
        self.config, self.names = config, names
        self.options = checked_options(type(self), config)
        self.metric = self.checked_metric(config.metric or self.default_metric)

    @property
    def tokens_key(self) -> str:
        """Which of the options decide the tokens and their marks, with their values."""
        return ""

    def checked_metric(self, metric: str) -> str:
        """The metric's name back.

        Raises: RecipeError where the task has no such metric.
        """
        known = (*self.metrics, "loss")
        if metric not in known:
            raise RecipeError(
                f"The task '{self.name}' has no metric '{metric}'; it has {', '.join(known)}."
                f"{did_you_mean(metric, known)}"
            )
        return metric

    @abstractmethod
    def head(self) -> dict[str, Any]:
        """What a model's config needs to know of the task: num_labels, id2label, label2id, problem_type."""

    def encode(self, columns: dict[str, list[Any]], tokenizer: Any, max_length: int) -> Encoded:
        """ "input_ids" of each row and, where the tokenizer gives them, "token_type_ids"; nothing is padded.

        A task with `marks` gives these too, a list a row, as long as its tokens. One that makes several rows of one
        gives "origin": for each row, which of the rows it was given it comes from, rows of one together.

        Args:
            columns: "text" and maybe "text_pair", equally long, as their shapes read them.
            tokenizer: of `transformers`.
            max_length: the most tokens of a row, special ones included; of a pair the longer text is cut first.
        """
        return tokenize(columns["text"], columns.get("text_pair"), tokenizer, max_length)

    @abstractmethod
    def targets(self, values: list[Any], where: str) -> Labels:
        """The raw label column as numbers; a missing label (None, "", NaN) becomes `IGNORED` or NaN.

        Args:
            where: how errors name the data, such as "data.train 'a.csv'".

        Raises: DataError, naming the row, where a value is no label.
        """

    def read_labels(self, source: Source, note: Callable[[str], None]) -> Labels:
        """A label a row of the data, for tasks that compare labels with texts; here `targets` of the label column.

        Args:
            note: tells the user one sentence, such as how many rows cannot be used.

        Raises: DataError, naming the row, where a value is no label.
        """
        return self.targets(source.labels(), source.path)

    def align(self, labels: Labels, table: Tokens) -> Labels:
        """A label a row of tokens, of one a row of the data; here the same.

        Args:
            labels: as `read_labels` gives them, some of them forgotten.
            table: the student's tokens, with marks and origin.
        """
        return labels

    def labelled(self, labels: Labels) -> bool:
        """Whether any row has a label, so that a model can be measured on the rows."""
        return has_labels(labels)

    def masking(self, tokenizer: Any) -> Masked | None:
        """What makes a batch's labels of its tokens, and may hide some of these; None where labels are a column.

        It goes by each row alone, so that a model is always measured on the same tokens.

        Args:
            tokenizer: of the student, and of a teacher beside it.

        Raises: ModelError where the tokenizer will not do.
        """
        return None

    def collate_labels(self, labels: Labels, width: int) -> Tensor:
        """The labels of a batch's rows as the loss reads them; `width` is the batch's in tokens.

        Here [batch], a copy of one number a row.
        """
        return torch.tensor(labels)

    def logits(self, output: Any) -> Tensor:
        """The logits within what the model returned."""
        logits: Tensor = output["logits"] if isinstance(output, dict) else output.logits
        return logits

    @abstractmethod
    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """The supervised loss: a scalar, a mean per `TARGET`; 0 (with a gradient of 0) where no label is there."""

    @abstractmethod
    def predictions(self, logits: Tensor, batch: Batch) -> list[Prediction]:
        """What of the logits a teacher can teach, labels or no labels."""

    def outcome(self, logits: Tensor, batch: Batch) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """What `score` needs of a batch's rows: of their logits, and of their labels; here both themselves.

        All that is kept of a batch while a model is measured. A task that scores with a look at the rows gives their
        numbers (`batch.index`) in the place of labels.
        """
        return logits.float().cpu().numpy(), batch.labels.cpu().numpy()

    @abstractmethod
    def score(
        self, logits: npt.NDArray[Any] | list[npt.NDArray[Any]], labels: Labels, rows: Examples | None = None
    ) -> dict[str, float]:
        """The metrics over rows that have a label; {} where none has one. A list of logits holds parts of the rows.

        Args:
            logits, labels: as `outcome` gives them.
            rows: what was measured on, with the rows of the data and their labels.
        """

    def details(
        self, outcomes: Labels, labels: Labels, lengths: npt.NDArray[Any], rows: Examples | None = None
    ) -> Details:
        """Where the model errs, as tables that the report shows (`potstill.details`); here none.

        Asked once, at a stage's end, of the validation rows and of the test rows. The report draws the tables
        "classes", "mistakes", "lengths", "points", "intervals" and "constant"; others it shows as they are.

        Args:
            outcomes, labels: as `outcome` gives them, of all rows; as in `score`, a list holds parts of the rows.
            lengths: [rows] the student's tokens, special ones included.
        """
        return {}

    def kept(self, outcomes: Labels, labels: Labels, rows: Examples) -> tuple[Labels, Labels] | None:
        """Of each row what `rescore` needs, and what tells that another model was measured on the same rows.

        Here what `outcome` gave; None of a task with marks, whose `score` looks at the rows: such a task gives numbers
        of its own, or its scores are compared over seeds alone.
        """
        return None if self.marks else (outcomes, labels)

    def rescore(self, kept: Labels, labels: Labels) -> dict[str, float]:
        """`score` of some rows of what `kept` gave, without a look at the data; a row may be there several times."""
        return self.score(kept, labels)

    @abstractmethod
    def decode(
        self,
        logits: npt.NDArray[np.floating[Any]],
        inputs: Mapping[str, Tensor],
        tokenizer: Any,
        rows: Examples | None = None,
    ) -> list[dict[str, Any]]:
        """What to tell a user of each row of the data.

        Args:
            inputs: what the model read, by name, each [rows, seq].
            tokenizer: the model's.
            rows: these rows, with their marks and the data that they were made of.

        Raises: DataError for a row of which nothing can be told.
        """

    def check_model(self, model: Model) -> None:  # noqa: B027 - most tasks need no more than their head
        """A model can do the task.

        Raises: ModelError where it cannot, although it has the head.
        """

    def check_logits(self, student: Model, teacher: Model) -> None:
        """The teacher's logits are about the same things as the student's: a row's classes are; a task with marks
        has logits about tokens.

        Raises: ModelError where they are not.
        """
        if self.marks:
            self.check_one_tokenizer(student, teacher)

    def check_one_tokenizer(self, student: Model, teacher: Model) -> None:
        """Raises: ModelError where student and teacher read other tokens."""
        if tokenizer_key(student.tokenizer) != tokenizer_key(teacher.tokenizer):
            raise ModelError(
                f"In the task '{self.name}' the logits are about the tokens of the tokenizer, so teacher and student "
                "must share one, and they do not."
            )

    @staticmethod
    def names_from(values: Iterable[Any], options: Any = None) -> list[str]:
        """The classes' names as the training data has them, where the recipe gives none.

        Args:
            options: the task's own, checked; None: their defaults.
        """
        return []


def load_task(config: TaskConfig, names: list[str] | None = None) -> Task:
    """The task that the recipe names.

    Args:
        names: the classes' names (`label_names`).

    Raises: RecipeError for an unknown kind or metric; PluginError where the installed class is broken.
    """
    return task_class(config.kind)(config, names)


def task_class(kind: str) -> type[Task]:
    """The installed class of a kind of task.

    Raises: RecipeError for an unknown kind; PluginError where what is installed is broken.
    """
    found = [entry for entry in installed(GROUP) if entry.name == kind]
    if not found:
        known = sorted({entry.name for entry in installed(GROUP)})
        raise RecipeError(
            f"task.kind = '{kind}' is not an installed task; installed are {', '.join(known)}."
            f"{did_you_mean(kind, known)}"
        )
    loaded = found[0].load()
    if not (isinstance(loaded, type) and issubclass(loaded, Task)):
        raise PluginError(f"The task '{kind}' of {found[0].distribution} is {loaded!r}, not a subclass of Task.")
    return loaded


def checked_options(kind: type[Task], config: TaskConfig) -> Any:
    """The options of a task, of the keys in `[task]` that are not the table's own.

    Raises: RecipeError for a key or value that cannot be.
    """
    known = [*known_keys(type(config)), *kind.Options.model_fields]
    for key in config.options:
        if key not in kind.Options.model_fields:
            near = did_you_mean(key, known) or f" Known keys: {', '.join(known)}."
            raise RecipeError(f"[task]: unknown key '{key}' for the task '{kind.name}'.{near}")
    return validated(kind.Options, config.options, lambda _: "[task]: ")


def task_with_head(architecture: str) -> str | None:
    """The kind of task whose head a model class of this name has; None where its name does not tell."""
    found = (entry.name for entry in installed(GROUP) if architecture.endswith(task_class(entry.name).architectures))
    return next(found, None)
