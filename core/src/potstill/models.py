"""Teachers, students and tokenizers from hub ids, folders, configs and a teacher's layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from potstill.complaints import validated
from potstill.errors import ModelError, did_you_mean
from potstill.layers import Layers
from potstill.places import find_place, first_line, read_config, read_table, register_kind
from potstill.recipe import ModelConfig, TaskConfig
from potstill.tasks import Task, load_task, task_class, task_with_head
from potstill.tokenizers import load_tokenizer

CARD = "potstill.json"
"""Beside a saved student: its task, labels and columns."""


@dataclass
class Model:
    """A module and its tokenizer.

    Attributes:
        module: a transformers model with a head for the task.
        tokenizer: turns text into the module's inputs.
        fresh: names of parameters that no checkpoint gave a value, such as a new head's.
    """

    module: nn.Module
    tokenizer: PreTrainedTokenizerBase
    fresh: tuple[str, ...] = ()


def from_recipe(
    spec: ModelConfig,
    task: Task,
    root: Path,
    *,
    teacher: Model | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Model:
    """The model that a `[teacher]` or `[student]` table describes.

    Args:
        spec: the table; one with `plugin` is that plugin's business.
        task: decides the head.
        root: folders and files are looked for here first.
        teacher: where the layers of `layers` come from.
        tokenizer: of a model from a config whose table names none.
    """
    if spec.model is not None:
        return load_model(find_place(spec.model, root), task, spec.tokenizer, root, trust=spec.trust_remote_code)
    if spec.layers is not None:
        if teacher is None:
            raise ModelError(
                f"A student from the teacher's layers {list(spec.layers)} needs a teacher, and there is none."
            )
        return student_from_layers(teacher, spec.layers, task, spec.config or {})
    if spec.plugin is not None:
        raise ModelError(
            f"The plugin '{spec.plugin}' builds no such model; name one that does, or model, config, layers."
        )
    if spec.config is None:
        raise ModelError("A model table needs one of: model, config, layers, plugin.")
    if spec.tokenizer is not None:
        tokenizer = load_tokenizer(spec.tokenizer, root)
    if tokenizer is None:
        raise ModelError("A model from a config needs a tokenizer: a folder, a hub id, or a vocabulary file.")
    return from_config(spec.config, tokenizer, task)


def from_config(config: dict[str, Any], tokenizer: PreTrainedTokenizerBase, task: Task) -> Model:
    """A model with random weights. `vocab_size` and `pad_token_id` follow the tokenizer unless given."""
    settings = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **task.head(), **config}
    kind = settings.pop("model_type", None)
    if kind is None:
        raise ModelError("A model's config needs model_type, for example model_type = 'bert'.")
    register_kind(kind)
    if kind not in CONFIG_MAPPING:
        raise ModelError(f"There is no model_type '{kind}'.{did_you_mean(kind, list(CONFIG_MAPPING))}")
    _check_keys(CONFIG_MAPPING[kind], config)
    _check_vocabulary(settings["vocab_size"], tokenizer)
    try:
        made = AutoConfig.for_model(kind, **settings)
        module = _auto(task).from_config(made)
    except (ValueError, KeyError, TypeError, RuntimeError, StrictDataclassError) as error:
        raise ModelError(f"The config of a '{kind}' model cannot be used: {first_line(error)}.") from error
    return Model(module, tokenizer, fresh=tuple(name for name, _ in module.named_parameters()))


def _check_keys(kind: type[PretrainedConfig], keys: Iterable[str]) -> None:
    """A misspelt key would be kept in the config, and mean nothing."""
    default = kind()
    for key in keys:
        if key != "model_type" and not hasattr(default, key):
            raise ModelError(
                f"The config of a '{kind.model_type}' model has no '{key}'.{did_you_mean(key, default.to_dict())}"
            )


def check_length(module: nn.Module, max_length: int, side: str) -> None:
    """Raises: ModelError where the model cannot read rows of that many tokens."""
    longest = longest_row(module)
    if longest is not None and max_length > longest:
        raise ModelError(
            f"max_length = {max_length} (data.max_length, --max-length), but the {side} reads {longest} tokens a row "
            f"at most; set it to {longest} or less."
        )


def longest_row(module: nn.Module) -> int | None:
    """How many tokens a row may have, by the model's table of positions; None where it has none."""
    for name, part in module.named_modules():
        if name.endswith(("position_embeddings", "wpe")) and isinstance(part, nn.Embedding):
            # RoBERTa's positions count on from the padding token's number.
            return part.num_embeddings - (0 if part.padding_idx is None else part.padding_idx + 1)
    return None


def _check_vocabulary(size: int, tokenizer: PreTrainedTokenizerBase) -> None:
    if size < len(tokenizer):
        raise ModelError(f"vocab_size = {size} is smaller than the tokenizer's vocabulary of {len(tokenizer)}.")


