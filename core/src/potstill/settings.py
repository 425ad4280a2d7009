"""The tables of a recipe, one model each: what may be written, in which range, with which default."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, field_validator, model_validator

from potstill.complaints import known_keys, validated
from potstill.errors import did_you_mean

Positive = Annotated[int, Field(ge=1)]
LARGEST_SEED = 2**32 - 1
"""What numpy and others take too."""
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
Strings = Annotated[tuple[str, ...], Strict(False)]
Columns = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    Strict(False),
    Field(json_schema_extra={"minItems": 2, "uniqueItems": True}),  # refused in a sentence of their own
]


def _as_toml(value: Any, where: str = "") -> Any:
    """The value with tuples as lists, so that a dumped recipe loads back equal."""
    if isinstance(value, dict):
        return {str(key): _as_toml(inner, f"{where}.{key}" if where else str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_as_toml(inner, where) for inner in value]
    if isinstance(value, str | bool | int | float):
        return value
    raise ValueError(f"'{where}' is {value!r}, and a recipe holds text, numbers, true, false, lists and tables")


def _as_name(value: str) -> str:
    """A name that can be a folder's and a key's: `stage.2.epochs` means a number, so names are none."""
    if not re.fullmatch(r"[\w-]+", value) or value.isdecimal():
        raise ValueError("a name is made of letters, digits, '-' and '_', and is not a number")
    return value


Table = Annotated[dict[str, Any], AfterValidator(_as_toml)]


class Settings(BaseModel):
    """Base of the tables: frozen, and an unknown key or text for a number is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class TaskConfig(Settings):
    """`[task]`: what the models learn to do. Keys that are none of this table's are options of the task."""

    kind: str = "text-classification"
    """The kind of task, such as "text-classification" or "regression"."""
    metric: str | None = None
    """What decides which student is best; the task's own choice where it is left out."""
    labels: Annotated[list[str], Strict(False)] | str | None = None
    """The labels' names in order, or a file with one name a line; found in the training data where it is left out."""
    options: Table = Field(default_factory=dict)
    """The task's own options; written straight into the table."""

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("options", {}), dict):
            return data
        own = {key: value for key, value in data.items() if key in cls.model_fields}
        others = {key: value for key, value in data.items() if key not in own}
        return {**own, "options": {**own.get("options", {}), **others}}


class CorpusConfig(Settings):
    """`[data.corpus]`: the rows are running text without labels, prepared once as sequences of tokens."""

    layout: Literal["split", "pack", "cut"] = "split"
    """What becomes of documents: "split" makes several sequences of a long one, "pack" joins them to full sequences,
    "cut" makes one sequence of each and leaves out what is longer."""
    min_tokens: Positive = 12
    """Shorter sequences, special tokens counted, are dropped."""
    max_unknown: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Sequences with this share of unknown tokens or more are dropped; 1 keeps all."""
    order: Literal["shuffled", "files"] = "shuffled"
    """An epoch's order: "shuffled", or "files": the files in a new order every epoch, each one's rows in theirs."""
    bad_rows: Literal["refuse", "skip"] = "refuse"
    """What happens at a damaged row or file: an error, or it is left out and counted."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Pieces of text that are prepared at once; 0 means one a usable core."""


class DataConfig(Settings):
    """`[data]`: where the rows come from and which columns hold what."""

    train: str | None = None
    """Training rows: a file, a folder, or a hub id with a split, such as "ag_news::train"."""
    validation: str | None = None
    """Rows that decide which student is best."""
    test: str | None = None
    """Rows that are only looked at when a stage is finished."""
    text: Annotated[str, Field(min_length=1)] | None = None
    """The column with the text, the words or the question; "text", "words" or "question" where it is left out, as the
    task has it."""
    text_pair: str | None = None
    """The column with the second text, for pairs, or the context of a question; none, or "context", where it is left
    out, as the task has it."""
    label: Columns | str | None = None
    """The column with the label, the tags or the answers; "label", "tags" or "answers" where it is left out, as the
    task has it, and "" where there is none. In multi-label also a list of columns, one of 0 and 1 for each class."""
    max_length: Positive = 128
    """Texts are cut to this number of tokens."""
    train_rows: Positive | None = None
    """Read only the first n training rows."""
    validation_rows: Positive | None = None
    """Read only the first n validation rows."""
    test_rows: Positive | None = None
    """Read only the first n test rows."""
    labelled_rows: Annotated[int, Field(ge=0)] | None = None
    """Only the first n training rows keep their label; the others teach by the teacher alone."""
    corpus: CorpusConfig | None = None
    """A table of its own, `[data.corpus]`: the rows are running text; "" in a stage whose rows are not."""

    @field_validator("corpus", mode="before")
    @classmethod
    def _none(cls, value: Any) -> Any:
        return None if value == "" else value

    @field_validator("label", mode="after")
    @classmethod
    def _a_column_a_class(cls, value: tuple[str, ...] | str | None) -> tuple[str, ...] | str | None:
        names = value if isinstance(value, tuple) else ()
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"'{twice}' stands there twice; each class has a column of its own")
        if isinstance(value, tuple) and len(value) < 2:
            raise ValueError("a list names a column for each class, 2 or more; write a column by itself as text")
        return value

    @model_validator(mode="after")
    def _no_pairs_in_a_corpus(self) -> Self:
        for key in ("text_pair", "labelled_rows"):
            if self.corpus is not None and getattr(self, key) not in (None, ""):
                raise ValueError(
                    f"'{key}' and the table 'corpus' are both given, and running text has no pairs or labels"
                )
        return self


