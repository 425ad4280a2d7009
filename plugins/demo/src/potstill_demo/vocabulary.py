"""A word-piece vocabulary trained on the demo's own training texts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SIZE = 6000
"""Of the demo's vocabulary, in word pieces."""


def train(texts: Iterable[str], size: int, file: Path) -> int:
    """Writes at most `size` lower-case word pieces to `file`, one a line, as BERT tokenizers read them.

    The same texts give the same file. Returns the number of pieces.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    texts = list(texts)
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    characters = sorted({character for text in texts for character in tokenizer.normalizer.normalize_str(text)})
    # The trainer numbers the pieces "##x" in the order of a randomly seeded hash map, and breaks ties by number.
    # Naming them beforehand makes the result repeatable.
    pieces = [f"##{character}" for character in characters if not character.isspace()]
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, min_frequency=2, special_tokens=[*SPECIAL, *pieces], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    vocabulary = tokenizer.get_vocab()
    draft = file.with_suffix(".draft")
    draft.write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)) + "\n", encoding="utf-8")
    draft.replace(file)
    return len(vocabulary)