def load_model(
    place: str | Path,
    task: Task | None = None,
    tokenizer: str | None = None,
    root: Path | None = None,
    *,
    trust: bool = False,
) -> Model:
    """A model from a folder or a hub id, with a head for the task.

    Args:
        task: the one the folder was saved with where it is left out.

    Raises:
        ModelError: nothing there, a pickle checkpoint, remote code, a head that does not fit, or one of another kind of
            task that would be taken as it is, since it has the same name and shape.
    """
    folder = Path(place)
    if folder.is_dir():
        check_folder(folder)
    elif folder.is_absolute() or str(place).startswith((".", "~")):
        raise ModelError(f"There is no model folder {place}.")
    task = task or task_of(folder)
    head = _head(folder, task)
    try:
        # What the config does not know stays out: transformers would hand it to the model, which takes nothing else.
        config, _ = AutoConfig.from_pretrained(str(place), trust_remote_code=trust, return_unused_kwargs=True, **head)
        # Checkpoints in half precision are trained in full: a plugin decides otherwise, not a file.
        module, info = _auto(task).from_pretrained(
            str(place),
            config=config,
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=trust,
            dtype=torch.float32,
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError, StrictDataclassError) as error:
        if "mismatched_sizes" in str(error):
            _check_kind(folder, task)
        raise ModelError(why_not(str(place), error)) from error
    body = f"{module.base_model_prefix}."
    if "num_labels" in head and all(name.startswith(body) for name in info["missing_keys"]):
        _check_kind(folder, task)  # the head is the file's, and none would say that it was made for something else
    words = load_tokenizer(tokenizer, root) if tokenizer else load_tokenizer(str(place), None, trust=trust)
    _check_vocabulary(getattr(module.config, "vocab_size", len(words)), words)
    return Model(module, words, fresh=tuple(sorted(info["missing_keys"])))


def load_trained(place: str | Path, task: Task) -> Model:
    """`load_model` of one that is taken as trained for the task.

    Raises: ModelError where a part of it has no value, too.
    """
    model = load_model(place, task)
    if model.fresh:
        _check_kind(Path(place), task)
        raise ModelError(
            f"The model in {place} is not trained for this: no checkpoint gave its {model.fresh[-1]} a value."
        )
    return model


def read_card(folder: Path) -> dict[str, Any]:
    """What a saved student was made for: "task", "max_length" and the columns; {} for other folders."""
    return read_table(folder / CARD)


def task_of(folder: Path) -> Task:
    """The task of a saved model: from its card, else by the class in its config.json, else what transformers takes the
    labels there for."""
    card = read_card(folder).get("task", {})
    config = validated(TaskConfig, card, lambda _: f"{folder / CARD}, 'task': ")
    if not card:
        kind = _kind_of(folder) or _by_labels(read_config(folder))
        config = config.model_copy(update={"kind": kind})
    if task_class(config.kind).named and config.labels is None and (folder / "config.json").is_file():
        config = config.model_copy(update={"labels": list(_labels(read_config(folder)).values())})
    return load_task(config, config.labels if isinstance(config.labels, list) else None)


def _kind_of(folder: Path) -> str | None:
    """The kind of task that a folder's model was made for: by its card, else by the class in its config.json; None
    where neither tells."""
    card = read_card(folder).get("task", {})
    if isinstance(card, dict) and "kind" in card:
        return str(card["kind"])
    config = read_config(folder)
    kind = task_with_head(_architecture(config))
    if kind is None and _architecture(config).endswith("ForSequenceClassification"):
        return _by_labels(config)
    return kind


def _by_labels(config: dict[str, Any]) -> str:
    """What transformers takes the labels of a row for: regression where there is one, else classification."""
    several = config.get("problem_type") == "multi_label_classification"
    return "multi-label" if several else "regression" if len(_labels(config)) == 1 else "text-classification"


def _check_kind(folder: Path, task: Task) -> None:
    """Raises: ModelError where a folder's model has the head of another kind of task, going by its config.json."""
    kind = _kind_of(folder)
    if kind not in (None, task.name) and not _same_head(read_config(folder), task):
        raise ModelError(
            f"The model in {folder} was made for the task '{kind}', and this one is '{task.name}'; name a model that "
            "was made for it, or one without a head."
        )


def _same_head(config: dict[str, Any], task: Task) -> bool:
    """Whether a config is that of a model whose head decides what the task's does, as far as it tells."""
    wanted = task.head().get("problem_type")
    # One label is a value to transformers; what several are is open where no training wrote it down.
    found = config.get("problem_type") or ("regression" if len(_labels(config)) == 1 else None)
    return _same_class(config, task) and (wanted in (None, found) or (found is None and wanted != "regression"))


def _same_class(config: dict[str, Any], task: Task) -> bool:
    """Whether a config is that of a model class with the head that the task has."""
    return _architecture(config).endswith((task.auto_class.removeprefix("AutoModel"), *task.architectures))


def _architecture(config: dict[str, Any]) -> str:
    return str((config.get("architectures") or [""])[0])


