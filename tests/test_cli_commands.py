"""What commands print: progress lines, plans, timings, and one small run from options to predictions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import tomli_w
from rich.console import Console

import potstill.cli
from potstill.cli.display import LineProgress, make_progress, shown
from potstill.cli.output import plain
from potstill.cli.plan import tree
from potstill.cli.time import entries, rows
from potstill.report.latency import cells
from potstill.testing.tiny import bert, write_data
from potstill.testing.words import tagging, write_tags
from potstill.timing import Timing, conditions


def test_lines_tell_the_end_and_the_last_facts():
    lines: list[str] = []
    progress = LineProgress(lines.append, shortest=0)
    with progress.bar("distil", 10, done=4) as bar:
        progress.note("epoch 1: accuracy 0.91")
        bar.advance(3, loss=0.5)
        bar.advance(3, loss=0.25, rate="high")
    assert lines == ["epoch 1: accuracy 0.91", "distil: 10 of 10 in 0 s, loss 0.25, rate high"]


def test_long_work_tells_how_far_it_is_and_short_work_nothing():
    lines: list[str] = []
    with LineProgress(lines.append, every=0).bar("distil", 10) as bar:
        bar.advance(3, loss=0.5)
    with LineProgress(lines.append).bar("evaluating", 2) as bar:
        bar.advance(2)
    assert lines == ["distil: 3 of 10 in 0 s, loss 0.5"]


def test_facts_have_four_digits():
    assert shown({"loss": 0.123456, "rows": 7}) == "loss 0.1235, rows 7"


def test_only_the_first_rank_speaks(monkeypatch: pytest.MonkeyPatch, capsys):
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        make_progress().note("teacher: accuracy 0.91")
        assert len(capsys.readouterr().err.splitlines()) == lines


def test_json_has_no_nan_and_paths_are_strings():
    assert plain({"a": float("nan"), "b": (Path("x"), {2, 1}), 3: True}) == {"a": None, "b": ["x", [1, 2]], "3": True}


def test_a_plan_is_a_tree_with_a_branch_a_stage():
    stage = {
        "name": "distil",
        "trains": "student",
        "plugins": ["hinton"],
        "slots": {},
        "updates": 1200,
        "teacher": None,
    }
    stage["observed"] = {"teacher": ["logits"], "student": ["logits"]}
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(tree("small", {"name": "small", "stages": [stage], "export": ["onnx"]}))
    lines = [line.strip(" │├└─") for line in console.export_text().splitlines()]
    assert lines == [
        "small", "export onnx", "1 distil: trains the student", "plugins hinton", "updates 1,200",
        "observed", "teacher logits", "student logits",
    ]  # fmt: skip


def timing(name: str, p50: float, length: int, rounds: Sequence[float]) -> Timing:
    return Timing(
        name, f"{name}.onnx", "onnxruntime", 1, length, p50, p50, p50, p50, 1000 / p50, p50, 0, 120, len(rounds), 3, 1,
        0.5, 1.25, tuple(rounds),
    )  # fmt: skip


def test_speed_up_is_over_the_first_model_at_the_same_length_or_too_noisy_to_rank():
    timings = [
        timing("teacher", 8.0, 32, [8.0] * 6),
        timing("student", 2.0, 32, [2.0] * 6),
        timing("teacher", 30.0, 128, [30.0] * 6),
        timing("student", 3.0, 128, [3.0] * 5 + [40.0]),
    ]
    assert [(row["speedup"], row["interval"]) for row in cells(rows(timings))] == [
        (None, None), (4.0, "4.00–4.00×"), (None, None), ("too noisy to rank", "0.75–10.00×"),
    ]  # fmt: skip
    found = [row["speedup"] for row in rows(timings)]
    assert found[0] is found[2] is None
    assert found[1] == {
        "over": "teacher", "ratio": 4.0, "low": 4.0, "high": 4.0, "confidence": 31 / 32, "verdict": "faster",
    }  # fmt: skip
    assert (found[3]["verdict"], found[3]["ratio"]) == ("too noisy to rank", pytest.approx(10))


def test_the_conditions_of_a_measurement_are_one_line():
    line = conditions([timing("teacher", 8.0, 32, [8.0] * 6), timing("student", 2.0, 32, [2.0] * 6)])
    assert line == "onnxruntime, 1 thread, 6 rounds of 20 calls after 3 to warm up, load 0.50 before and 1.25 after"


def test_models_to_time_get_the_shortest_names_that_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    export = tmp_path / "run" / "export"
    export.mkdir(parents=True)
    (tmp_path / "run" / "recipe.toml").touch()
    for name, size in (("model", 2), ("model.int8", 1), ("teacher", 3)):
        (export / f"{name}.onnx").write_bytes(bytes(size))
    assert entries(["a/model", "b/model", "big=c/model"]) == [
        ("a/model", Path("a/model")),
        ("b/model", Path("b/model")),
        ("big", Path("c/model")),
    ]
    assert [name for name, _ in entries(["run"])] == ["teacher.onnx", "model.onnx", "model.int8.onnx"]
    assert [name for name, _ in entries(["r=run"])] == ["r/teacher.onnx", "r/model.onnx", "r/model.int8.onnx"]


@pytest.fixture
def colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a data file whose label is the text's only word, and a vocabulary."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))
    lines = [
        f"{word},{'warm' if word in ('red', 'amber') else 'cold'}" for word in ("red", "blue", "amber", "teal")
    ] * 10
    (tmp_path / "colours.csv").write_text("\n".join(["word,kind", *lines]) + "\n")
    (tmp_path / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "amber", "teal"])
    )
    size = "hidden_size = 16, num_hidden_layers = 2, num_attention_heads = 2, intermediate_size = 32"
    (tmp_path / "teacher.toml").write_text(
        f"""
        [data]
        train = "colours.csv"
        validation = "colours.csv"
        text = "word"
        label = "kind"
        [student]
        tokenizer = "vocab.txt"
        config = {{ model_type = "bert", {size} }}
        [[stage]]
        name = "train"
        epochs = 20
        batch_size = 8
        learning_rate = 0.01
        """
    )
    return tmp_path


def test_a_run_from_a_recipe_and_one_from_options_end_in_predictions(colours: Path, capsys):
    assert potstill.cli.main(["run", "teacher.toml", "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert "1.0000" in printed
    assert "report  runs/teacher/report.html" in printed

    words = "run --teacher runs/teacher/model --student-layers 1 --train colours.csv --validation colours.csv"
    words += " --text word --label kind -p hinton:temperature=2 --epochs 20 --batch-size 8 --learning-rate 0.01"
    assert potstill.cli.main([*words.split(), "--name", "student", "--quiet", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in content["rows"]] == ["teacher", "distil"]
    assert content["metrics"]["accuracy"] == 1.0

    assert potstill.cli.main(["evaluate", "runs/student", "colours.csv", "--quiet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == 1.0
    assert potstill.cli.main(["predict", "runs/student", "amber", "teal"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [(line[0], line[-1]) for line in lines] == [("warm", "amber"), ("cold", "teal")]

    assert potstill.cli.main(["run", "teacher.toml", "--seed", "5", "--quiet"]) == 2
    assert "seed" in capsys.readouterr().err
    assert potstill.cli.main(["run", "teacher.toml", "--seed", "5", "--fresh", "--quiet"]) == 0


def test_a_sweep_shows_the_metric_of_its_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tags(write_data(tmp_path))
    stage = {"name": "tune", "updates": 2, "batch_size": 8}
    tables = {**tagging(), "stage": [stage], "student": {"config": bert(1, 16), "tokenizer": "vocab.txt"}}
    del tables["teacher"]
    (tmp_path / "tags.toml").write_text(tomli_w.dumps(tables))
    words = ["sweep", str(tmp_path / "tags.toml"), "--folder", str(tmp_path / "sweep"), "--seeds", "1,2", "--quiet"]
    assert potstill.cli.main(words) == 0
    [heading] = [line for line in capsys.readouterr().out.splitlines() if "seeds" in line]
    assert heading.split() == ["seeds", "accuracy", "F1"]