class ModelConfig(Settings):
    """`[teacher]` or `[student]`: exactly one of `model`, `config`, `layers` and `plugin`.

    `layers` may have a `config` beside it, whose keys then override the teacher's. Beside `plugin`, `layers` is an
    option of the plugin like every key that is none of this table's.
    """

    model: str | None = None
    """A hub id or a folder."""
    config: Table | None = None
    """A configuration with `model_type`, to start from random weights."""
    layers: Annotated[tuple[Positive, ...], Field(min_length=1), Strict(False)] | None = None
    """The student is made of these layers of the teacher, counted from 1."""
    tokenizer: str | None = None
    """A hub id, a folder, a tokenizer.json, or a .txt vocabulary with one token a line."""
    plugin: str | None = None
    """The plugin that builds the model; the table's other keys are its options."""
    trust_remote_code: bool = False
    """Run code that comes with a model from the hub."""
    options: Table = Field(default_factory=dict)
    """The plugin's options; written straight into the table."""

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("plugin") is None:
            return data
        own = {key: value for key, value in data.items() if key in cls.model_fields and key != "layers"}
        others = {key: value for key, value in data.items() if key not in own and (key, value) != ("layers", None)}
        options = own.get("options", {})
        return {**own, "options": {**options, **others}} if isinstance(options, dict) else data

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        sources = ("model", "config", "layers", "plugin")
        given = [key for key in sources if getattr(self, key) is not None]
        if not given:
            raise ValueError("one of 'model', 'config', 'layers' and 'plugin' must be given, and none is")
        if len(given) > 1 and given != ["config", "layers"]:
            names = " and ".join(f"'{key}'" for key in given)
            raise ValueError(f"{names} are given together, and exactly one of them says what the model is")
        if given == ["config"] and "model_type" not in (self.config or {}):
            raise ValueError("config has no 'model_type', such as model_type = \"bert\"")
        taken = next((key for key in self.options if key in type(self).model_fields and key != "layers"), None)
        if taken is not None:
            raise ValueError(f"options has '{taken}', which is a key of this table and cannot be a plugin's option")
        if self.options and self.plugin is None:
            raise ValueError(f"'{next(iter(self.options))}' is an option, and no 'plugin' is named that takes it")
        return self


Reference = str | ModelConfig
"""Which model: words that `potstill.references` tells apart, or a table of its own."""


