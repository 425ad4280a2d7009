"""Tokenizers from hub ids, folders and bare vocabulary files."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, cast

from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from potstill.errors import ModelError
from potstill.places import find_place, first_line, read_config, read_table, register_kind


def load_tokenizer(spec: str, root: Path | None, *, trust: bool = False) -> PreTrainedTokenizerBase:
    """A tokenizer from a hub id, a folder, a `tokenizer.json`, or a WordPiece vocabulary of one token a line.

    Raises:
        ModelError: nothing there, or what is there is no tokenizer.
    """
    place = find_place(spec, root)
    path = Path(place)
    if path.suffix in (".txt", ".json") and not path.is_file():
        raise ModelError(f"There is no tokenizer file {path}.")
    if path.is_absolute() and not path.exists():
        raise ModelError(f"There is no folder {path} with a tokenizer.")
    if path.is_dir():
        register_kind(read_config(path).get("model_type", ""))
    try:
        if path.suffix == ".txt":
            return _wordpiece(path)
        if path.suffix == ".json":
            return _from_json(path)
        tokenizer = AutoTokenizer.from_pretrained(str(place), trust_remote_code=trust)
    except ModelError:
        raise
    except Exception as error:  # the tokenizers library raises no class of its own
        raise ModelError(f"The tokenizer '{spec}' could not be loaded: {first_line(error)}.") from error
    # transformers makes a tokenizer without words where only a config.json is there.
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise ModelError(f"There is no tokenizer in '{spec}': no vocabulary, only special tokens.")
    return cast(PreTrainedTokenizerBase, tokenizer)


def _wordpiece(path: Path) -> PreTrainedTokenizerBase:
    """BERT's tokenizer over a vocabulary file; a token's number is its line. Spaces belong to the token.

    Upper case is kept where the vocabulary has any.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} is not UTF-8 text (byte {error.start}).") from None
    tokens = text.rstrip("\n").split("\n")
    numbers: dict[str, int] = {}
    for number, token in enumerate(tokens):
        if token in numbers:
            # The second line would leave a hole, and a special token added later would take a number twice.
            raise ModelError(f"{path} holds '{token}' twice, on the lines {numbers[token] + 1} and {number + 1}.")
        numbers[token] = number
    roles = _roles(numbers)
    if "unk_token" not in roles:
        raise ModelError(f"{path} holds no [UNK], which stands for what a WordPiece vocabulary does not know.")
    cased = any(token != token.lower() and not token.startswith(("[", "<")) for token in tokens)
    return BertTokenizer(vocab=numbers, do_lower_case=not cased, **roles)


def _from_json(path: Path) -> PreTrainedTokenizerBase:
    known = {token["content"] for token in read_table(path).get("added_tokens", [])}
    return PreTrainedTokenizerFast(tokenizer_file=str(path), **_roles(known))  # type: ignore[no-untyped-call]


def _roles(known: Collection[str]) -> dict[str, Any]:
    """The roles of the special tokens that a bare vocabulary holds but does not assign."""
    names = {
        "pad_token": ("[PAD]", "<pad>", "<PAD>"),
        "unk_token": ("[UNK]", "<unk>", "<UNK>"),
        "cls_token": ("[CLS]", "<s>"),
        "sep_token": ("[SEP]", "</s>"),
        "mask_token": ("[MASK]", "<mask>"),
    }
    found = {role: [token for token in tokens if token in known] for role, tokens in names.items()}
    return {role: tokens[0] for role, tokens in found.items() if tokens}
