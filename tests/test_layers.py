from __future__ import annotations

import pytest
from torch import nn
from transformers import AlbertConfig, AlbertModel, BertConfig, BertModel

from potstill.errors import ModelError
from potstill.layers import Layers, Strategy, layer_pairs

SMALL = {"vocab_size": 40, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}


def bert(layers: int = 3) -> BertModel:
    return BertModel(BertConfig(num_hidden_layers=layers, **SMALL))


def albert(**config: int) -> AlbertModel:
    return AlbertModel(AlbertConfig(embedding_size=8, **{"num_hidden_layers": 4, **SMALL, **config}))


def test_the_layers_of_bert_are_those_of_its_encoder() -> None:
    model = bert(3)
    layers = Layers.of(model)
    assert (layers.count, layers.name, layers.shared) == (3, "encoder.layer", False)
    assert layers.modules == tuple(model.encoder.layer)


def test_albert_runs_one_module_for_all_its_layers() -> None:
    layers = Layers.of(albert())
    assert (layers.count, len(layers.modules), layers.shared) == (4, 1, True)


def test_the_outermost_list_is_taken_where_lists_stand_inside_lists() -> None:
    """Two layers, and a group of two inner layers: the group is what runs twice, not the inner layers."""
    layers = Layers.of(albert(num_hidden_layers=2, inner_group_num=2))
    assert layers.name == "encoder.albert_layer_groups"
    assert layers.shared


def test_a_model_without_a_list_of_layers_has_none() -> None:
    layers = Layers.of(nn.Linear(2, 2))
    assert layers.count == 0
    with pytest.raises(ModelError, match="Layer 1 of the student is asked for, but this model has no list of layers"):
        layers.exact(1, first=0, side="student")


@pytest.mark.parametrize(
    ("layer", "first", "exact"), [(1, 1, 1), (3, 1, 3), (-1, 1, 3), (-3, 1, 1), (0, 0, 0), (-4, 0, 0)]
)
def test_layers_count_from_the_front_and_from_the_end(layer: int, first: int, exact: int) -> None:
    assert Layers.of(bert(3)).exact(layer, first=first, side="teacher") == exact


@pytest.mark.parametrize(("layer", "first"), [(0, 1), (4, 1), (-4, 1), (4, 0), (-5, 0)])
def test_a_layer_that_is_not_there_is_a_sentence_with_what_is_there(layer: int, first: int) -> None:
    with pytest.raises(ModelError) as error:
        Layers.of(bert(3)).exact(layer, first=first, side="teacher")
    assert str(error.value) == f"Layer {layer} of the teacher is asked for, but it has layers {first} to 3."


def test_only_the_layers_wanted_are_hooked_and_the_embeddings_are_seen_on_entering_the_first() -> None:
    model = bert(3)
    layers = Layers.of(model)
    assert layers.modules_for([]) == []
    assert layers.modules_for([0]) == [model.encoder.layer[0]]
    assert layers.modules_for([3, 0, 1]) == [model.encoder.layer[0], model.encoder.layer[2]]


def test_every_module_of_shared_layers_is_hooked_once_since_calls_are_counted() -> None:
    model = albert(num_hidden_groups=2)
    layers = Layers.of(model)
    assert layers.modules_for([2]) == list(model.encoder.albert_layer_groups)
    assert layers.modules_for([]) == []
    assert [layers.number(layers.modules[0], before) for before in (0, 1)] == [1, 2]


def test_a_layer_knows_its_number_whatever_was_entered_before() -> None:
    layers = Layers.of(bert(3))
    assert [layers.number(module, 0) for module in layers.modules] == [1, 2, 3]


@pytest.mark.parametrize(
    ("strategy", "student", "teacher", "pairs"),
    [
        ("uniform", 4, 12, [(1, 3), (2, 6), (3, 9), (4, 12)]),
        ("uniform", 5, 12, [(1, 2), (2, 5), (3, 7), (4, 10), (5, 12)]),
        ("first", 3, 12, [(1, 1), (2, 2), (3, 3)]),
        ("last", 3, 12, [(1, 10), (2, 11), (3, 12)]),
        ("skip", 6, 12, [(1, 2), (2, 4), (3, 6), (4, 8), (5, 10)]),
    ],
)
def test_layers_are_laid_on_each_other_as_the_papers_say(
    strategy: Strategy, student: int, teacher: int, pairs: list[tuple[int, int]]
) -> None:
    assert list(layer_pairs(strategy, student, teacher)) == pairs


def test_a_student_with_more_layers_than_its_teacher_is_refused() -> None:
    with pytest.raises(ModelError, match="The student has 4 layers and the teacher 3"):
        layer_pairs("uniform", 4, 3)
