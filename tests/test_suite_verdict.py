"""Two suites' runs against each other, and the tables that papers print."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import potstill.cli
from potstill.cli.suite import run_names
from potstill.errors import FileError, UserError
from potstill.files import write_json
from potstill.outcomes import NAME, keep_outcomes
from potstill.progress import Progress
from potstill.suite.statistics import verdict
from potstill.suite.tables import by_seed, score_rows, score_table, verdict_rows
from potstill.suite.verdict import compare
from tests.test_suite import place as place  # a fixture

ROWS = 200


def suite(folder: Path, scores: dict[str, float], seeds: int = 3, shift: int = 0) -> dict[str, Any]:
    """A suite as its runs would have left it: of each task's rows that share is right, a row more with every seed."""
    tasks = {}
    for task, share in scores.items():
        labels = (np.arange(ROWS) + shift) % 2
        runs = []
        for seed in range(seeds):
            right = np.arange(ROWS) < round(share * ROWS) + seed
            stage = folder / task / f"seed={seed}" / "stages" / "01-tune"
            stage.mkdir(parents=True)
            keep_outcomes(stage, np.eye(2, dtype=np.float32)[np.where(right, labels, 1 - labels)], labels)
            write_json(stage.parents[1] / "result.json", {"student": "tune"})
            (stage.parents[1] / "model").mkdir()
            card = {"task": {"kind": "text-classification", "labels": ["no", "yes"]}}
            write_json(stage.parents[1] / "model" / "potstill.json", card)
            runs.append({"seed": seed, "folder": f"seed={seed}", "accuracy": float(right.mean())})
        tasks[task] = {"metrics": ["accuracy"], "settings": {}, "runs": runs, "tried": []}
    return {"model": str(folder), "name": folder.name, "tasks": tasks}


def compared(tmp_path: Path, first: dict[str, float], second: dict[str, float], **more: Any) -> dict[str, Any]:
    one, other = suite(tmp_path / "one", first, **more), suite(tmp_path / "other", second, **more)
    return compare(one, other, tmp_path / "one", tmp_path / "other", Progress())


def test_every_task_and_the_average_get_a_verdict(tmp_path: Path) -> None:
    found = compared(tmp_path, {"a": 0.9, "b": 0.7, "c": 0.5}, {"a": 0.7, "b": 0.7, "c": 0.65})
    assert {name: task["verdict"] for name, task in found["tasks"].items()} == {
        "a": "better",
        "b": "inconclusive",
        "c": "worse",
    }
    a = found["tasks"]["a"]
    assert a["difference"] == pytest.approx(0.2)
    # Of 200 rows, 40 differ: a binomial of 0.2 over 200, whose deviation is sqrt(0.2 * 0.8 / 200) = 0.028.
    assert a["rows"] == pytest.approx([0.2 - 1.96 * 0.0283, 0.2 + 1.96 * 0.0283], abs=0.012)
    assert a["seeds"]["p"] < 1e-6
    average = found["average"]
    assert average["difference"] == pytest.approx((0.2 + 0 - 0.15) / 3)
    low, high = average["rows"]
    assert high - low < 0.6 * (a["rows"][1] - a["rows"][0])  # a third of the variance of three tasks, one of them 0
    assert "paired t-test over seeds" in found["method"]


def test_two_seeds_are_judged_by_the_rows_alone(tmp_path: Path) -> None:
    found = compared(tmp_path, {"a": 0.9}, {"a": 0.7}, seeds=2)
    assert found["tasks"]["a"]["seeds"] is None
    assert found["tasks"]["a"]["verdict"] == "better"


def test_the_seeds_that_both_suites_ran_are_paired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = suite(tmp_path / "one", {"a": 0.9}), suite(tmp_path / "other", {"a": 0.8})
    whole = compare(one, other, tmp_path / "one", tmp_path / "other", Progress())
    other["tasks"]["a"]["runs"].reverse()
    assert compare(one, other, tmp_path / "one", tmp_path / "other", Progress()) == whole
    del other["tasks"]["a"]["runs"][1:]
    for name, found in (("one", one), ("other", other)):
        write_json(tmp_path / name / "suite.json", found)
    assert potstill.cli.main(["compare", str(tmp_path / "one"), str(tmp_path / "other")]) == 0
    out, err = capsys.readouterr()
    assert "a: of the seeds [0, 1, 2] and [2] those that both have are compared." in err
    last = suite(tmp_path / "last", {"a": 0.9})["tasks"]["a"]["runs"][2]["accuracy"]
    assert f"{100 * (last - other['tasks']['a']['runs'][0]['accuracy']):+.2f}" in out


