"""Students of the teacher's layers: which ones, and that the copy computes what the teacher's layers compute."""

from __future__ import annotations

import pytest
import torch
from potstill_distilbert.extraction import TokenTypes, student_of
from potstill_distilbert.tables import Strategy, chosen_layers
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

from potstill.errors import ModelError

CONFIG = BertConfig(
    vocab_size=30,
    hidden_size=8,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=10,
)


@pytest.mark.parametrize(
    ("strategy", "student", "teacher", "layers"),
    [
        ("published", 3, 12, (1, 3, 5)),
        ("published", 9, 12, (1, 3, 4, 5, 8, 9, 10, 11, 12)),
        ("table", 3, 12, (1, 7, 12)),
        ("table", 5, 12, (1, 2, 3, 4, 5)),
        ("supervised", 3, 12, (4, 8, 12)),
        ("even", 6, 24, (4, 8, 12, 16, 20, 24)),
        ("first", 2, 5, (1, 2)),
        ("last", 2, 5, (4, 5)),
    ],
)
def test_layers_are_chosen_by_rule(strategy: Strategy, student: int, teacher: int, layers: tuple[int, ...]) -> None:
    assert chosen_layers(strategy, student, teacher) == layers


@pytest.mark.parametrize(
    ("strategy", "student", "teacher", "told"),
    [
        ("published", 6, 6, "takes layer 12 of 12, and the teacher has 6 layers"),
        ("published", 10, 12, "The published list has 9 layers and the student 10"),
        ("supervised", 5, 12, "no student of 5 layers for a teacher of 12"),
        ("even", 6, 4, "The student has 6 layers and the teacher 4"),
        ("middle", 1, 2, "layers = 'middle' is none of published, table"),
    ],
)
def test_choices_that_cannot_be_are_refused(strategy: Strategy, student: int, teacher: int, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        chosen_layers(strategy, student, teacher)


@pytest.mark.parametrize("token_types", ["words", "positions"])
def test_all_layers_and_the_added_token_type_compute_what_the_teacher_does(token_types: TokenTypes) -> None:
    teacher = BertForMaskedLM(CONFIG).double().eval()
    student = student_of(teacher, (1, 2, 3), vocab_transform=True, token_types=token_types).double().eval()
    ids = torch.randint(5, 30, (2, 7))
    with torch.no_grad():
        known = teacher.bert(ids).last_hidden_state
        torch.testing.assert_close(student.distilbert(ids).last_hidden_state, known, rtol=1e-5, atol=1e-6)
        answers = [model(ids).logits.log_softmax(-1) for model in (student, teacher)]
        torch.testing.assert_close(*answers, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("vocab_transform", [True, False])
def test_the_transform_is_copied_or_random_and_a_dropped_type_changes_the_answers(vocab_transform: bool) -> None:
    teacher = BertForMaskedLM(CONFIG).eval()
    teacher.bert.embeddings.token_type_embeddings.weight.data.normal_()
    student = student_of(teacher, (1, 2, 3), vocab_transform=vocab_transform, token_types="drop").eval()
    copied = torch.equal(student.vocab_transform.weight, teacher.cls.predictions.transform.dense.weight)
    assert copied == vocab_transform
    ids = torch.randint(5, 30, (2, 7))
    assert not torch.allclose(student(ids).logits, teacher(ids).logits)


def test_a_teacher_of_another_kind_is_refused() -> None:
    with pytest.raises(ModelError, match="the teacher is a BertForSequenceClassification"):
        student_of(BertForSequenceClassification(CONFIG), (1,), vocab_transform=True, token_types="drop")
