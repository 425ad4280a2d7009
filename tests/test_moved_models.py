"""Models that lie elsewhere now: the same where they hold what they held, and other ones where they do not."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import potstill
from potstill.errors import ModelError, RecipeError
from potstill.files import read_json
from potstill.named import NamedFiles
from potstill.testing.tiny import bert, student_only, write_data
from tests.test_runner import Notes


def test_a_model_that_was_moved_is_the_same_and_another_in_its_place_is_not(tmp_path: Path) -> None:
    folder = write_data(tmp_path, train=24)
    potstill.run(student_only(), folder=tmp_path / "before", data_root=folder)
    shutil.copytree(tmp_path / "before/model", folder / "here")

    def run(model: str, reuse: Sequence[Path] = (), name: str = "run") -> list[str]:
        notes = Notes()
        plan = student_only() | {"student": {"model": model}}
        potstill.run(plan, folder=tmp_path / name, data_root=folder, reuse=reuse, progress=notes)
        return notes.lines

    run("here")
    shutil.move(folder / "here", folder / "there")
    assert not [line for line in run("there") if "updates" in line]
    assert 'model = "there"' in (tmp_path / "run/recipe.toml").read_text()
    run("there")
    assert [line for line in run("there", [tmp_path / "run"], "other") if "taken from" in line]
    shutil.copytree(folder / "there", folder / "here")
    config = folder / "here" / "config.json"
    config.write_text(config.read_text().replace('"dtype"', '"of_another": 1, "dtype"'))
    with pytest.raises(RecipeError, match=r'run of another recipe \(student\.model: "there" → "here"\)'):
        run("here")


def test_texts_that_can_be_no_path_name_nothing(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("a file")
    found = NamedFiles(tmp_path).within([{"a": "", "b": ["there", "long " * 100], "c": "stage:there"}])
    assert list(found) == ["there"]  # and "" not as the folder itself


def test_a_run_whose_data_was_moved_knows_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    write_data(tmp_path / "here", train=24)
    plan = student_only(updates=1, epochs=None)
    potstill.run(plan, folder=tmp_path / "run", data_root=tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    potstill.run(plan, folder=tmp_path / "run", data_root=tmp_path / "there")
    assert read_json(tmp_path / "run/environment.json")["data_root"] == str((tmp_path / "there").resolve())


class Moving:
    """A teacher and a student in folders "bert" and "small", and a run of them in "run"."""

    def __init__(self, place: Path) -> None:
        self.place = write_data(place, train=24)
        potstill.run(student_only(updates=1, epochs=None), folder=place / "made", data_root=place)
        for name in ("bert", "small"):
            shutil.copytree(place / "made/model", place / name)

    def run(self, teacher: str, **tables: Any) -> None:
        plan = {
            "name": "bert",  # as the teacher's folder
            "data": {"train": "train.csv", "validation": "validation.csv", "max_length": 16},
            "teacher": {"model": teacher},
            "student": {"layers": [1]},
            "stage": [
                {"name": "bert", "plugins": ["hinton"], "updates": 1},
                {"name": "more", "student": "stage:bert", "updates": 1},
            ],
        }
        potstill.run(plan | tables, folder=self.place / "run", data_root=self.place)


def test_only_the_models_of_a_recipe_go_by_another_path_after_a_move(tmp_path: Path) -> None:
    moving = Moving(tmp_path)
    config = {"student": {"config": bert(1, 16), "tokenizer": "vocab.txt"}}
    for number, tables in enumerate([{}, config]):
        moving.run("bert", **tables)
        shutil.move(tmp_path / "bert", tmp_path / "moved")
        moving.run("moved", **tables)
        shutil.move(tmp_path / "moved", tmp_path / "bert")
        shutil.move(tmp_path / "run", tmp_path / f"done-{number}")


def test_a_copy_may_take_the_place_of_the_teacher_alone(tmp_path: Path) -> None:
    moving = Moving(tmp_path)
    moving.run("bert", student={"model": "bert"})
    shutil.copytree(tmp_path / "bert", tmp_path / "copy")
    moving.run("copy", student={"model": "bert"})


def test_a_student_that_changed_is_seen_although_the_teacher_was_moved(tmp_path: Path) -> None:
    moving = Moving(tmp_path)
    moving.run("bert", student={"model": "small"})
    shutil.move(tmp_path / "bert", tmp_path / "moved")
    config = tmp_path / "small" / "config.json"
    config.write_text(config.read_text().replace('"dtype"', '"of_another": 1, "dtype"'))
    with pytest.raises(ModelError, match=r"The student's 'small' is not what the run in .* began with"):
        moving.run("moved", student={"model": "small"})
