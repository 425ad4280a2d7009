"""Sequences of documents: against rules written out row by row, on random tokens."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import pytest

from potstill.corpus.cleaning import Cleaner, Layout, Rules
from potstill.corpus.words import Words, words_of
from potstill.errors import DataError
from potstill.testing.tiny import write_data
from potstill.tokenizers import load_tokenizer

CLS, SEP, UNK = 2, 3, 1
WORDS = Words(None, None, "", (CLS,), (SEP,), (SEP,), UNK, 30, types=False)


def by_hand(documents: list[list[int]], rules: Rules) -> list[list[int]]:
    """What the rules say, one document and one token at a time."""
    room = rules.max_length - 2
    made: list[list[int]] = []
    if rules.layout == "pack":
        stream = [token for document in documents if document for token in [*document, SEP]]
        made = [[CLS, *stream[at : at + room], SEP] for at in range(0, len(stream), room)]
    for document in documents if rules.layout != "pack" else []:
        whole = [CLS, *document, SEP]
        if not document:
            continue
        if rules.layout == "cut":
            made.append([CLS, *document[:room], SEP])
        elif len(whole) <= rules.max_length:
            made.append(whole)
        else:
            parts = [whole[at : at + room] for at in range(0, len(whole), room)]
            for part in parts[: -1 if parts[-1] == [SEP] else None]:
                part = part if part[0] == CLS else [CLS, *part]
                made.append(part if part[-1] == SEP else [*part, SEP])
    long_enough = [row for row in made if len(row) >= rules.min_tokens]
    return [row for row in long_enough if row.count(UNK) / len(row) < rules.max_unknown or rules.max_unknown == 1]


def cleaned(documents: list[list[int]], rules: Rules, step: int) -> tuple[list[list[int]], Cleaner]:
    """The sequences, with `step` documents handed over at a time."""
    cleaner, rows = Cleaner(WORDS, rules), []
    parts = [documents[at : at + step] for at in range(0, len(documents), step)]
    found = [
        cleaner.add(np.array(list(chain(*part)), np.int32), np.array([len(one) for one in part])) for part in parts
    ]
    for flat, lengths in [*found, cleaner.rest()]:
        rows += [part.tolist() for part in np.split(flat, np.cumsum(lengths)[:-1]) if len(part)]
    return rows, cleaner


@pytest.mark.parametrize("layout", ["split", "pack", "cut"])
@pytest.mark.parametrize("seed", range(8))
def test_sequences_are_those_of_the_rules_in_any_step(layout: Layout, seed: int) -> None:
    draw = np.random.default_rng(seed)
    documents = [draw.integers(5, 30, size).tolist() for size in draw.integers(0, 70, 40)]
    for document in documents[::3]:
        document[: len(document) * 2 // 3] = [UNK] * (len(document) * 2 // 3)
    rules = Rules(int(draw.integers(5, 25)), layout, min_tokens=int(draw.integers(1, 6)), max_unknown=0.5)
    expected = by_hand(documents, rules)
    for step in (1, 7, 40):
        rows, cleaner = cleaned(documents, rules, step)
        assert rows == expected
        assert cleaner.dropped["empty"] == documents.count([])
    assert expected
    assert max(map(len, expected)) <= rules.max_length


def test_what_is_dropped_is_counted_by_the_first_rule_that_it_breaks() -> None:
    documents = [[], [5], [5, 6, 7, 8], [UNK, UNK, UNK, 5], list(range(5, 20))]
    rows, cleaner = cleaned(documents, Rules(8, "cut", min_tokens=4, max_unknown=0.5), 5)
    assert [len(row) for row in rows] == [6, 8]
    assert cleaner.dropped == {"empty": 1, "short": 1, "unknown": 1, "cut": 9}


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        (Rules(2, "cut"), "max_length = 2 leaves no room for text: 2 tokens of a sequence are special ones"),
        (Rules(3, "split"), r"data.max_length must be 4 or more"),
        (Rules(8, min_tokens=9), "min_tokens = 9 is more than max_length = 8"),
    ],
)
def test_rules_that_leave_nothing_are_one_sentence(rules: Rules, told: str) -> None:
    with pytest.raises(DataError, match=told):
        Cleaner(WORDS, rules)


def test_a_tokenizers_own_special_tokens_and_ids_are_taken(tmp_path: Any) -> None:
    tokenizer = load_tokenizer("vocab.txt", write_data(tmp_path))
    words = words_of(tokenizer)
    assert (words.before, words.after) == ((tokenizer.cls_token_id,), (tokenizer.sep_token_id,))
    assert (words.unknown, words.vocabulary) == (tokenizer.unk_token_id, len(tokenizer))
    vocabulary = [word for word in tokenizer.get_vocab() if word.isalpha()][:9]
    texts = [" ".join(vocabulary), "", "§ unknown", " ".join(vocabulary * 40_000)]  # the last is more than a piece
    flat, lengths = words.ids(texts)
    expected = [tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in texts]
    assert lengths.tolist() == list(map(len, expected))
    assert flat.tolist() == list(chain(*expected))
