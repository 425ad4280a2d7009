"""A model in torch → one ONNX file with dynamic batch and sequence axes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from potstill.errors import ModelError, PotstillError
from potstill.timing.runtimes import VOCABULARY_KEY
from potstill_onnx.attention import NODE, exchangeable, exchanged
from potstill_onnx.config import Attention, Kind
from potstill_onnx.inputs import input_names, made_up, vocabulary_of

if TYPE_CHECKING:
    from potstill.tasks import Task

ROWS, TOKENS = 3, 11  # of the example; a size of 0 or 1 would be taken for a constant
SINGLE_FILE = 1_900_000_000  # bytes; protobuf ends at 2 GiB


@dataclass(frozen=True)
class Converted:
    """What was written: the ONNX file, then that of its weights where it is apart; and how its attention is written."""

    files: list[Path]
    attention: Kind


def convert(
    module: nn.Module,
    task: Task,
    inputs: Mapping[str, Tensor],
    path: Path,
    *,
    max_length: int,
    opset: int = 20,
    attention: Attention = "auto",
) -> Converted:
    """Writes a model as ONNX: inputs [batch, sequence] under the names torch knows them by, output "logits".

    The module is in the mode and has the attention it had before, whatever happens.

    Args:
        module: takes `input_ids` and whatever else of `inputs` its forward names.
        task: finds the logits in what the module returns.
        inputs: a batch's; names and types count, values do not.
        path: the file; weights beyond 2 GB go to a second one beside it.
        max_length: the longest row the model takes.
        opset: of the standard operators.
        attention: how it is written; "auto" is fused where it can be.

    Raises:
        PotstillError: the exporter gives up.
        ModelError: "fused" attention of a model that has none, or whose attention cannot be exchanged.
    """
    names = input_names(module, inputs)
    length = max(2, min(TOKENS, max_length))
    example = made_up(inputs, ROWS, length, ragged=True, vocabulary=vocabulary_of(module))
    arguments = _Logits(module, task, names), {name: example[name] for name in names}, opset
    fuse = attention != "plain" and exchangeable(module)
    try:
        program = _program(*arguments, "fused" if fuse else "plain")
    except ModelError:  # an attention that the node cannot express
        if attention == "fused":
            raise
        program = _program(*arguments, "plain")
    fused = any(node.op_type == NODE for node in program.model.graph.all_nodes())
    if attention == "fused" and not fused:
        raise ModelError(f"A {type(module).__name__} has no attention that can be fused; use attention = 'plain'.")
    return Converted(_save(program, module, path), "fused" if fused else "plain")


def _program(wrapped: _Logits, example: Mapping[str, Tensor], opset: int, kind: Kind) -> Any:
    """torch's ONNX program of a model."""
    module, axes = wrapped.module, {0: "batch", 1: "sequence"}
    with evaluating(module), exchanged(module, kind), _quiet(), torch.no_grad():
        try:
            return torch.onnx.export(
                wrapped,
                tuple(example.values()),
                dynamo=True,
                input_names=list(example),
                output_names=["logits"],
                # Without these the graph would be fixed to the example's shape.
                dynamic_shapes=(tuple(axes for _ in example),),
                opset_version=opset,
                verbose=False,
            )
        except Exception as error:
            cause = _innermost(error)
            if isinstance(cause, PotstillError):
                raise cause from None
            raise PotstillError(f"A {type(module).__name__} could not be exported to ONNX: {_line(cause)}") from error


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode within the block; after it every submodule is in the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


class _Logits(nn.Module):
    """The model as a function of tensors in a fixed order that returns its logits alone."""

    def __init__(self, module: nn.Module, task: Task, names: list[str]) -> None:
        super().__init__()
        self.module, self.task, self.names = module, task, names
        self.training = False

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.task.logits(self.module(**dict(zip(self.names, inputs, strict=True))))


def _save(program: Any, module: nn.Module, path: Path) -> list[Path]:
    model = program.model
    model.metadata_props[VOCABULARY_KEY] = str(vocabulary_of(module))
    # The exporter notes on every node where in whose source files it came from: half of a small model's file.
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    weights = sum(value.numel() * value.element_size() for value in module.state_dict().values())
    program.save(path, external_data=weights > SINGLE_FILE)
    return files_of(path)


def files_of(path: Path) -> list[Path]:
    """An ONNX file, and the one of its weights where they are apart."""
    return [file for file in (path, path.with_name(path.name + ".data")) if file.is_file()]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's warnings and log lines; errors are raised, not logged."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _innermost(error: BaseException) -> BaseException:
    """The error that began it, which says what the exporter could not do."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
