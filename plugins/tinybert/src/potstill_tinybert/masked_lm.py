"""What a masked language model expects in the place of a word."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForMaskedLM

from potstill.errors import ModelError
from potstill.models import Model, longest_row
from potstill.places import first_line
from potstill.tokenizers import load_tokenizer
from potstill_tinybert.words import Word, whole_words

if TYPE_CHECKING:
    from potstill.stage import Stage

LONGEST = 512
"""So many tokens of a text and its twin are read by a model that has no table of positions."""
LOGITS = 64_000_000
"""So many logits has one forward pass at most, 256 MB: some 2,000 positions at 30,000 pieces."""


def load_masked_lm(name: str, stage: Stage) -> Model:
    """A masked language model and its tokenizer, from a folder below the data root or a hub id.

    Raises: ModelError where there is none, or no masked-language-model head.
    """
    place = stage.context.find(name)
    try:
        module, info = AutoModelForMaskedLM.from_pretrained(
            place, use_safetensors=True, output_loading_info=True, dtype=torch.float32
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError, StrictDataclassError) as error:
        raise ModelError(f"augmentation.masked_lm = '{name}' could not be loaded: {first_line(error)}.") from error
    if info["missing_keys"]:
        raise ModelError(
            f"augmentation.masked_lm = '{name}' is no masked language model: it has no {min(info['missing_keys'])}."
        )
    tokenizer = load_tokenizer(place, None)
    if not tokenizer.is_fast or tokenizer.mask_token is None:
        raise ModelError(
            f"augmentation.masked_lm = '{name}' has a tokenizer without a mask token or without positions."
        )
    return Model(module.eval().requires_grad_(False).to(stage.context.ranks.device), tokenizer)


class Expectations:
    """Candidates for words that are one piece, each in its own text.

    The model reads the text with the word masked, and the whole text beside it, so that it knows what it replaces.

    Args:
        model: a masked language model.
        count: from so many of the likeliest pieces; those that begin no word drop out.
        special: whether special tokens may be candidates, as in the reference.
    """

    def __init__(self, model: Model, count: int, *, special: bool = False) -> None:
        self._module: nn.Module = model.module
        self._tokenizer: Any = model.tokenizer
        self._count = count
        self._words = whole_words(model.tokenizer, special=special)

    def of(self, texts: Sequence[str], words: Sequence[Sequence[Word]]) -> list[list[list[str] | None]]:
        """For each word of each text the candidates, likeliest first; None where it is several pieces."""
        found: list[list[list[str] | None]] = [[None] * len(some) for some in words]
        read = self._tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        places = read["offset_mapping"]
        jobs = [
            (text, at)
            for text, some in enumerate(words)
            for at, word in enumerate(some)
            if sum(start < word.end and end > word.start for start, end in places[text]) == 1
        ]
        jobs.sort(key=lambda job: len(places[job[0]]))
        positions = LOGITS // len(self._tokenizer)
        for batch in _batches(jobs, [2 * len(some) + 4 for some in places], positions):
            expected = self._expected([(texts[text], words[text][at]) for text, at in batch])
            for (text, at), candidates in zip(batch, expected, strict=True):
                found[text][at] = candidates
        return found

    @torch.inference_mode()
    def _expected(self, jobs: Sequence[tuple[str, Word]]) -> Iterable[list[str]]:
        mask = self._tokenizer.mask_token
        masked = [f"{text[: word.start]}{mask}{text[word.end :]}" for text, word in jobs]
        limit = min(self._tokenizer.model_max_length, longest_row(self._module) or LONGEST)
        read = self._tokenizer(
            masked,
            [text for text, _ in jobs],
            truncation="longest_first",
            max_length=limit,
            padding=True,
            return_tensors="pt",
            verbose=False,
        )
        places = [read.char_to_token(row, word.start, 0) for row, (_, word) in enumerate(jobs)]
        device = next(self._module.parameters()).device
        logits = self._module(**{name: value.to(device) for name, value in read.items()}).logits
        for row, place in enumerate(places):
            if place is None or read["input_ids"][row, place] != self._tokenizer.mask_token_id:
                yield []  # cut off
                continue
            likeliest = logits[row, place].topk(min(self._count, logits.shape[-1])).indices.tolist()
            yield [self._words[piece] for piece in likeliest if piece in self._words]


def _batches(jobs: Sequence[tuple[int, int]], widths: Sequence[int], positions: int) -> Iterator[list[tuple[int, int]]]:
    """Jobs, from short texts to long ones, in batches of at most so many positions; a wider job stands alone."""
    batch: list[tuple[int, int]] = []
    for job in jobs:
        if batch and (len(batch) + 1) * widths[job[0]] > positions:
            yield batch
            batch = []
        batch.append(job)
    if batch:
        yield batch
