"""A model in torch → one ONNX file with dynamic batch and sequence axes."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from potstill.errors import PotstillError
from potstill.timing.runtimes import VOCABULARY_KEY
from potstill_onnx.attention import Kind, attention

if TYPE_CHECKING:
    from potstill.tasks import Task

ROWS, TOKENS = 3, 11  # of the example; sizes of 0 and 1 would be taken for constants
SINGLE_FILE = 1_900_000_000  # bytes; protobuf ends at 2 GiB


def input_names(module: nn.Module, inputs: Mapping[str, Tensor]) -> list[str]:
    """Which of a batch's inputs the model takes by name, in the order of the batch."""
    known = inspect.signature(module.forward).parameters
    names = [name for name in inputs if name in known]
    if "input_ids" not in names:
        raise PotstillError(
            f"A {type(module).__name__} cannot be exported: its forward takes {', '.join(known)}, "
            f"and a batch holds {', '.join(inputs)}; both need input_ids."
        )
    return names


def convert(
    module: nn.Module,
    task: Task,
    inputs: Mapping[str, Tensor],
    path: Path,
    *,
    max_length: int,
    opset: int = 20,
    kind: Kind = "plain",
) -> list[Path]:
    """Writes a model as ONNX: inputs [batch, sequence] under the names torch knows them by, output "logits".

    The module is in the mode and has the attention it had before, whatever happens.

    Args:
        module: takes `input_ids` and whatever else of `inputs` its forward names.
        task: finds the logits in what the module returns.
        inputs: a batch's; names and types count, values do not.
        path: the file; weights beyond 2 GB go to a second one beside it.
        max_length: the longest row the model takes.
        opset: of the standard operators.
        kind: how attention is written.

    Returns: the files written.
    Raises: PotstillError where the exporter gives up.
    """
    names = input_names(module, inputs)
    axes = {0: "batch", 1: "sequence"}
    with evaluating(module), attention(module, kind), _quiet(), torch.no_grad():
        try:
            program = torch.onnx.export(
                _Logits(module, task, names),
                tuple(example(inputs[name], max_length) for name in names),
                dynamo=True,
                input_names=names,
                output_names=["logits"],
                # Without these the graph would be fixed to the example's shape.
                dynamic_shapes=(tuple(axes for _ in names),),
                opset_version=opset,
                verbose=False,
            )
        except PotstillError:
            raise
        except Exception as error:
            raise PotstillError(f"A {type(module).__name__} could not be exported to ONNX: {_cause(error)}") from error
        assert program is not None
        return _save(program, module, path)


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


def example(values: Tensor, max_length: int) -> Tensor:
    """Inputs of an example's shape made of a batch's: [3, at most 11], of a mask the last row half zeros."""
    length = max(2, min(TOKENS, max_length))
    row = values.reshape(-1)[:1].expand(ROWS, length).clone() if values.numel() else values.new_zeros(ROWS, length)
    if bool((row == 1).all()):
        row[-1, length // 2 :] = 0
    return row


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
    size = getattr(getattr(module, "config", None), "vocab_size", None)
    if size:
        model.metadata_props[VOCABULARY_KEY] = str(size)
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


def _cause(error: BaseException) -> str:
    """The first line of the innermost error, which says what the exporter could not do."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
