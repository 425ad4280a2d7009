"""Running text: long sequences split, short and mostly unknown ones dropped, as the authors' LmSeqsDataset."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from potstill.corpus.cleaning import Cleaner, Rules
from potstill.corpus.words import Words
from tests.goldens.case import Case
from tests.goldens.registry import check


@check("lm_seqs_dataset_clean")
def clean(case: Case) -> Iterator[tuple[str, Tensor]]:
    ids = case.params["special_token_ids"]
    begins, ends = (ids["cls_token"],), (ids["sep_token"],)
    words = Words(None, None, "", begins, ends, ends, ids["unk_token"], int(case["in_flat"].max()) + 1, types=False)
    bounds = case["in_offsets"].long().tolist()
    given = [case["in_flat"][a:b].long().numpy() for a, b in pairwise(bounds)]
    bare = [row[1:-1].astype(np.int32) for row in given]  # the authors' rows come with their special tokens
    assert all(row[0] == begins[0] and row[-1] == ends[0] for row in given)
    rules = Rules(case.params["max_model_input_size"], min_tokens=12, max_unknown=0.5)
    flat, lengths = Cleaner(words, rules).add(np.concatenate(bare), np.array([len(row) for row in bare]))
    yield "out_flat", torch.from_numpy(flat)
    yield "out_offsets", torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]))
    first = torch.from_numpy(lengths[:3])
    rows = torch.from_numpy(flat[: int(first.sum())]).split(first.tolist())
    padded = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=ids["pad_token"])
    yield "first3_padded", padded
    yield "first3_lengths", first
