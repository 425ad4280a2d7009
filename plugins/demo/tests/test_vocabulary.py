"""The demo's word-piece vocabulary."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from potstill_demo import vocabulary

TEXTS = ["Return the header of the message.", "Parse headers, and messages too!", "Heading for the étude."] * 3
CODE = """
import sys, pathlib
from potstill_demo import corpus, vocabulary
texts = [row.text for row in corpus.paragraphs(pathlib.Path(sys.argv[1]))]
vocabulary.train(texts, 2000, pathlib.Path(sys.argv[2]))
"""


def test_the_same_texts_give_the_same_vocabulary_in_every_process(library: Path, tmp_path: Path) -> None:
    files = [tmp_path / "one.txt", tmp_path / "two.txt"]
    for seed, file in enumerate(files):
        environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
        subprocess.run([sys.executable, "-c", CODE, str(library), str(file)], check=True, env=environment)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_vocabulary_covers_its_texts_and_has_the_special_tokens_first(tmp_path: Path) -> None:
    from transformers import BertTokenizer

    file = tmp_path / "vocab.txt"
    size = vocabulary.train(TEXTS, 200, file)
    pieces = file.read_text(encoding="utf-8").splitlines()
    assert len(pieces) == len(set(pieces)) == size <= 200
    assert tuple(pieces[:5]) == vocabulary.SPECIAL
    tokenizer = BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces)})
    for text in TEXTS:
        assert "[UNK]" not in tokenizer.tokenize(text)


def test_a_word_that_occurs_often_is_one_piece(tmp_path: Path) -> None:
    vocabulary.train(TEXTS, 200, tmp_path / "vocab.txt")
    assert {"the", "header"} <= set((tmp_path / "vocab.txt").read_text(encoding="utf-8").splitlines())
