"""What is kept of the answers on validation rows: as it was, and enough for every score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import potstill
from potstill.errors import FileError
from potstill.models import task_of
from potstill.outcomes import NAME, keep_outcomes, kept_outcomes
from potstill.testing.tiny import student_only, write_data


def test_rows_of_one_shape_and_of_many_come_back(tmp_path: Path) -> None:
    ragged = [np.arange(n, dtype=np.float32).reshape(1, n) for n in (3, 0, 5)]
    labels = np.array([0, -100, 2])
    keep_outcomes(tmp_path, ragged, labels)
    outcomes, same = kept_outcomes(tmp_path)
    assert [row.tolist() for row in outcomes] == [row.tolist() for row in ragged]
    assert same.tolist() == labels.tolist()
    keep_outcomes(tmp_path, np.eye(3), [label[None] for label in labels])
    outcomes, same = kept_outcomes(tmp_path)
    np.testing.assert_array_equal(outcomes, np.eye(3))
    assert [label.tolist() for label in same] == [[0], [-100], [2]]


def test_what_is_no_number_is_not_kept_and_that_is_said_when_it_is_asked_for(tmp_path: Path) -> None:
    keep_outcomes(tmp_path, np.array(["B-PER", "O"]), np.array([0, 1]))
    assert not (tmp_path / NAME).exists()
    with pytest.raises(FileError, match="cannot be read"):
        kept_outcomes(tmp_path)


def test_a_runs_outcomes_give_its_own_scores_again(tmp_path: Path) -> None:
    tables = student_only(epochs=1, evaluate_every=3)
    result = potstill.run(tables, folder=tmp_path / "run", data_root=write_data(tmp_path))
    outcomes, labels = kept_outcomes(tmp_path / "run/stages/01-plain")
    scores = task_of(result.model).score(outcomes, labels)
    assert len(labels) == 40
    assert scores == {name: value for name, value in result.metrics.items() if name != "loss"}
