"""Which table is attacked: the one that reads the ids, in any architecture, or an error in one sentence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from potstill_adversarial.embedding import find_embedding
from potstill_bilstm.modeling import BiLSTMConfig, BiLSTMForSequenceClassification
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from potstill.errors import ModelError

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 20,
}
KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "bert": (SIZES, "bert.embeddings.word_embeddings.weight"),
    "roberta": (SIZES, "roberta.embeddings.word_embeddings.weight"),
    "electra": ({**SIZES, "embedding_size": 8}, "electra.embeddings.word_embeddings.weight"),
    "albert": ({**SIZES, "embedding_size": 8}, "albert.embeddings.word_embeddings.weight"),
    "distilbert": (
        {"vocab_size": 40, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 20},
        "distilbert.embeddings.word_embeddings.weight",
    ),
    "deberta-v2": (SIZES, "deberta.embeddings.word_embeddings.weight"),
    "modernbert": ({**SIZES, "pad_token_id": 0}, "model.embeddings.tok_embeddings.weight"),
}


class Twice(nn.Module):
    """Two tables that read the ids, and one for positions."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.extra, self.places = nn.Embedding(9, 4), nn.Embedding(9, 4), nn.Embedding(9, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        places = torch.arange(input_ids.shape[1])[None]
        return self.words(input_ids) + self.extra(input_ids) + self.places(places)


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_that_reads_the_input_ids_is_found_in(kind: str) -> None:
    sizes, wanted = KINDS[kind]
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind, **sizes))
    name, table = find_embedding(model, None, "here")
    assert name == wanted
    assert table is model.get_input_embeddings()


def test_the_bilstm_s_table_is_found_and_looking_leaves_modes_hooks_and_draws_as_they_were() -> None:
    model = BiLSTMForSequenceClassification(BiLSTMConfig(vocab_size=12, embedding_size=4, hidden_size=4))
    model.train()
    model.encoder.eval()
    draws = torch.get_rng_state()
    name, table = find_embedding(model, None, "here")
    assert (name, table) == ("embedding.weight", model.embedding)
    assert (model.training, model.encoder.training, model.dropout.training) == (True, False, True)
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in model.modules())
    assert torch.equal(torch.get_rng_state(), draws)


def test_a_part_of_the_name_chooses_the_table() -> None:
    model = Twice()
    assert find_embedding(model, "extra", "here") == ("extra.weight", model.extra)
    assert find_embedding(model, "places.weight", "here") == ("places.weight", model.places)


@pytest.mark.parametrize(
    ("model", "wanted", "sentence"),
    [
        (
            Twice(),
            "emb.",
            "here: no embedding table of the Twice has a name with embedding = 'emb.' in it; its tables: "
            "words.weight, extra.weight, places.weight.",
        ),
        (
            Twice(),
            "weight",
            "here: more than one embedding table of the Twice has a name with embedding = 'weight' in it: "
            "words.weight, extra.weight, places.weight; give as much of the one's name as embedding = '…'.",
        ),
        (
            Twice(),
            None,
            "here: more than one embedding table of the Twice receives the input ids: words.weight, extra.weight; "
            "give as much of the one's name as embedding = '…'.",
        ),
        (
            nn.Sequential(nn.Linear(2, 2)),
            None,
            "here: the Sequential has no embedding table, so there are no word vectors to move.",
        ),
    ],
)
def test_none_and_several_are_one_sentence(model: nn.Module, wanted: str | None, sentence: str) -> None:
    with pytest.raises(ModelError) as caught:
        find_embedding(model, wanted, "here")
    assert str(caught.value) == sentence
    assert caught.value.exit_code == 2
