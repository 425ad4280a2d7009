"""Characters in, ids out, and the same after a round trip through files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from potstill_bilstm.tokenizer import character_tokenizer, read_vocabulary
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from potstill.errors import ModelError

VOCABULARY = ["<PAD>", "<UNK>", "，", "的", " ", "a", "b", "<", "P", "\x1f", "\xa0", "\x85", "\u2028", "😀"]
IDS = {token: number for number, token in enumerate(VOCABULARY)}


@pytest.fixture(params=["made", "saved and loaded"])
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> PreTrainedTokenizerBase:
    made = character_tokenizer(VOCABULARY)
    if request.param == "made":
        return made
    made.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()
    return AutoTokenizer.from_pretrained(tmp_path)


def test_every_character_is_a_token_spaces_and_controls_too(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "的 a\x1fb\xa0\x85\u2028😀，"
    assert tokenizer(text)["input_ids"] == [IDS[character] for character in text]
    assert tokenizer("  ")["input_ids"] == [IDS[" "], IDS[" "]]


def test_characters_outside_the_vocabulary_are_unknown_and_newlines_are_characters(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    assert tokenizer("a龘\nb")["input_ids"] == [IDS["a"], 1, 1, IDS["b"]]


def test_a_text_that_spells_a_special_token_is_split_like_any_other(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer("<PAD>a")["input_ids"] == [IDS["<"], IDS["P"], 1, 1, 1, IDS["a"]]


def test_padding_goes_to_the_right_with_a_mask_and_nothing_is_added(tokenizer: PreTrainedTokenizerBase) -> None:
    batch = tokenizer(["ab", "", "abab"], padding=True)
    assert batch["input_ids"] == [[5, 6, 0, 0], [0, 0, 0, 0], [5, 6, 5, 6]]
    assert batch["attention_mask"] == [[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]
    assert set(batch) == {"input_ids", "attention_mask"}
    assert tokenizer("abababab", truncation=True, max_length=3)["input_ids"] == [5, 6, 5]
    assert tokenizer.pad_token_id == 0
    assert len(tokenizer) == len(VOCABULARY)


def test_decoding_puts_the_characters_back_without_blanks_between(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.decode(tokenizer("a 的b")["input_ids"]) == "a 的b"


@given(st.text())
def test_ids_are_those_of_a_plain_look_up(text: str) -> None:
    assert SHARED(text)["input_ids"] == [IDS.get(character, 1) for character in text]


SHARED = character_tokenizer(VOCABULARY)


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_vocabulary_file_keeps_blanks_and_unicode_line_breaks(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes(((ending or "\n").join(VOCABULARY) + ending).encode())
    assert read_vocabulary(path) == VOCABULARY


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("的\n，", "must begin with the lines <PAD> and <UNK>"),
        ("<PAD>\n<UNK>\na\n的的", "line 4: '的的' is not a single character"),
        ("<PAD>\n<UNK>\na\n\nb", "line 4: '' is not a single character"),
        ("<PAD>\n<UNK>\na\nb\na", "line 5: 'a' stands in line 3 already"),
    ],
)
def test_a_file_that_is_no_character_vocabulary_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=sentence):
        read_vocabulary(path)


def test_a_missing_vocabulary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no vocabulary file .*nowhere\.txt"):
        read_vocabulary(tmp_path / "nowhere.txt")