def test_a_table_of_both_shows_points_and_the_verdict(tmp_path: Path) -> None:
    one, other = suite(tmp_path / "one", {"a": 0.9}), suite(tmp_path / "other", {"a": 0.7})
    found = compare(one, other, tmp_path / "one", tmp_path / "other", Progress())
    row, average = verdict_rows([one, other], [found])
    assert row["one"] == "90.50 ± 0.50"
    assert row["other"] == "70.50 ± 0.50"
    assert row["difference"] == "+20.00"
    assert row["verdict"] == average["verdict"] == "better"
    assert row["p over seeds"] == "0.000"


def test_other_rows_other_seeds_and_no_task_in_common_are_refused(tmp_path: Path) -> None:
    one = suite(tmp_path / "one", {"a": 0.9})
    other_rows, others = suite(tmp_path / "rows", {"a": 0.9}, shift=1), suite(tmp_path / "others", {"a": 0.9}, seeds=2)
    for run in others["tasks"]["a"]["runs"]:
        run["seed"] += 7

    def against(found: dict[str, Any]) -> None:
        compare(one, found, tmp_path / "one", tmp_path / found["name"], Progress())

    with pytest.raises(UserError, match="'a' was measured on other validation rows"):
        against(other_rows)
    with pytest.raises(UserError, match=r"'a' ran with the seeds \[0, 1, 2\] in one suite and \[7, 8\]"):
        against(others)
    with pytest.raises(UserError, match="no finished task in common"):
        against(suite(tmp_path / "b", {"b": 0.9}))
    other_metric = suite(tmp_path / "metric", {"a": 0.9})
    other_metric["tasks"]["a"]["metrics"] = ["macro_f1"]
    with pytest.raises(UserError, match="measured by accuracy in one suite and by macro_f1"):
        against(other_metric)
    gone = suite(tmp_path / "gone", {"a": 0.9})
    result = next((tmp_path / "gone").rglob("seed=1*/result.json"))
    result.unlink()
    with pytest.raises(FileError, match=f"{result} is missing; put it back, or remove {result.parent} and run"):
        against(gone)
    next((tmp_path / "one").rglob(NAME)).write_bytes(b"short")
    with pytest.raises(UserError, match="outcomes of .* cannot be read"):
        against(suite(tmp_path / "same", {"a": 0.9}))


def made(**tasks: Any) -> dict[str, Any]:
    return {"name": "m", "tasks": tasks}


def task(*runs: tuple[float, ...], metrics: tuple[str, ...]) -> dict[str, Any]:
    listed = [{"seed": seed, **dict(zip(metrics, run, strict=True))} for seed, run in enumerate(runs)]
    return {"metrics": list(metrics), "settings": {}, "runs": listed, "tried": [], "constant": {}}


def test_the_average_is_that_of_the_tasks_with_several_metrics_as_their_mean() -> None:
    found = made(
        mrpc=task((0.8, 0.9), (0.7, 0.8), metrics=("accuracy", "f1")),
        cola={**task((0.5,), (0.3,), metrics=("matthews",)), "constant": {"matthews": 0.0}},
        qnli={"absent": "no file"},
    )
    # seeds: (0.85 + 0.5) / 2 and (0.75 + 0.3) / 2
    assert by_seed(found) == pytest.approx({0: 0.675, 1: 0.525})
    assert score_rows([found]) == [
        {"task": "mrpc", "metric": "accuracy / F1", "m": "75.00 ± 7.07 / 85.00 ± 7.07"},
        {"task": "cola", "metric": "matthews", "m": "40.00 ± 14.14", "one answer for all": "0.00"},
        {"task": "qnli", "metric": "", "m": "left out"},
        {"task": "average", "metric": "", "m": "60.00 ± 10.61"},
    ]


def test_a_score_that_is_none_with_one_of_the_seeds_is_shown_as_none() -> None:
    found = made(stsb=task((0.8,), (math.nan,), metrics=("pearson",)))
    assert [row["m"] for row in score_rows([found])] == ["nan", "nan"]


def test_a_model_may_be_called_as_a_column_is_and_settings_say_whose_they_are() -> None:
    runs = {rate: task((rate,), metrics=("accuracy",)) | {"settings": {"stage.a.rate": rate}} for rate in (0.1, 0.2)}
    row, _ = score_rows([{"name": "metric", "tasks": {"a": runs[0.1]}}, {"name": "b", "tasks": {"a": runs[0.2]}}])
    assert (row["metric"], row["model metric"], row["b"]) == ("accuracy", "10.00", "20.00")
    assert row["best setting"] == "model metric: rate 0.1; b: rate 0.2"
    assert score_table([{"name": "my_own", "tasks": {"a": runs[0.1]}}]).startswith("| task | metric | my_own |")


def test_tasks_with_as_many_rows_are_not_drawn_alike(tmp_path: Path) -> None:
    one, other = suite(tmp_path / "one", {"a": 0.9, "b": 0.9}), suite(tmp_path / "other", {"a": 0.7, "b": 0.7})
    found = compare(one, other, tmp_path / "one", tmp_path / "other", Progress())
    assert found["tasks"]["a"]["rows"] != found["tasks"]["b"]["rows"]


