"""Masking that prefers rare words: an exact number a micro-batch, drawn without replacement (`prepare_batch_mlm`)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from potstill.batch import IGNORED, Batch
from potstill.data.masking import corrupted, mask_id_of

if TYPE_CHECKING:
    from potstill.data.random import RowRandom


def token_weights(counts: Tensor, smoothing: float, special: Iterable[int]) -> Tensor:
    """[V] float64, how much each word is preferred: max(count, 1)^-smoothing; 0 for special tokens.

    Args:
        counts: [V], how often each word stands in the training text.
        smoothing: 0 prefers none.
    """
    weights = counts.double().clamp(min=1) ** -smoothing
    weights[list(special)] = 0.0
    return weights


def exact_number(share: float, tokens: int) -> int:
    """How many positions of a micro-batch with so many tokens (special ones counted) are hidden."""
    return math.ceil(share * tokens)


def sample(weights: Tensor, number: int, uniform: Tensor) -> Tensor:
    """[B, L], True at `number` positions, drawn one after the other without replacement with odds like `weights`.

    The positions with the largest log weight + Gumbel noise are such a draw (Efraimidis and Spirakis 2006; Gumbel
    top-k): here, which is the same, those with the smallest exponential waiting time −log(u) / weight. Every
    position's noise is its row's own, so that a row draws the same noise in any batch.

    Args:
        weights: [B, L], 0 where nothing may be drawn; where fewer than `number` are not 0, those are all.
        uniform: [B, L] float32 in [0, 1), multiples of 2^-24.
    """
    waiting = -torch.log(uniform.double() + 2.0**-25) / weights
    waiting = waiting.masked_fill(weights <= 0, math.inf).flatten()
    first = waiting.argsort(stable=True)[: min(number, int((weights > 0).sum()))]
    chosen = torch.zeros_like(waiting, dtype=torch.bool)
    chosen[first] = True
    return chosen.view(weights.shape)


class SmoothedMasking:
    """The slot "masking": which tokens are hidden depends on how rare they are in the training text.

    Args:
        tokenizer: its special tokens are never hidden.
        weights: [V], as `token_weights` gives.
        share: of all tokens that are hidden, special tokens counted among all.
        keep, random: of the hidden ones, what stays as it is and what becomes any word.

    Raises: ModelError where the tokenizer has no mask token.
    """

    def __init__(self, tokenizer: Any, weights: Tensor, share: float, keep: float, random: float) -> None:
        self._mask_id, self._size = mask_id_of(tokenizer), len(tokenizer)
        self._weights = weights
        self._share, self._keep, self._random = share, keep, random

    def __call__(self, batch: Batch, rng: RowRandom) -> None:
        """Masks a whole micro-batch in place, and sets its labels."""
        ids, mask = batch.student["input_ids"], batch.student["attention_mask"]
        weights = self._weights[ids] * mask
        chosen = sample(weights, exact_number(self._share, int(mask.sum())), rng.uniform(ids.shape[1]))
        batch.labels = torch.where(chosen, ids, IGNORED)
        ids.copy_(
            corrupted(
                ids, chosen, rng, mask_id=self._mask_id, vocab_size=self._size, keep=self._keep, random=self._random
            )
        )
