"""Which inputs a model takes, and made-up ones of any shape."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from potstill.errors import PotstillError
from potstill.timing.locate import DEFAULT_VOCABULARY


def input_names(module: nn.Module, inputs: Mapping[str, Tensor]) -> list[str]:
    """Which of a batch's inputs the model takes by name, in the order of the batch.

    Raises: PotstillError where `input_ids` is not among them.
    """
    known = inspect.signature(module.forward).parameters
    names = [name for name in inputs if name in known]
    if "input_ids" not in names:
        raise PotstillError(
            f"A {type(module).__name__} cannot be exported: its forward takes {', '.join(known)}, "
            f"and a batch holds {', '.join(inputs)}; both need input_ids."
        )
    return names


def vocabulary_of(module: nn.Module) -> int:
    """How many token ids a model knows: by its config, else by its largest embedding table, else 1000."""
    stated = getattr(getattr(module, "config", None), "vocab_size", None)
    if stated:
        return int(stated)
    tables = [part.num_embeddings for part in module.modules() if isinstance(part, nn.Embedding)]
    return max(tables, default=DEFAULT_VOCABULARY)


def made_up(like: Mapping[str, Tensor], batch: int, length: int, *, ragged: bool, vocabulary: int) -> dict[str, Tensor]:
    """Inputs [batch, length] with the names and types of a batch's; the same ones each time.

    Args:
        like: a batch's inputs. Token types are ones in the second half where there are ones here.
        ragged: rows get shorter one by one, down to one token; else nothing is padded.
        vocabulary: token ids are drawn below it.
    """
    lengths = torch.linspace(length, 1, batch).long() if ragged else torch.full((batch,), length)
    inside = torch.arange(length)[None] < lengths[:, None]
    second = inside & (torch.arange(length) >= length - length // 2)
    draw = torch.Generator().manual_seed(0)
    made: dict[str, Tensor] = {}
    for name, values in like.items():
        if "mask" in name:
            made[name] = inside.to(values.dtype)
        elif name == "token_type_ids":
            made[name] = (second if bool(values.any()) else torch.zeros_like(inside)).to(values.dtype)
        else:
            made[name] = torch.randint(0, vocabulary, (batch, length), generator=draw).to(values.dtype)
    return made
