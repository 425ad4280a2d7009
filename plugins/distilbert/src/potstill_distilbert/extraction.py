"""A student made of a BERT's layers, in DistilBERT's own architecture (the authors' extract_distilbert.py)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, cast

from torch import Tensor, nn
from transformers import BertForMaskedLM, DistilBertConfig, DistilBertForMaskedLM, PreTrainedModel

from potstill.errors import ModelError

TokenTypes = Literal["drop", "words", "positions"]

LAYER = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}
"""Modules of a layer: BERT's name and DistilBERT's."""
EMBEDDINGS = ("word_embeddings.weight", "position_embeddings.weight", "LayerNorm.weight", "LayerNorm.bias")
HEAD = {
    "cls.predictions.decoder.weight": "vocab_projector.weight",
    "cls.predictions.bias": "vocab_projector.bias",
}
TRANSFORM = {
    "cls.predictions.transform.dense": "vocab_transform",
    "cls.predictions.transform.LayerNorm": "vocab_layer_norm",
}
"""What stands between the last layer and the vocabulary; the authors copy it where --vocab_transform is given."""


def student_of(
    teacher: nn.Module, layers: Sequence[int], *, vocab_transform: bool, token_types: TokenTypes
) -> DistilBertForMaskedLM:
    """A DistilBERT that starts as these layers of a BERT, both with a masked language model's head.

    DistilBERT has no token types: the first one's row is part of all that the teacher saw of a single text.

    Args:
        layers: from 1.
        vocab_transform: whether the head's transform is copied, or starts at random.
        token_types: "drop" them as the authors do; or add the first to every row of the "words" or "positions".

    Raises: ModelError for another teacher.
    """
    if not isinstance(teacher, BertForMaskedLM):
        raise ModelError(
            "A DistilBERT is made of the layers of a BERT in the task masked-lm, and the teacher is a "
            f"{type(teacher).__name__}; [student] layers = {list(layers)} makes a student of the teacher's own kind."
        )
    config = cast(PreTrainedModel, teacher).config
    student = DistilBertForMaskedLM(
        DistilBertConfig(
            vocab_size=config.vocab_size,
            dim=config.hidden_size,
            n_layers=len(layers),
            n_heads=config.num_attention_heads,
            hidden_dim=config.intermediate_size,
            activation=config.hidden_act,
            dropout=config.hidden_dropout_prob,
            attention_dropout=config.attention_probs_dropout_prob,
            max_position_embeddings=config.max_position_embeddings,
            initializer_range=config.initializer_range,
            pad_token_id=config.pad_token_id,
            tie_word_embeddings=config.tie_word_embeddings,
        )
    )
    copied = copied_weights(teacher.state_dict(), layers, vocab_transform=vocab_transform, token_types=token_types)
    missing, unexpected = student.load_state_dict(copied, strict=False)
    left = [name for name in missing if not name.startswith(tuple(TRANSFORM.values()))]
    assert not left, f"every name that the student has is copied but its transform's: {left}"
    assert not unexpected, f"only the student's names are copied: {unexpected}"
    return student


def copied_weights(
    teacher: Mapping[str, Tensor], layers: Sequence[int], *, vocab_transform: bool, token_types: TokenTypes
) -> dict[str, Tensor]:
    """The student's weights by DistilBERT's names, out of a BertForMaskedLM's by its own; arguments as `student_of`."""
    return dict(_copied(teacher, layers, vocab_transform, token_types))


def _copied(
    teacher: Mapping[str, Tensor], layers: Sequence[int], vocab_transform: bool, token_types: TokenTypes
) -> Iterator[tuple[str, Tensor]]:
    first_type = teacher["bert.embeddings.token_type_embeddings.weight"][0]
    for name in EMBEDDINGS:
        value = teacher[f"bert.embeddings.{name}"]
        added = name == {"words": EMBEDDINGS[0], "positions": EMBEDDINGS[1]}.get(token_types)
        yield f"distilbert.embeddings.{name}", value + first_type if added else value
    for mine, theirs in enumerate(layers):
        for known, own in LAYER.items():
            for kind in ("weight", "bias"):
                source = f"bert.encoder.layer.{theirs - 1}.{known}.{kind}"
                yield f"distilbert.transformer.layer.{mine}.{own}.{kind}", teacher[source]
    for known, own in HEAD.items():
        # The decoder is the words' table; the type adds the same to every word's logit, which no softmax sees.
        yield own, teacher[known] + first_type if token_types == "words" and own.endswith("weight") else teacher[known]
    for known, own in TRANSFORM.items() if vocab_transform else ():
        for kind in ("weight", "bias"):
            yield f"{own}.{kind}", teacher[f"{known}.{kind}"]