def test_metrics_where_less_is_better_are_no_points_and_have_no_average() -> None:
    found = made(lm=task((12.3,), metrics=("perplexity",)), a=task((0.5,), metrics=("accuracy",)))
    assert by_seed(found) == {}
    assert [row["m"] for row in score_rows([found])] == ["12.3000", "50.00", None]


@pytest.mark.parametrize(
    ("places", "names"),
    [
        (["/runs/student/model"], ["student"]),
        (["/runs/one/model", "/runs/two/model"], ["one", "two"]),
        (["/a/student", "/b/student"], ["a-student", "b-student"]),
        (["google/bert-mini", "/a/student"], ["bert-mini", "student"]),
    ],
)
def test_models_are_called_by_what_tells_them_apart(places: list[str], names: list[str]) -> None:
    assert run_names(places) == names
    assert run_names(places, ["fgm:epsilon=0.5", "hinton", "fgm:steps=2"]) == [f"{name}+fgm+hinton" for name in names]


def test_the_command_judges_two_encoders_and_keeps_what_it_told(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import BertModel

    from tests.test_suite import save

    save(BertModel, place / "rival")
    words = ["suite", str(place / "both.toml"), "--model", str(place / "encoder"), "--against", str(place / "rival")]
    words += ["--seeds", "1,2,3", "-q", "--folder", str(tmp_path)]
    assert potstill.cli.main(words) == 0
    told = capsys.readouterr().out
    assert "p over seeds" in told
    assert "Each task is tested by itself" in told
    assert (
        (tmp_path / "encoder-against-rival.md")
        .read_text()
        .splitlines()[0]
        .startswith("| task | metric | encoder | rival")
    )
    assert potstill.cli.main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((tmp_path / "encoder-against-rival.json").read_text())
    assert set(found["tasks"]) == {"topic", "likeness"}
    assert found["average"]["verdict"] in ("better", "worse", "inconclusive")


def test_suites_that_ran_are_put_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three of them, two of which are called alike, with a task that only one of them ran."""
    folders = [tmp_path / "plain" / "student", tmp_path / "taught" / "student", tmp_path / "other"]
    for folder, share in zip(folders, (0.9, 0.7, 0.9), strict=True):
        tasks = {"a": share, "b": share} | ({"c": 0.5} if folder.name == "other" else {})
        write_json(folder / "suite.json", suite(folder, tasks))
    assert potstill.cli.main(["compare", *map(str, folders), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    names = ["plain-student", "taught-student", f"{tmp_path.name}-other"]
    assert [one["name"] for one in told["suites"]] == names
    assert list(told["comparisons"]) == names[1:]
    against = told["comparisons"][names[1]]
    assert (
        against["tasks"]["a"]
        == compare(
            *(json.loads((folder / "suite.json").read_text()) for folder in folders[:2]), *folders[:2], Progress()
        )["tasks"]["a"]
    )
    assert potstill.cli.main(["compare", *map(str, folders)]) == 0
    out, err = capsys.readouterr()
    assert "c: left out, as not all of the suites ran it." in err
    for row in ("a", "b", "average"):
        [line] = [line for line in out.splitlines() if line.split()[:1] == [row]]
        assert "+20.00 better" in line
        assert "+0.00 inconclusive" in line
    assert potstill.cli.main(["compare", str(folders[0]), str(folders[1])]) == 0
    assert "p over seeds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["one"], "name two folders or more"),
        (["one", "one"], "is named twice"),
        (["one", "."], "holds no suite.json; name the folder that `potstill suite` made for one model, here one or"),
        (["one", "nowhere"], "'nowhere' is no folder; name the folder that"),
        (["one", "other", "--html", "page.html"], "--html shows the curves of runs"),
        (["one", "strange"], "one, strange have no finished task in common"),
    ],
    ids=" ".join,
)
def test_suites_that_cannot_be_compared_are_one_sentence(
    words: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, task in (("one", "a"), ("other", "a"), ("strange", "b")):
        write_json(tmp_path / name / "suite.json", suite(Path(name), {task: 0.5}))
    assert potstill.cli.main(["compare", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_what_a_task_kept_nothing_of_is_judged_by_the_seeds_alone(tmp_path: Path) -> None:
    suites = [suite(tmp_path / name, {"a": share}) for name, share in (("one", 0.9), ("other", 0.7))]
    for outcomes in tmp_path.rglob(NAME):
        outcomes.unlink()
    found = compare(*suites, tmp_path / "one", tmp_path / "other", Progress())["tasks"]["a"]
    assert found["rows"] is None
    assert (found["verdict"], found["seeds"]["p"]) == ("better", pytest.approx(0, abs=1e-6))
    assert verdict(None, None) == "inconclusive"
