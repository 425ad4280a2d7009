"""Which embedding table of a model is attacked: the one that reads the input ids, or the one that a name says."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from potstill.errors import ModelError


def find_embedding(model: nn.Module, wanted: str | None, where: str) -> tuple[str, nn.Embedding]:
    """The table to attack, and its weight's name.

    Args:
        wanted: part of the weight's name; None for the table that receives the input ids in a forward pass.
        where: begins an error.

    Raises: ModelError where no table, or more than one, is meant.
    """
    tables = {f"{name}.weight": part for name, part in model.named_modules() if isinstance(part, nn.Embedding)}
    kind = type(model).__name__
    if not tables:
        raise ModelError(f"{where}: the {kind} has no embedding table, so there are no word vectors to move.")
    if wanted is None:
        found, how = _readers(model, tables), "receives the input ids"
    else:
        found, how = [name for name in tables if wanted in name], f"has a name with embedding = '{wanted}' in it"
    if len(found) == 1:
        return found[0], tables[found[0]]
    if found:
        raise ModelError(
            f"{where}: more than one embedding table of the {kind} {how}: {', '.join(found)}; give as much of "
            "the one's name as embedding = '…'."
        )
    raise ModelError(f"{where}: no embedding table of the {kind} {how}; its tables: {', '.join(tables)}.")


def _readers(model: nn.Module, tables: dict[str, nn.Embedding]) -> list[str]:
    """The tables that receive the input ids, seen in a forward pass over one row."""
    # No positions, types or counts look like this.
    ids = torch.tensor([[1, 0, 1]], device=next(model.parameters()).device)
    found: list[str] = []

    def watch(name: str, table: nn.Embedding) -> RemovableHandle:
        def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            if torch.equal(args[0], ids):
                found.append(name)

        return table.register_forward_pre_hook(note)

    modes = {part: part.training for part in model.modules()}
    hooks = [watch(name, table) for name, table in tables.items()]
    try:
        with torch.no_grad():
            model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids))
    finally:
        for hook in hooks:
            hook.remove()
        for part, training in modes.items():
            part.training = training
    return list(dict.fromkeys(found))
