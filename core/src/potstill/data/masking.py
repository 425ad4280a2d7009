"""Masking of tokens, as masked language models learn by it (Devlin et al. 2019, BERT, arXiv 1810.04805, §3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from potstill.batch import IGNORED, Batch
from potstill.errors import ModelError

if TYPE_CHECKING:
    from potstill.data.random import RowRandom

SHARE, KEEP, RANDOM = 0.15, 0.1, 0.1


def corrupted(
    ids: Tensor,
    chosen: Tensor,
    rng: RowRandom,
    *,
    mask_id: int,
    vocab_size: int,
    keep: float = KEEP,
    random: float = RANDOM,
) -> Tensor:
    """Tokens of which the chosen ones are hidden; `ids` stays as it is.

    A chosen token stays what it is with probability `keep`, becomes any token of the vocabulary with `random`, and
    else the mask token.

    Args:
        ids: [batch, seq] int64.
        chosen: [batch, seq], True where a token is to be predicted.
        rng: of these rows; two draws a token are taken from it.
    """
    kind, word = rng.uniform(ids.shape[1]), rng.uniform(ids.shape[1])
    anything = (word * vocab_size).long().clamp(max=vocab_size - 1)  # in float32 the product may reach vocab_size
    replaced = torch.where(kind < keep + random, anything, mask_id)
    return torch.where(chosen & (kind >= keep), replaced, ids)


def maskable(batch: Batch, special: Tensor) -> Tensor:
    """[batch, seq], True for the tokens of the text: no padding and none of the ids `special`."""
    return batch.student["attention_mask"].bool() & ~torch.isin(batch.student["input_ids"], special)


def mask_id_of(tokenizer: Any) -> int:
    """The id of the tokenizer's mask token.

    Raises: ModelError where it has none.
    """
    if tokenizer.mask_token_id is None:
        raise ModelError(
            f"The tokenizer, a {type(tokenizer).__name__}, has no mask token, which a masked language model needs."
        )
    return int(tokenizer.mask_token_id)


class Masking:
    """Hides each token of a text with the same probability; the labels are what the hidden ones were.

    Args:
        tokenizer: its special tokens are never hidden.
        share: the probability.
        keep, random: as in `corrupted`.

    Raises: ModelError where the tokenizer has no mask token.
    """

    def __init__(self, tokenizer: Any, share: float = SHARE, keep: float = KEEP, random: float = RANDOM) -> None:
        self._mask_id, self._size = mask_id_of(tokenizer), len(tokenizer)
        self._special = torch.tensor(sorted(set(tokenizer.all_special_ids)))
        self._share, self._keep, self._random = share, keep, random

    def __call__(self, batch: Batch, rng: RowRandom) -> None:
        """Masks a batch in place. A row's draws are its own, whatever batch it is in."""
        ids = batch.student["input_ids"]
        chosen = maskable(batch, self._special) & (rng.uniform(ids.shape[1]) < self._share)
        batch.labels = torch.where(chosen, ids, IGNORED)
        hidden = corrupted(
            ids, chosen, rng, mask_id=self._mask_id, vocab_size=self._size, keep=self._keep, random=self._random
        )
        ids.copy_(hidden)
