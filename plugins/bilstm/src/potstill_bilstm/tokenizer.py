"""A tokenizer of single characters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from potstill.errors import ModelError

PAD, UNKNOWN = "<PAD>", "<UNK>"


def character_tokenizer(vocabulary: Sequence[str]) -> PreTrainedTokenizerFast:
    """One token a character of the text (a Unicode code point); no special token is added around it.

    Args:
        vocabulary: `<PAD>`, `<UNK>`, then single characters; their places are the ids.
    """
    tokenizer = Tokenizer(WordLevel({token: number for number, token in enumerate(vocabulary)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        model_input_names=["input_ids", "attention_mask"],
        padding_side="right",
        truncation_side="right",
        clean_up_tokenization_spaces=False,
        # Else a text that holds "<PAD>" would smuggle padding into its middle.
        split_special_tokens=True,
    )


def read_vocabulary(path: Path) -> list[str]:
    """A vocabulary file: `<PAD>`, `<UNK>`, then one character a line, blanks and control characters among them.

    Raises: ModelError where there is no such file, or it does not look like this.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ModelError(f"There is no vocabulary file {path}.") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise ModelError(f"The vocabulary file {path} cannot be read as UTF-8 text: {problem}") from problem
    # Neither stripped nor splitlines(): a space, and what Unicode calls a line break, may be a token.
    lines = text.removesuffix("\n").split("\n")
    if all(line.endswith("\r") for line in lines[:2]):
        lines = [line.removesuffix("\r") for line in lines]
    _check(lines, path)
    return lines


def _check(lines: list[str], path: Path) -> None:
    if lines[:2] != [PAD, UNKNOWN]:
        raise ModelError(f"The vocabulary file {path} must begin with the lines {PAD} and {UNKNOWN}, not {lines[:2]}.")
    first: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if number > 2 and len(line) != 1:
            raise ModelError(f"{path}, line {number}: {line!r} is not a single character.")
        if line in first:
            raise ModelError(f"{path}, line {number}: {line!r} stands in line {first[line]} already.")
        first[line] = number
