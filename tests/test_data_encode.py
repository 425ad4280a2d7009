"""Texts to tokens, through the cache, and the table of tokens."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertTokenizer, PreTrainedTokenizerFast

from potstill.data import encode as encoding
from potstill.data.encode import encode, tokenize, tokenizer_key
from potstill.data.source import Source, open_source
from potstill.errors import DataError
from potstill.progress import Progress
from potstill.settings import TaskConfig
from potstill.tasks import Task, load_task

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"]


def words() -> Any:
    """A BERT tokenizer whose words are the letters a to j, numbered from 5."""
    return BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)})


def characters() -> Any:
    """A tokenizer without special tokens or token types; a space is a character that it drops."""
    tokenizer = Tokenizer(models.WordLevel({"<PAD>": 0, "<UNK>": 1, "a": 2, "b": 3}, unk_token="<UNK>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("", "isolated")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<PAD>",
        unk_token="<UNK>",
        model_input_names=["input_ids", "attention_mask"],
    )


@pytest.fixture
def task() -> Task:
    return load_task(TaskConfig(), ["x", "y"])


def source_of(texts: list[str], pairs: list[str] | None = None) -> Source:
    columns = {"text": texts} if pairs is None else {"text": texts, "text_pair": pairs}
    return open_source(Dataset.from_dict(columns), {name: name for name in columns}, Path())


class Counting(Progress):
    """Remembers the names of bars and the notes."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)

    def bar(self, name: str, total: int | None, done: int = 0) -> Any:
        self.told.append(name)
        return super().bar(name, total, done)


def test_of_a_long_pair_the_longer_text_is_cut() -> None:
    columns = tokenize(["a b c d e f", "a"], ["g h", "b c d e f g"], words(), 8)
    # 8 tokens are 3 special ones and 5 words: 3 of the longer text and both of the shorter
    assert columns["input_ids"] == [[2, 5, 6, 7, 3, 11, 12, 3], [2, 5, 3, 6, 7, 8, 9, 3]]
    assert columns["token_type_ids"] == [[0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1, 1]]


def test_a_text_without_a_token_becomes_one_unknown_token() -> None:
    assert tokenize(["ab", "", " "], None, characters(), 5) == {"input_ids": [[2, 3], [1], [1]]}


def test_no_texts_are_no_rows() -> None:
    assert tokenize([], None, words(), 8) == {"input_ids": [], "token_type_ids": []}


def test_a_length_that_only_special_tokens_fill_is_an_error() -> None:
    with pytest.raises(
        DataError, match=r"max_length = 3 leaves no room for text: 3 tokens of a row are special ones\."
    ):
        tokenize(["a"], ["b"], words(), 3)


def test_encoding_leaves_the_tokenizer_as_it_was() -> None:
    tokenizer = words()
    before = tokenizer.backend_tokenizer.to_str()
    tokenize(["a b c d"], None, tokenizer, 4)
    assert tokenizer.backend_tokenizer.to_str() == before
    tokenizer.backend_tokenizer.enable_truncation(7)
    before = tokenizer.backend_tokenizer.to_str()
    tokenize(["a b c d"], None, tokenizer, 4)
    assert tokenizer.backend_tokenizer.to_str() == before


def test_the_tokenizers_key_follows_the_vocabulary_and_not_its_truncation() -> None:
    tokenizer = words()
    key = tokenizer_key(tokenizer)
    tokenizer.backend_tokenizer.enable_truncation(7)
    assert tokenizer_key(tokenizer) == key
    assert tokenizer_key(words()) == key
    other = BertTokenizer(vocab={word: number for number, word in enumerate([*WORDS, "k"])})
    assert tokenizer_key(other) != key
    assert tokenizer_key(characters()) != key


def test_two_tokenizers_give_tables_aligned_by_row(task: Task, tmp_path: Path) -> None:
    source = source_of(["a b", "b", "a a b"])
    one = encode(source, task, words(), 8, tmp_path, Progress())
    two = encode(source, task, characters(), 8, tmp_path, Progress())
    assert one.lengths.tolist() == [4, 3, 5]
    assert two.lengths.tolist() == [2, 1, 3]
    every = np.arange(3)
    assert [row.tolist() for row in one.rows(every)["input_ids"]] == [[2, 5, 6, 3], [2, 6, 3], [2, 5, 5, 6, 3]]
    assert [row.tolist() for row in two.rows(every)["input_ids"]] == [[2, 3], [3], [2, 2, 3]]
    assert two.names == ("input_ids",)


def test_rows_across_many_chunks_are_views_of_what_was_encoded(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "CHUNK", 7)
    draw = random.Random(0)
    texts = [" ".join(draw.choices("abcdefghij", k=draw.randint(0, 12))) for _ in range(100)]
    expected = tokenize(texts, None, words(), 9)
    table = encode(source_of(texts), task, words(), 9, tmp_path, Progress())
    order = np.random.default_rng(0).permutation(100)
    found = table.rows(order)
    assert [row.tolist() for row in found["input_ids"]] == [expected["input_ids"][row] for row in order]
    assert [row.tolist() for row in found["token_type_ids"]] == [expected["token_type_ids"][row] for row in order]
    assert table.lengths.tolist() == [len(row) for row in expected["input_ids"]]
    assert not any(row.flags.owndata or row.flags.writeable for row in found["input_ids"])


def test_what_was_encoded_once_is_not_encoded_again(task: Task, tmp_path: Path) -> None:
    progress = Counting()
    for _ in range(3):
        encode(source_of(["a b", "c"]), task, words(), 8, tmp_path, progress)
    assert progress.told == ["tokens of data (a data set in memory)"]
    encode(source_of(["a b", "c"]), task, words(), 9, tmp_path, progress)
    encode(source_of(["a b", "d"]), task, words(), 8, tmp_path, progress)
    encode(source_of(["a b", "c"]), task, characters(), 8, tmp_path, progress)
    assert len(progress.told) == 4
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("damage", ["flipped", "cut", "manifest", "missing"])
def test_a_damaged_cache_entry_is_made_again(task: Task, tmp_path: Path, damage: str) -> None:
    source = source_of(["a b", "c"])
    encode(source, task, words(), 8, tmp_path, Progress())
    [folder] = tmp_path.iterdir()
    path = folder / "tokens.arrow"
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[content.index((2).to_bytes(4, "little") + (5).to_bytes(4, "little"))] = 9
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[:-20])
    elif damage == "manifest":
        (folder / "manifest.json").write_text("{")
    else:
        path.unlink()
    progress = Counting()
    table = encode(source, task, words(), 8, tmp_path, progress)
    assert "are damaged and are made again." in progress.told[0]
    assert [row.tolist() for row in table.rows(np.arange(2))["input_ids"]] == [[2, 5, 6, 3], [2, 7, 3]]
    assert json.loads((folder / "manifest.json").read_text())["rows"] == 2


def test_an_encoding_that_breaks_leaves_nothing_behind(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> None:
        raise RuntimeError("stopped")

    monkeypatch.setattr(task, "encode", broken)
    with pytest.raises(RuntimeError, match="stopped"):
        encode(source_of(["a"]), task, words(), 8, tmp_path, Progress())
    assert list(tmp_path.iterdir()) == []