class PluginTables(Settings):
    """Base of the tables that name plugins and hold a table of options for each."""

    plugins: Strings = ()
    """The plugins, in order: the first one's hooks are called first, and its wrappers are outermost."""
    options: dict[str, Table] = Field(default_factory=dict)
    """The plugins' options by plugin; written as tables of their own, such as `[stage.hinton]`."""

    def options_of(self, plugin: str) -> dict[str, Any]:
        """A copy of the plugin's table; empty where there is none."""
        return dict(self.options.get(plugin, {}))

    def tables(self) -> dict[str, dict[str, Any]]:
        """Every named plugin with its options, in order."""
        return {name: self.options_of(name) for name in self.plugins}

    @model_validator(mode="before")
    @classmethod
    def _gather_tables(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        tables = {key: value for key, value in data.items() if key not in cls.model_fields and isinstance(value, dict)}
        given = data.get("options", {})
        if not tables or not isinstance(given, dict):
            return data
        merged = {**given, **{name: {**given.get(name, {}), **table} for name, table in tables.items()}}
        return {**{key: value for key, value in data.items() if key not in tables}, "options": merged}

    @model_validator(mode="after")
    def _known_plugins(self) -> Self:
        for name in self.plugins:
            if self.plugins.count(name) > 1:
                raise ValueError(f"plugins names '{name}' twice")
            if name in type(self).model_fields:
                raise ValueError(f"plugins names '{name}', which is a key of this table and cannot be a plugin's name")
        for name in self.options:
            if name not in self.plugins:
                near = did_you_mean(name, [*self.plugins, *known_keys(type(self))])
                named = ", ".join(self.plugins) or "none"
                raise ValueError(f"the table '{name}' is for a plugin that plugins ({named}) does not name.{near}")
        return self


class StagePlan(PluginTables):
    """`[[stage]]`: one training."""

    name: Annotated[str, AfterValidator(_as_name)]
    """The stage's name: letters, digits, "-" and "_", not only digits."""
    trains: Literal["student", "teacher"] = "student"
    """Which of the two models is trained."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    """How many times all rows are seen; 3 where `updates` is left out too."""
    updates: Positive | None = None
    """How many times the weights are changed; instead of `epochs`."""
    batch_size: Positive = 32
    """Rows of a micro-batch."""
    eval_batch_size: Positive = 64
    """Rows of a batch in evaluation."""
    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    """The highest learning rate."""
    betas: Annotated[tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]], Strict(False)] = (
        0.9,
        0.999,
    )
    """AdamW's two rates of forgetting."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """AdamW's epsilon."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's weight decay; biases and norms are left out."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after the warm-up."""
    warmup: Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Updates until the highest learning rate: a whole number, or a fraction of all updates."""
    warmup_start: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the learning rate at the first update; 1 / (warm-up updates + 1) where it is left out."""
    clip: Annotated[float, Field(ge=0)] | None = 1.0
    """The highest norm of all gradients together; 0 switches clipping off."""
    evaluate: bool = True
    """Whether the validation and test rows are scored; a stage that trains no head has nothing to score."""
    evaluate_every: Positive | None = None
    """Updates between evaluations; once an epoch where it is left out."""
    checkpoint_every: Positive = 500
    """Updates between checkpoints; there is one at each epoch's end too."""
    log_every: Positive = 50
    """Updates between log lines."""
    metric: str | None = None
    """What decides which model is best in this stage; the task's where it is left out."""
    early_stopping: Positive | None = None
    """Stop after this many evaluations without a better one."""
    keep: Literal["best", "last"] = "best"
    """Which model is handed on."""
    freeze: Strings = ()
    """Patterns of the names of parameters that this stage leaves as they are, such as "*position_embeddings*"."""
    teacher_once: bool = True
    """Compute the teacher's logits once a row, before the first update, where nothing else of it is looked at."""
    supervised: Annotated[float, Field(ge=0)] | None = None
    """Weight of the task's own loss; 0 where a plugin brings an objective and 1 where none does, if left out."""
    seed: Seed | None = None
    """Seed of this stage; the recipe's where it is left out."""
    teacher: Reference | None = None
    """Who teaches: "fresh" (the [teacher] table), "previous", "stage:NAME", a folder, a hub id, or a table."""
    teachers: dict[str, Reference] = Field(default_factory=dict)
    """Several teachers by name, instead of `teacher`; they share a tokenizer."""
    student: Reference | None = None
    """What is trained from: "fresh" (the table), "previous", "stage:NAME", a folder, a hub id, or a table."""
    data: Table = Field(default_factory=dict)
    """Keys of [data] that this stage has otherwise."""

    @model_validator(mode="before")
    @classmethod
    def _default_length(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("epochs") is None and data.get("updates") is None:
            return {**data, "epochs": 3.0}
        return data

    @field_validator("clip", mode="before")
    @classmethod
    def _no_clipping(cls, value: Any) -> Any:
        return None if isinstance(value, int | float) and not isinstance(value, bool) and value == 0 else value

    @model_validator(mode="after")
    def _length(self) -> Self:
        if self.epochs is not None and self.updates is not None:
            raise ValueError(f"epochs = {self.epochs:g} and updates = {self.updates} are both given; give one of them")
        if self.updates is not None and isinstance(self.warmup, int) and self.warmup > self.updates:
            raise ValueError(f"warmup = {self.warmup} is more than all updates = {self.updates}")
        return self

    @model_validator(mode="after")
    def _teacher_or_teachers(self) -> Self:
        if self.teacher is not None and self.teachers:
            raise ValueError("'teacher' and 'teachers' are both given; give one of them")
        return self

    @property
    def every_teacher(self) -> dict[str, Reference]:
        """The teachers by name; the only one has the name ""."""
        return self.teachers if self.teacher is None else {"": self.teacher}

    def with_(self, **changes: Any) -> StagePlan:
        """This plan with some keys changed: `plan.with_(name="task", student="previous", updates=100)`.

        `epochs` and `updates` replace each other; the table of a plugin that is no longer named goes; a
        plugin's table may be given by its name, and its keys are then changed in the table that is there.

        Raises: RecipeError for a key or value that cannot be.
        """
        data = {key: value for key, value in self.model_dump().items() if value is not None or key == "clip"}
        if changes.get("epochs") is not None:
            data.pop("updates", None)
        if changes.get("updates") is not None:
            data.pop("epochs", None)
        data.update(changes)
        if "options" not in changes:
            data["options"] = {name: table for name, table in self.options.items() if name in data["plugins"]}
        return validated(type(self), data, lambda location: f"stage '{self.name}': ")


class ExportConfig(PluginTables):
    """`[export]`: in which forms the finished student is written."""
