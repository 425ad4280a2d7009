"""Variants of texts: which words, by what, and that nothing else changes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from potstill_tinybert.augmentation import Augmenter, RowDraws, variants
from potstill_tinybert.config import AugmentationConfig
from potstill_tinybert.masked_lm import Expectations
from potstill_tinybert.neighbours import Neighbours, from_embeddings, from_file
from potstill_tinybert.words import replaceable, whole_words
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import BertConfig, BertForMaskedLM, BertTokenizer, PreTrainedTokenizerFast

from potstill.errors import DataError
from potstill.models import Model
from potstill.tokenizers import load_tokenizer

WORDS = ["the", "movie", "film", "great", "bad", "actor", "play", "##ing", "##er", "plot", "very"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
ANIMALS = Neighbours(["cat", "dog", "car", "bus"], torch.tensor([[3.0, 1], [2, 1], [-1, 3], [-1, 2]]), 2)


class Always:
    """Draws the last candidate and replaces every word."""

    def choice(self, candidates: Sequence[str], /) -> str:
        return candidates[-1]

    def random(self) -> float:
        return 0.0


@pytest.fixture
def tokenizer(tmp_path: Path) -> BertTokenizer:
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    found = load_tokenizer("vocab.txt", tmp_path)
    assert isinstance(found, BertTokenizer)
    return found


def test_stop_words_and_words_with_other_signs_than_a_to_z_stay() -> None:
    text = "The Cat doesn't like b2b, café or 電影; a_dog does."
    assert [word.text for word in replaceable(text)] == ["Cat", "like", "dog"]
    assert all(text[word.start : word.end] == word.text for word in replaceable(text))
    assert replaceable("这部电影很好看") == []


def test_only_words_change_and_all_else_of_the_text_stays_as_it_is() -> None:
    text = "A  Cat, and a (dog)!"
    words = replaceable(text)
    assert variants(text, words, [["x", "Bird"], ["fish"]], Always(), 3, 0.4) == ["A  Bird, and a (fish)!"]


def test_each_word_draws_a_candidate_and_then_whether_it_is_replaced() -> None:
    text, passes, probability = "cat dog", 4, 0.5
    candidates = [["one", "two", "three"], ["four", "five"]]
    draws, wanted = random.Random(11), []
    for _ in range(passes):
        chosen = []
        for word, some in zip(text.split(), candidates, strict=True):
            candidate, at = draws.choice(some), draws.random()
            chosen.append(candidate if at < probability else word)
        if " ".join(chosen) not in [text, *wanted]:
            wanted.append(" ".join(chosen))
    assert len(wanted) > 1
    assert variants(text, replaceable(text), candidates, random.Random(11), passes, probability) == wanted


def test_a_row_s_draws_are_those_of_its_own_generator() -> None:
    one, other = (RowDraws(np.random.default_rng(5)) for _ in range(2))
    assert [one.choice("abc") for _ in range(20)] == [other.choice("abc") for _ in range(20)]
    counts = [sum(one.choice("abc") == letter for _ in range(3000)) for letter in "abc"]
    assert all(900 < count < 1100 for count in counts)


def test_a_pair_s_variants_stand_beside_the_row_s_own_other_text() -> None:
    augment = Augmenter(AugmentationConfig(passes=3, probability=1.0), None, ANIMALS)
    row = {"text": "cat here", "text_pair": "the bus", "label": "yes"}
    (made,) = augment([row], [np.random.default_rng(1)])
    assert made[0] == row
    first = [new for new in made[1:] if new["text"] != row["text"]]
    second = [new for new in made[1:] if new["text_pair"] != row["text_pair"]]
    assert len(first) + len(second) == len(made) - 1
    assert {new["text_pair"] for new in first} == {"the bus"}
    assert {new["text_pair"] for new in second} <= {"the car", "the dog"}
    assert {new["label"] for new in made} == {"yes"}


def test_neighbours_are_the_nearest_by_angle_without_the_word_itself_and_keep_a_capital() -> None:
    assert ANIMALS.of("cat") == ["dog", "car"]
    assert ANIMALS.of("Car") == ["Bus", "Dog"]
    assert ANIMALS.of("tree") == []


def test_a_file_of_vectors_may_have_a_first_line_of_counts_and_words_with_spaces(tmp_path: Path) -> None:
    path = tmp_path / "vectors.txt"
    path.write_text("3 2\ncat 1 0\nat name 0.9 0.1\nbus 0 1\n")
    assert from_file(path, 1).of("bus") == ["at"]
    path.write_text("cat 1 0\ndog 1\n")
    with pytest.raises(DataError, match="line 2: not a word and 2 numbers"):
        from_file(path, 1)
    with pytest.raises(DataError, match="cannot be read"):
        from_file(tmp_path / "none.txt", 1)


def test_a_word_of_several_pieces_is_where_the_mean_of_their_embeddings_points(tokenizer: BertTokenizer) -> None:
    embeddings = torch.zeros(len(VOCABULARY), 3)
    for word, vector in {"play": [1.0, 0, 0], "##ing": [0, 1, 0], "film": [1, 1, 0.1], "plot": [1, 0, 1]}.items():
        embeddings[VOCABULARY.index(word)] = torch.tensor(vector)
    neighbours = from_embeddings(embeddings, tokenizer, 2)
    assert neighbours.of("playing") == ["film", "play"]
    assert neighbours.of("xyzzy") == []
    assert set(neighbours.words) == {"the", "movie", "film", "great", "bad", "actor", "play", "plot", "very"}


def masked_lm(tokenizer: BertTokenizer) -> Model:
    torch.manual_seed(4)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=len(VOCABULARY), max_position_embeddings=24, initializer_range=1.0, **sizes)
    return Model(BertForMaskedLM(config).eval(), tokenizer)


def test_candidates_of_one_piece_words_are_what_the_model_expects_beside_the_whole_text(
    tokenizer: BertTokenizer,
) -> None:
    model = masked_lm(tokenizer)
    texts = ["the great movie", "playing"]
    (great, movie), (playing,) = Expectations(model, 6).of(texts, [replaceable(text) for text in texts])
    ids = tokenizer("the [MASK] movie", texts[0], return_tensors="pt")
    likeliest = model.module(**ids).logits[0, 2].topk(6).indices.tolist()
    words = [VOCABULARY[piece] for piece in likeliest]
    assert great == [word for word in words if not word.startswith(("##", "["))]
    assert movie
    assert playing is None


def test_a_word_that_is_cut_off_stays_and_batches_change_no_candidate(tokenizer: BertTokenizer) -> None:
    expectations = Expectations(masked_lm(tokenizer), 4)
    texts = ["bad plot", "the great great actor and a very bad movie film " * 3, "film"]
    words = [replaceable(text) for text in texts]
    together = expectations.of(texts, words)
    assert together[1][-1] == []
    assert together == [expectations.of([text], [some])[0] for text, some in zip(texts, words, strict=True)]


def test_pieces_that_begin_a_word_are_told_by_the_vocabulary_s_own_mark(tokenizer: BertTokenizer) -> None:
    assert "##ing" not in whole_words(tokenizer).values()
    assert "[CLS]" not in whole_words(tokenizer).values()
    assert whole_words(tokenizer, special=True)[VOCABULARY.index("[CLS]")] == "[CLS]"
    pieces = {"<unk>": 0, "Ġa": 1, "Ġfilm": 2, "ing": 3, "ĠcafÃ©": 4}
    backend = Tokenizer(BPE(pieces, [], unk_token="<unk>"))
    backend.pre_tokenizer = ByteLevel()
    backend.decoder = decoders.ByteLevel()
    byte_level = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    assert whole_words(byte_level) == {1: "a", 2: "film", 4: "café"}
