"""Attention as the exported graph shall compute it: plain ONNX operators, or one fused node of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from potstill.errors import ModelError
from potstill_onnx.config import Kind

NODE = "MultiHeadAttention"
"""The fused operator, of the domain com.microsoft."""
_FUSED = "potstill_onnx_fused"
_BEYOND = ("softcap", "s_aux", "position_bias")
"""What some attention functions are handed besides a mask, and the node cannot express."""


@contextmanager
def exchanged(module: Any, kind: Kind) -> Iterator[None]:
    """Lets a model export its attention as `kind` within the block, and as before after it.

    Plain is the "eager" attention of transformers: its graph is smaller than that of SDPA and runs faster in
    ONNX Runtime, in INT8 most of all. A model whose attention cannot be chosen, or that has none, stays as it is.
    """
    if not exchangeable(module):
        yield
        return
    before = module.config._attn_implementation
    if kind == "fused":
        AttentionInterface.register(_FUSED, fused)
        AttentionMaskInterface.register(_FUSED, eager_mask)
    module.set_attn_implementation(_FUSED if kind == "fused" else "eager")
    try:
        yield
    finally:
        module.set_attn_implementation(before)


def fused(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **unused: Any,
) -> tuple[Tensor, None]:
    """Emits ONNX Runtime's `com.microsoft::MultiHeadAttention`; only for export, it computes nothing.

    Args:
        query, key, value: [batch, heads, seq, head_dim], equally many heads.
        attention_mask: [batch, 1 or heads, seq, seq], added to the scores.

    Returns: [batch, seq, heads, head_dim], and None for the probabilities.
    Raises: ModelError where keys have fewer heads than queries, or scores are more than scaled and masked.
    """
    batch, heads, length, width = query.shape
    beyond = [name for name in _BEYOND if unused.get(name) is not None]
    if beyond:
        raise ModelError(f"Attention with {beyond[0]} cannot be fused; use attention = 'plain'.")
    if key.shape[1] != heads:
        raise ModelError(
            f"Attention with {heads} query heads and {key.shape[1]} key heads cannot be fused; use attention = 'plain'."
        )
    flat = [item.transpose(1, 2).reshape(batch, item.shape[2], heads * width) for item in (query, key, value)]
    mixed = torch.onnx.ops.symbolic(
        f"com.microsoft::{NODE}",
        [*flat, None, None, attention_mask],
        {"num_heads": heads, "scale": float(width**-0.5 if scaling is None else scaling)},
        dtype=query.dtype,
        shape=flat[0].shape,
        version=1,
    )
    return mixed.reshape(batch, length, heads, width), None


def exchangeable(module: Any) -> bool:
    """Whether transformers lets another function compute the model's attention, if it has any."""
    stated = getattr(getattr(module, "config", None), "_attn_implementation", None)
    can = getattr(module, "_can_set_attn_implementation", None)
    return stated is not None and bool(can and can())