def _head(folder: Path, task: Task) -> dict[str, Any]:
    """The head's settings, after a check that a folder's own labels are the task's."""
    head = task.head()
    config = read_config(folder)
    if not _same_class(config, task):
        return head
    _check_kind(folder, task)
    names, wanted = list(_labels(config).values()), list(head.get("id2label", {}).values())
    if len(names) != head.get("num_labels", len(names)):
        raise ModelError(
            f"The model in {folder} tells {len(names)} labels apart ({_listed(names)}), and the task has "
            f"{head['num_labels']} ({_listed(wanted)})."
        )
    if names != wanted and sorted(names) == sorted(wanted):
        raise ModelError(
            f"The model in {folder} numbers its labels {', '.join(names)}, and the task {', '.join(wanted)}; "
            "write task.labels in the model's order."
        )
    return head


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (", …" if len(names) > 12 else "")


def _labels(config: dict[str, Any]) -> dict[str, str]:
    """Label names by number, in order; a config leaves transformers' own two out."""
    names = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    return {key: names[key] for key in sorted(names, key=int)}


def check_folder(folder: Path) -> None:
    """Raises: ModelError where a folder is no model that can be read without running code."""
    config = folder / "config.json"
    if not config.is_file():
        raise ModelError(f"The folder {folder} holds no config.json, so it is not a model.")
    if not list(folder.glob("*.safetensors")):
        pickles = [path.name for path in (*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth"))]
        if pickles:
            raise ModelError(
                f"{folder / pickles[0]} is a pickle, which can run code when opened; "
                "save the model again with save_pretrained, which writes model.safetensors."
            )
        raise ModelError(f"The folder {folder} holds no model.safetensors.")
    register_kind(read_config(folder).get("model_type", ""))


def why_not(place: str, error: Exception) -> str:
    """The sentence for what transformers raised when it was to load a model."""
    if "trust_remote_code" in str(error):
        return f"The model '{place}' needs code of its own; set trust_remote_code = true in its table if you trust it."
    if not Path(place).exists() and isinstance(error, OSError):
        return (
            f"The model '{place}' is neither a folder here nor could it be fetched from the hub: {first_line(error)}."
        )
    if "mismatched_sizes" in str(error):
        return f"The model '{place}' has weights of another shape than its config.json and this task ask for."
    if isinstance(error, SafetensorError):
        return (
            f"The weights of the model '{place}' are cut short or no safetensors ({first_line(error)}); put back "
            "a whole copy, or save the model again with save_pretrained."
        )
    return f"The model '{place}' could not be loaded: {first_line(error)}."


def student_from_layers(teacher: Model, layers: Sequence[int], task: Task, changes: dict[str, Any]) -> Model:
    """A student that starts as some of the teacher's layers, everything outside the layers copied too.

    Args:
        layers: the teacher's layers, from 1 (or -1 from the end); layer i of the student starts as `layers[i - 1]`.
        changes: keys of the teacher's config that the student has otherwise.

    Raises:
        ModelError: a layer that is not there, shared layers, or changes that alter a shape.
    """
    source = cast(transformers.PreTrainedModel, teacher.module)
    found = Layers.of(source)
    numbers = [found.exact(layer, first=1, side="teacher") for layer in layers]
    if found.shared:
        raise ModelError(f"The layers of a {type(source).__name__} share their weights, so none can be picked.")
    given = source.config.to_dict()
    # What a config lists layer by layer goes along with the layers.
    kept = {key: [given[key][i - 1] for i in numbers] for key in given if key.endswith("layer_types") and given[key]}
    _check_keys(type(source.config), changes)
    config = type(source.config).from_dict(
        {**given, **kept, **task.head(), **changes, "num_hidden_layers": len(numbers)}
    )
    module = type(source)(config)
    copied = _copied_weights(source.state_dict(), found.name, numbers)
    own = module.state_dict()
    unequal = [name for name, value in copied.items() if name in own and own[name].shape != value.shape]
    if unequal:
        raise ModelError(
            f"A student from the teacher's layers {list(layers)} cannot have another shape: {unequal[0]} is "
            f"{list(copied[unequal[0]].shape)} in the teacher and {list(own[unequal[0]].shape)} in the student."
        )
    odd = sorted(own.keys() ^ copied.keys())
    if odd:
        raise ModelError(
            f"A student cannot start as the teacher's layers {list(layers)}: {odd[0]} is in only one of the two, since "
            f"not all layers of a {type(source).__name__} are alike."
        )
    module.load_state_dict(copied)
    return Model(module, teacher.tokenizer)


def _copied_weights(state: dict[str, Tensor], name: str, numbers: Sequence[int]) -> dict[str, Tensor]:
    copied: dict[str, Tensor] = {}
    for key, value in state.items():
        if not key.startswith(name + "."):
            copied[key] = value
            continue
        number, rest = key[len(name) + 1 :].split(".", 1)
        for mine, theirs in enumerate(numbers):
            if int(number) == theirs - 1:
                copied[f"{name}.{mine}.{rest}"] = value
    return copied


def _auto(task: Task) -> Any:
    return getattr(transformers, task.auto_class)
