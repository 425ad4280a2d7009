"""One suite's fine-tuned models as the teachers of another."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from transformers import BertModel

import potstill.cli
from tests.test_suite import place as place  # a fixture
from tests.test_suite import save


def teaching(place: Path, folder: Path, *words: str) -> int:
    """The suite's exit code, with two seeds and its runs below a folder."""
    given = ["suite", str(place / "both.toml"), "--seeds", "1,2", "-q", "--folder", str(folder), *words]
    return potstill.cli.main(given)


def test_what_one_suite_fine_tuned_teaches_another(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(BertModel, place / "large")
    assert teaching(place, tmp_path, "--model", str(place / "large"), "--keep-models") == 0
    taught = ["--model", str(place / "encoder"), "--teacher", str(tmp_path / "large"), "-p", "hinton"]
    assert teaching(place, tmp_path, *taught) == 0
    large, student = (json.loads((tmp_path / name / "suite.json").read_text()) for name in ("large", "encoder+hinton"))
    for name, metric in (("topic", "accuracy"), ("likeness", "pearson")):
        best = max(large["tasks"][name]["runs"], key=lambda run: run[metric])
        kept = (tmp_path / "encoder+hinton" / name / "seed=2/recipe.toml").read_text()
        assert tomllib.loads(kept)["teacher"]["model"] == str(tmp_path / "large" / name / best["folder"] / "model")
        result = json.loads((tmp_path / "encoder+hinton" / name / "seed=2/result.json").read_text())
        assert result["teacher"]["metrics"][metric] == pytest.approx(best[metric])
        assert len(student["tasks"][name]["runs"]) == 2
    capsys.readouterr()
    assert teaching(place, tmp_path, "--model", str(place / "encoder")) == 0  # without a teacher, in a folder beside it
    assert potstill.cli.main(["compare", str(tmp_path / "encoder+hinton"), str(tmp_path / "encoder")]) == 0
    assert "encoder+hinton" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--teacher", "kept"], "nothing in the task 'topic' learns from a teacher; add a plugin that does"),
        (["--teacher", "kept", "-p", "fgm"], "nothing in the task 'topic' learns from a teacher"),
        (["--teacher", "nowhere", "-p", "hinton"], "--teacher: 'nowhere' is no folder"),
        (["--teacher", ".", "-p", "hinton"], "holds no suite.json; name the folder that `potstill suite` made"),
        (["--teacher", "thrown", "-p", "hinton"], "run it again with --keep-models"),
        (["--teacher", "half", "-p", "hinton"], "--teacher has no model of the task 'likeness'; it has topic"),
        (["--teacher", "part", "-p", "hinton"], "part/likeness/seed=1 has no weights"),
        (["--teacher", "part", "--task", "topic"], "nothing in the task 'topic' learns"),  # whose weights are there
        (["--teacher", "", "-p", "hinton"], "--teacher is empty: name the folder of a suite"),
        (["--teacher", "kept", "--set", "teacher.model=x"], "the teacher is a model of --teacher; leave 'teacher.mod"),
        (["--teacher", "kept", "--grid", "teacher.model=x"], "--grid teacher.model: in a suite the teacher is a model"),
        (["--teacher", "damaged", "-p", "hinton"], "suite.json is damaged, for it holds no table of tasks"),
    ],
    ids=" ".join,
)
def test_teachers_that_cannot_teach_are_one_sentence_and_nothing_is_trained(
    words: list[str],
    sentence: str,
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    both = ["topic", "likeness"]
    for name, tasks in (("kept", both), ("thrown", both), ("part", both), ("half", ["topic"]), ("damaged", [])):
        done = {
            task: {"metrics": ["accuracy"], "runs": [{"seed": 1, "folder": "seed=1", "accuracy": 0.5}]}
            for task in tasks
        }
        for task in tasks:
            model = Path(name, task, "seed=1", "model")
            model.mkdir(parents=True)
            if name != "thrown" and (name, task) != ("part", "likeness"):
                (model / "model.safetensors").touch()
        Path(name).mkdir(exist_ok=True)
        Path(name, "suite.json").write_text(json.dumps({"name": name, "tasks": done or []}))
    assert teaching(place, tmp_path / "runs", "--model", str(place / "encoder"), *words) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
