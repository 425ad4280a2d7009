"""Tokenizers: what a vocabulary file or a tokenizer file becomes, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from potstill.errors import ModelError
from potstill.tokenizers import load_tokenizer
from tests.words import SPECIAL, WORDS, sentence, write


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    return write(tmp_path / "vocab.txt", WORDS)


def test_a_token_of_a_vocabulary_file_has_the_number_of_its_line(vocabulary: Path) -> None:
    words = load_tokenizer("vocab.txt", vocabulary.parent)
    assert words.get_vocab() == {token: number for number, token in enumerate(WORDS)}
    assert words("The cats, mat").input_ids == [2, 5, 6, 8, 1, 9, 3]
    assert words("the", "cat").token_type_ids == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_the_end_of_a_vocabulary_file_is_no_token(tmp_path: Path, end: str) -> None:
    assert len(load_tokenizer(str(write(tmp_path / "v.txt", WORDS, end)), None)) == 10


def test_spaces_and_odd_characters_are_tokens_and_move_no_number(tmp_path: Path) -> None:
    lines = [*SPECIAL, " ", "\u2028", "\xa0", "\x1f", "", "海"]
    words = load_tokenizer(str(write(tmp_path / "v.txt", lines)), None)
    assert words.convert_tokens_to_ids("海") == 10
    assert words(" 海 ").input_ids == [2, 10, 3]
    assert len(words) == 11


def test_windows_line_ends_and_a_byte_order_mark_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "v.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(WORDS).encode() + b"\r\n")
    assert load_tokenizer(str(path), None).get_vocab() == {token: number for number, token in enumerate(WORDS)}


def test_a_token_on_two_lines_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "v.txt", [*WORDS, "cat"])
    with pytest.raises(ModelError) as error:
        load_tokenizer(str(path), None)
    assert sentence(error) == f"{path} holds 'cat' twice, on the lines 7 and 11."


def test_a_vocabulary_without_an_unknown_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"v\.txt holds no \[UNK\]"):
        load_tokenizer(str(write(tmp_path / "v.txt", ["a", "b"])), None)


def test_a_vocabulary_with_other_special_tokens_keeps_them_and_gets_the_missing_ones(tmp_path: Path) -> None:
    words = load_tokenizer(str(write(tmp_path / "v.txt", ["<PAD>", "<UNK>", "海", "木"])), None)
    assert (words.pad_token_id, words.unk_token_id) == (0, 1)
    assert len(words) == len(words.get_vocab()) == 4 + 3
    assert words("海龘木").input_ids == [words.cls_token_id, 2, 1, 3, words.sep_token_id]


@pytest.mark.parametrize(("tokens", "expected"), [(["m"], [5, 5]), (["m", "M"], [6, 5])])
def test_upper_case_is_kept_where_the_vocabulary_has_any(
    tmp_path: Path, tokens: list[str], expected: list[int]
) -> None:
    words = load_tokenizer(str(write(tmp_path / "v.txt", [*SPECIAL, *tokens])), None)
    assert words("M m").input_ids[1:-1] == expected


def test_a_tokenizer_file_gets_its_special_tokens_roles(vocabulary: Path) -> None:
    load_tokenizer(str(vocabulary), None).save_pretrained(vocabulary.parent / "t")
    path = vocabulary.parent / "t" / "tokenizer.json"
    words = load_tokenizer(str(path), None)
    assert (words.pad_token, words.unk_token, words.cls_token, words.sep_token) == ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    assert words("the cat", padding="max_length", max_length=6).input_ids == [2, 5, 6, 3, 0, 0]
    assert Tokenizer.from_file(str(path)).get_vocab_size() == len(words) == 10


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.txt", None, "There is no tokenizer file"),
        ("none.json", None, "There is no tokenizer file"),
        ("cut.json", b"{", "cut.json is not JSON"),
        ("empty.json", b"{}", "The tokenizer 'empty.json' could not be loaded"),
        ("bytes.txt", b"\xff\xfe\x00", "bytes.txt is not UTF-8 text (byte 0)"),
        ("empty.txt", b"", "holds no [UNK]"),
        ("no-such/words", None, "The tokenizer 'no-such/words' could not be loaded"),
    ],
)
def test_a_tokenizer_that_cannot_be_read_is_one_sentence(
    tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError) as error:
        load_tokenizer(name, tmp_path)
    assert words in sentence(error)


def test_a_tokenizer_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There is no folder .*/nowhere with a tokenizer"):
        load_tokenizer(str(tmp_path / "nowhere"), None)
