"""Rows as batches for student and teacher."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from potstill.batch import IGNORED
from potstill.data.examples import Examples, forget_labels
from potstill.data.table import TokenTable, record
from potstill.errors import DataError
from potstill.settings import TaskConfig
from potstill.tasks import load_task


def table(*rows: list[int], types: bool = False) -> TokenTable:
    columns = {"input_ids": list(rows)}
    if types:
        columns["token_type_ids"] = [[0] * (len(row) - 1) + [1] for row in rows]
    return TokenTable(pa.Table.from_batches([record(tuple(columns), columns)]))


def examples(*, shared: bool = True) -> Examples:
    student = table([5, 6, 7], [8], [9, 10])
    teacher = None if shared else table([1, 2], [3, 4, 5, 6], [7, 8], types=True)
    task = load_task(TaskConfig(), ["x", "y"])
    return Examples(student, teacher, np.array([1, IGNORED, 0]), task, (0, 99))


def test_a_batch_is_padded_to_its_own_longest_row() -> None:
    batch = examples().batch([2, 1])
    assert batch.student["input_ids"].tolist() == [[9, 10], [8, 0]]
    assert batch.student["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert batch.labels.tolist() == [0, IGNORED]
    assert batch.index.tolist() == [2, 1]
    assert {value.dtype for value in batch.student.values()} == {torch.int64}
    assert batch.shared


def test_the_teacher_has_its_own_tokens_padding_and_width() -> None:
    batch = examples(shared=False).batch(np.array([0, 1]))
    assert batch.student["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch.teacher["input_ids"].tolist() == [[1, 2, 99, 99], [3, 4, 5, 6]]
    assert batch.teacher["token_type_ids"].tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]
    assert batch.teacher["attention_mask"].sum(1).tolist() == [2, 4]
    assert "token_type_ids" not in batch.student


def test_rows_are_bucketed_by_the_longer_of_both_tokenizations() -> None:
    assert examples().lengths.tolist() == [3, 1, 2]
    assert examples(shared=False).lengths.tolist() == [3, 4, 2]


def test_no_rows_make_a_batch_of_no_rows() -> None:
    batch = examples(shared=False).batch([])
    assert len(batch) == 0
    assert batch.teacher["input_ids"].shape == (0, 0)
    assert batch.labels.shape == (0,)
    assert batch.labels.dtype == torch.int64


def test_changing_a_batch_does_not_change_the_data() -> None:
    rows = examples()
    batch = rows.batch([0])
    batch.student["input_ids"][:] = 77
    batch.labels[:] = 77
    assert rows.batch([0]).student["input_ids"].tolist() == [[5, 6, 7]]
    assert rows.batch([0]).labels.tolist() == [1]


def test_tables_of_different_rows_are_refused() -> None:
    task = load_task(TaskConfig(), ["x", "y"])
    with pytest.raises(DataError, match="2 tokenized rows and 1 rows of the teacher do not belong together"):
        Examples(table([1], [2]), table([1]), np.array([0, 1]), task, (0, 0))
    with pytest.raises(DataError, match="2 tokenized rows and 1 labels do not belong together"):
        Examples(table([1], [2]), None, np.array([0]), task, (0, 0))


def test_only_the_first_labels_are_kept() -> None:
    assert forget_labels(np.array([1, 0, 1]), 2).tolist() == [1, 0, IGNORED]
    values = forget_labels(np.array([1.5, 0.5], dtype=np.float32), 1)
    assert values[0] == 1.5
    assert np.isnan(values[1])
    assert [label.tolist() for label in forget_labels([np.array([1, 0]), np.array([1])], 1)] == [[1, 0], [IGNORED]]
