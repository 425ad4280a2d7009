"""The report's pictures of where models err, and pages of runs that are odd, damaged, old or under way."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import potstill.cli
from potstill.details import by_class, mistakes
from potstill.report.curves import plain
from potstill.report.errors import class_rows, errors, interval_table
from potstill.report.figures import class_scores, confusion, lengths, scatter
from potstill.report.folder import RecordedRun
from potstill.report.html import write_report
from potstill.report.quality import points
from tests.browser import complaints_of, needs_browser
from tests.fabricated import DETAILS, make_run

EVIL = "</script><script>alert(1)</script><b>owl</b>"


def classes_of(count: int, rows: int = 4000) -> dict[str, Any]:
    """Tables of so many classes, one row in three wrong."""
    random = np.random.default_rng(count)
    labels = random.integers(0, count, rows)
    predicted = np.where(random.random(rows) < 2 / 3, labels, random.integers(0, count, rows))
    names = [EVIL, *(f"class {number} with a name that is longer than most" for number in range(1, count))]
    return {"classes": by_class(predicted, labels, names), "mistakes": mistakes(predicted, labels, names)}


def with_details(run: Path, details: Any, stage: str = "02-distil") -> Path:
    (run / "stages" / stage / "details.json").write_text(json.dumps(details))
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "birds")


def test_a_confusion_matrix_holds_recall_and_the_share_of_each_mistake() -> None:
    shown, every, figure = confusion(DETAILS["classes"], DETAILS["mistakes"])
    assert (shown, every) == (3, 3)
    wrong, right = figure.data
    assert list(figure.layout.xaxis.ticktext) == ["&lt;b&gt;owl&lt;/b&gt;", "gull", "wren"]
    assert wrong.z == ([None, None, 30 / 300], [None, None, 24 / 600], [20 / 100, None, None])
    assert right.z == ([0.9, None, None], [None, 0.96, None], [None, None, 0.8])
    assert (wrong.zmax, right.zmax) == (0.2, 1.0)
    assert wrong.textfont.color == right.textfont.color == "#777"  # until the page's script gives it the theme's


def test_long_names_that_begin_alike_are_told_apart_on_an_axis() -> None:
    names = [f"category number with a rather long description {number}" for number in (1, 2)]
    figure = confusion([{"class": name, "support": 1, "recall": 1.0} for name in names], [])[-1]
    assert figure.layout.xaxis.ticktext == ("category numbe…description 1", "category numbe…description 2")
    assert figure.layout.xaxis.tickangle == -45
    assert plain("a" * 60) == "a" * 60
    assert plain("a" * 60 + "b") == "a" * 30 + "…" + "a" * 28 + "b"


def test_a_column_of_a_models_scores_has_the_models_name_as_it_is() -> None:
    tables = {name: {"validation": DETAILS} for name in ("teacher", "my_student_v2")}
    assert "<th class='number'>F1 my_student_v2</th>" in errors(tables, "validation")
    assert "<th class='number'>F1</th>" in errors({"my_student_v2": {"validation": DETAILS}}, "validation")


def test_of_300_classes_the_most_confused_are_shown_and_all_are_listed() -> None:
    tables = classes_of(300)
    shown, every, figure = confusion(tables["classes"], tables["mistakes"])
    assert (shown, every) == (20, 300)
    made: dict[str, int] = {}
    for row in tables["mistakes"]:
        for side in ("label", "predicted"):
            made[row[side]] = made.get(row[side], 0) + row["count"]
    least = sorted(made.values(), reverse=True)[19]
    labels = [words.split(" →")[0] for words in (line[0] for line in figure.data[0].text)]
    assert all(made[name] >= least for name in labels if name in made)
    page = errors({"one": {"validation": tables}}, "validation")
    assert "All 300 classes" in page
    assert "the 20 of 300 classes with the most mistakes" in page
    assert "alert(1)</script>" not in page


def test_several_models_stand_side_by_side_and_the_last_ones_worst_class_first() -> None:
    other = [{**row, "f1": 0.5} for row in DETAILS["classes"][:2]]
    main, rows = class_rows({"teacher": other, "distil": DETAILS["classes"]})
    assert main == "distil"
    assert rows[0] == {
        "class": "wren", "support": 100, "precision": 0.5, "recall": 0.8, "F1 teacher": 0.5, "F1 distil": 0.615,
    }  # fmt: skip
    assert rows[2]["F1 teacher"] is None
    figure = class_scores(rows, ["teacher", "distil"])
    assert [mark.x for mark in figure.data] == [(None, 0.5, 0.5), (0.98, 0.924, 0.615)]


def test_quality_by_length_has_intervals_and_its_own_axis_where_tokens_differ() -> None:
    rows = DETAILS["lengths"]
    figure = lengths({"one": rows, "two": rows})
    assert figure.data[0].x == ("3–9", "10–40")
    assert figure.data[0].error_y.array == pytest.approx([0.02, 0.03])
    figure = lengths({"one": rows, "two": [{"from": 2, "to": 4, "rows": 9, "accuracy": 0.5}]})
    assert figure.data[0].x == (6.0, 25.0)
    assert figure.data[1].error_y.visible is False


def test_predictions_lie_over_the_truth() -> None:
    figure = scatter({"one": [{"label": 1.0, "predicted": 1.5}, {"label": 4.0, "predicted": None}]})
    assert figure.data[0].y == (1.5, None)
    assert figure.data[-1].x == (1.0, 4.0)


def test_intervals_stand_in_a_table_and_in_the_picture_of_every_form(run: Path) -> None:
    text = re.sub(r"<[^>]+>", " ", interval_table(RecordedRun(run).details))
    assert "distil validation, 1000 rows accuracy 0.9041 0.8850 to 0.9210 Wilson, 95 % 0.6000" in " ".join(text.split())
    found = {point.name: point.intervals.get("accuracy") for point in points(RecordedRun(run))}
    assert found["distil"] == (0.885, 0.921)
    assert found["distil.int8.onnx"] == pytest.approx((0.8822, 0.9191), abs=1e-3)  # Wilson's of 902.2 of 1000


def test_tables_that_the_report_does_not_know_are_shown_as_they_are(run: Path) -> None:
    with_details(run, {"model": {"validation": {"worst_questions": [{"question": "Who <i>?", "f1": 0.25}] * 20}}})
    page = write_report(run).read_text()
    assert "<h3>Worst questions</h3>" in page
    assert "Who &lt;i&gt;?" in page
    assert "All 20 rows" in page


def test_a_run_of_before_has_no_tables_and_the_page_says_so(run: Path) -> None:
    for path in run.glob("stages/*/details.json"):
        path.unlink()
    page = write_report(run).read_text()
    assert "stages/02-distil/details.json is missing: an older potstill made no tables of errors." in page
    assert "Errors on the" not in page


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[1]",
        '{"model": 3, "teacher": {"validation": [1]}}',
        '{"model": {"validation": {"classes": [3, {"class": null}], "mistakes": [{}], "lengths": [{"from": "x"}, {}], '
        '"points": [{}], "intervals": [{}, {"metric": "accuracy", "low": "x"}]}}}',
        '{"model": {"validation": {"classes": [{"class": "a", "support": 0, "recall": NaN, "f1": NaN}], '
        '"mistakes": [{"label": "a", "predicted": "a", "count": NaN}]}}}',
    ],
)
def test_damaged_tables_do_not_hide_the_rest(run: Path, content: str) -> None:
    for stage in ("01-teacher", "02-distil"):
        (run / "stages" / stage / "details.json").write_text(content)
    assert "0.9041" in write_report(run).read_text()


def test_metrics_that_are_not_finite_leave_gaps(run: Path) -> None:
    path = run / "stages/02-distil/metrics.jsonl"
    path.write_text(path.read_text() + '{"update": 550, "loss": NaN, "terms": {"hinton.soft": Infinity}}\n')
    result = json.loads((run / "stages/02-distil/result.json").read_text())
    result["metrics"]["accuracy"] = float("nan")
    (run / "stages/02-distil/result.json").write_text(json.dumps(result))
    page = write_report(run).read_text()
    assert "nan" in page
    assert "NaN," not in page.split("<body>")[1]


def test_a_run_under_way_shows_what_there_is(run: Path) -> None:
    (run / "result.json").unlink()
    shutil.rmtree(run / "export")
    for name in ("result.json", "details.json"):
        (run / "stages/02-distil" / name).unlink()
    page = write_report(run).read_text()
    assert "This stage has not ended." in page
    assert "hinton.soft" in page
    assert "details.json" not in page


def test_a_page_that_cannot_be_written_is_one_sentence(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "report.html").mkdir()
    assert potstill.cli.main(["report", str(run)]) == 2
    assert capsys.readouterr().err == (
        f"{run / 'report.html'} cannot be written: a folder has its name; move that or name another place.\n"
    )


@needs_browser
@pytest.mark.parametrize("count", [1, 3, 300])
def test_a_browser_draws_every_picture_and_complains_of_nothing(run: Path, tmp_path: Path, count: int) -> None:
    tables = {**DETAILS, **classes_of(count), "points": [{"label": 1.0, "predicted": 1.5}]}
    with_details(run, {"model": {"validation": tables, "test": tables}, "teacher": {"validation": tables}})
    drawn, complaints = complaints_of(write_report(run), tmp_path)
    assert complaints == []
    # the quality, loss and metric of two stages, then classes, lengths, points and two models' matrices, twice
    assert drawn == 5 + 2 * (3 + 2)
