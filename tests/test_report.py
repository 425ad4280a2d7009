"""The table of models and the HTML report of a run folder, whole and with parts missing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import potstill.cli
from potstill.errors import UserError
from potstill.report.comparepage import page
from potstill.report.comparison import Comparison
from potstill.report.curves import level, lines, loss_curves, metric_curves
from potstill.report.elements import duration, table, tree
from potstill.report.figures import lengths
from potstill.report.folder import RecordedRun
from potstill.report.html import write_report
from potstill.report.overlaid import overlaid, seeds
from potstill.report.quality import Point, picture, points
from potstill.report.seeds import spread
from potstill.report.table import cell, columns_of, headline, markdown, model_rows, print_table
from potstill.timing import Timing, records
from tests.fabricated import EXPORTS, make_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "birds")


def text_of(report: Path) -> str:
    """The page without styles and scripts."""
    return re.sub(r"<(style|script)\b.*?</\1>", "", report.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_rows_are_the_stages_in_order_and_then_the_exports(run: Path):
    rows = model_rows(run)
    assert [row["model"] for row in rows] == ["teacher", "distil", "teacher.onnx", "distil.onnx", "distil.int8.onnx"]
    assert rows[1]["accuracy"] == 0.9041
    assert rows[1]["test_accuracy"] == pytest.approx(0.8941)
    assert (rows[1]["parameters"], rows[1]["bytes"]) == (2_750_000, 11_000_000)
    assert rows[4] == EXPORTS[2]


def test_an_export_row_with_a_stages_name_completes_that_row(run: Path):
    result = json.loads((run / "result.json").read_text())
    result["export"] = [{"model": "distil", "p50_ms": 2.0}]
    (run / "result.json").write_text(json.dumps(result))
    (distil,) = [row for row in model_rows(run) if row["model"] == "distil"]
    assert (distil["accuracy"], distil["p50_ms"]) == (0.9041, 2.0)


def test_a_teacher_that_came_trained_stands_first(run: Path):
    result = json.loads((run / "result.json").read_text())
    result["teacher"] = {"metrics": {"accuracy": 0.97}, "parameters": 5, "bytes": 20}
    shutil.rmtree(run / "stages" / "01-teacher")
    (run / "result.json").write_text(json.dumps(result))
    assert model_rows(run)[0] == {"model": "teacher", "accuracy": 0.97, "parameters": 5, "bytes": 20}


def test_columns_keep_their_order_and_a_narrow_table_its_headline_metrics(run: Path):
    rows = model_rows(run)
    assert columns_of(rows) == [
        "model", "accuracy", "macro_f1", "precision", "recall", "loss", "test_accuracy",
        "parameters", "bytes", "p50_ms", "p95_ms", "speedup",
    ]  # fmt: skip
    assert columns_of(rows, headline("precision"))[:5] == [
        "model",
        "accuracy",
        "macro_f1",
        "precision",
        "test_accuracy",
    ]
    assert columns_of([{"model": "m", "perplexity": 3.0}], headline()) == ["model", "perplexity"]


@pytest.mark.parametrize(
    ("column", "value", "shown"),
    [
        ("accuracy", 0.90414, "0.9041"),
        ("parameters", 2_750_000, "2.75 M"),
        ("bytes", 11_000_000, "11.0 MB"),
        ("bytes", 812, "812 B"),
        ("p50_ms", 1.2345, "1.23"),
        ("speedup", 5.04, "5.0×"),
        ("speedup", 1.034, "1.03×"),
        ("speedup", "too noisy to rank", "too noisy to rank"),
        ("accuracy", None, "–"),
        ("batch", 8, "8"),
        ("plugins", ["a", "b"], "a, b"),
    ],
)
def test_a_cell_has_the_units_of_its_column(column: str, value: object, shown: str):
    assert cell(column, value) == shown


def test_the_printed_table_holds_every_cell_even_in_eighty_columns(run: Path):
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_table(model_rows(run)[2:], console)
    printed = console.export_text()
    for value in ("distil.int8.onnx", "0.9022", "2.90 MB", "1.25", "1.60", "10.0×"):
        assert value in printed


def test_markdown_is_a_table_with_numbers_to_the_right(run: Path):
    lines = markdown(model_rows(run)[3:], ["model", "accuracy", "speedup"]).splitlines()
    assert lines == [
        "| model | accuracy | speed-up |",
        "| --- | ---: | ---: |",
        "| distil.onnx | 0.9041 | 5.0× |",
        "| distil.int8.onnx | 0.9022 | 10.0× |",
    ]


def test_columns_that_are_names_stand_as_they_are():
    rows = [{"macro_f1": "a", "my_model_v2": 1.5, "[old]": 2.5}]
    columns, names = ["macro_f1", "my_model_v2", "[old]"], ["my_model_v2", "[old]"]
    assert markdown(rows, columns, names=names).startswith("| macro-F1 | my_model_v2 | [old] |\n")
    assert "<th class='number'>my_model_v2</th>" in table(rows, columns, names)
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_table(rows, console, columns=columns, names=names)
    assert console.export_text().split()[:3] == ["macro-F1", "my_model_v2", "[old]"]


@pytest.mark.parametrize(
    ("values", "metric", "ends"),
    [
        ([0.4, 0.4], "accuracy", (0.38, 0.42)),
        ([1.0], "f1", (0.95, 1.0)),
        ([0.0], "f1", (0.0, 0.05)),
        ([1.0], "pearson", (0.95, 1.05)),
        ([-2.0, -2.0], "", (-2.1, -1.9)),
        ([0.4, 0.5], "accuracy", None),
    ],
)
def test_equal_values_have_an_axis_of_a_few_percent_around_them(values: list[float], metric: str, ends: object):
    figure = level(lines({"one": list(enumerate(values))}, metric, markers=True), [metric] if metric else ())
    assert figure.layout.yaxis.range == (pytest.approx(ends) if ends else None)


def test_equal_values_with_intervals_keep_an_axis_that_holds_those():
    figure = lines({"one": [(1, 0.5)]}, "accuracy", markers=True)
    figure.update_traces(error_y={"array": [0.2], "arrayminus": [0.1]})
    assert level(figure, ["accuracy"]).layout.yaxis.range is None


def test_every_picture_of_a_metric_gives_equal_values_such_an_axis(run: Path):
    stage = RecordedRun(run).stages[1]
    for line in stage.evaluations:
        line["evaluation"] = {"accuracy": 1.0}
    rows = [{"from": 1, "to": 5, "rows": 9, "accuracy": 1.0}]
    _, quality = picture([Point({"model": "one", "accuracy": 1.0, "bytes": 5}, "one", "circle", {})])
    drawn = [
        metric_curves(stage),
        overlaid({"run": stage}, "metric", "accuracy"),
        seeds({"runs": {"one": {"accuracy": spread([1.0, 1.0])}}}, None),
        lengths({"one": rows}),
        quality,
    ]
    assert [tuple(figure.layout.yaxis.range) for figure in drawn] == [(0.95, 1.0)] * 5


def test_curves_hold_the_logged_numbers(run: Path):
    distil = RecordedRun(run).stages[1]
    losses = loss_curves(distil)
    assert [line.name for line in losses.data] == ["loss", "hinton.soft", "hinton.hard"]
    assert losses.data[0].x[:2] == (50, 100)
    assert losses.data[0].y[1] == pytest.approx(3.5)
    assert losses.data[1].y[1] == pytest.approx(1.0)
    metrics = metric_curves(distil, ["accuracy"])
    assert metrics.data[0].x == (250, 500)
    assert metrics.data[0].y == pytest.approx((0.9041 * 0.9, 0.9041))


def test_one_picture_shows_quality_over_latency_and_size_of_every_model(run: Path):
    title, figure = picture(points(RecordedRun(run)), "accuracy")
    assert title == "Accuracy over latency and size"
    drawn = [(mark.name, mark.xaxis, mark.x[0], mark.y[0]) for mark in figure.data]
    assert drawn == [
        ("teacher", "x2", 11.0 * 4, 0.9312),
        ("distil", "x2", 11.0, 0.9041),
        ("teacher.onnx", "x", 12.5, 0.9312),
        ("teacher.onnx", "x2", 44.0, 0.9312),
        ("distil.onnx", "x", 2.5, 0.9041),
        ("distil.onnx", "x2", 11.0, 0.9041),
        ("distil.int8.onnx", "x", 1.25, 0.9022),
        ("distil.int8.onnx", "x2", 2.9, 0.9022),
    ]
    colours = {mark.name: mark.marker.color for mark in figure.data}
    assert colours["teacher"] == colours["teacher.onnx"] != colours["distil"] == colours["distil.int8.onnx"]
    symbols = {mark.name: mark.marker.symbol for mark in figure.data}
    assert list(symbols.values()) == ["square", "circle", "diamond", "diamond", "triangle-up"]


def test_a_picture_without_latency_shows_size_and_one_without_numbers_is_none(run: Path):
    shutil.rmtree(run / "export")
    (run / "result.json").unlink()
    title, figure = picture(points(RecordedRun(run)))
    assert title == "Accuracy over size"
    assert len(figure.data) == 2
    assert picture([]) is None


def test_the_report_holds_models_curves_recipe_environment_and_parity(run: Path):
    text = text_of(write_report(run))
    for piece in (
        "<h1>birds</h1>",
        "0.9041",
        "2.75 M",
        "10.0×",
        "temperature = 4.0",
        "2.13.0",
        "3.1e-06",
        "3 min 20 s",
    ):
        assert piece in text
    assert "Missing" not in text
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.count('class="plotly-graph-div"') == 13


def test_latency_of_several_shapes_is_a_grid_with_the_speed_up_or_why_there_is_none(run: Path):
    def timed(name: str, length: int, rounds: list[float]) -> Timing:
        p50, runs = rounds[0], 20 * len(rounds)
        return Timing(
            name, f"{name}.onnx", "onnxruntime 1.32", 8, length, p50, p50, p50, p50, 8000 / p50, p50 / 8, 70_000_000,
            runs, len(rounds), 3, 1, 0.5, 1.25, tuple(rounds),
        )  # fmt: skip

    timings = [timed("big", 32, [6.0] * 6), timed("small", 32, [2.0] * 6)]
    timings += [timed("big", 64, [9.0] * 6), timed("small", 64, [3.0] * 5 + [90.0])]
    path = run / "export" / "onnx.json"
    content = json.loads(path.read_text())
    content["facts"]["timing"] = records(timings)
    path.write_text(json.dumps(content))
    text = re.sub(r"<[^>]+>", " ", text_of(write_report(run)))
    words = " ".join(text.split())
    assert "model 8 × 32 8 × 64 big 6.00 9.00 small 2.00 (3.0×) 3.00 (too noisy to rank)" in words
    assert "small 8 32 2.00 2.00 2.00 0.25 4,000 70.0 MB 3.0× 3.00–3.00×" in words
    assert "1 thread, 6 rounds of 20 calls after 3 to warm up, load 0.50 before and 1.25 after" in words
    assert "round p50" not in words


def test_timings_that_are_damaged_are_shown_as_they_are(run: Path):
    path = run / "export" / "onnx.json"
    content = json.loads(path.read_text())
    content["facts"]["timing"] = [{"name": "small", "p50_ms": 1.5}]
    path.write_text(json.dumps(content))
    assert "1.50" in text_of(write_report(run))


def test_the_report_loads_nothing_from_elsewhere(run: Path):
    page = write_report(run).read_text(encoding="utf-8")
    assert not re.search(r"<(script|link|img|iframe)\b[^>]*\b(src|href)=", page)
    assert "plotly.js v" in page


def test_only_files_of_export_plugins_count_as_facts(run: Path):
    (run / "export" / "config.json").write_text('{"vocab_size": 30522}')
    assert list(RecordedRun(run).exports) == ["onnx"]
    assert "30522" not in text_of(write_report(run))


def test_text_of_a_run_is_not_markup(run: Path):
    recipe = (run / "recipe.toml").read_text().replace('"birds"', '"birds"  # <script>alert(1)</script>')
    (run / "recipe.toml").write_text(recipe)
    assert "&lt;script&gt;alert(1)" in write_report(run).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "part",
    ["recipe.toml", "environment.json", "result.json", "stages", "export", "stages/02-distil/result.json",
     "stages/02-distil/metrics.jsonl"],
)  # fmt: skip
def test_a_missing_part_is_named_and_the_rest_is_shown(run: Path, part: str):
    path = run / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    text = text_of(write_report(run))
    assert "<h1>birds</h1>" in text
    if part != "export":
        assert f"{part}/ is missing" in text or f"{part} is missing" in text


@pytest.mark.parametrize("content", ["", "{", "[1]", "\x00\xff"])
def test_a_damaged_file_is_named_and_the_rest_is_shown(run: Path, content: str):
    for part in ("result.json", "stages/01-teacher/result.json", "stages/01-teacher/metrics.jsonl", "export/onnx.json"):
        (run / part).write_bytes(content.encode("latin-1"))
    text = text_of(write_report(run))
    assert "result.json" in text
    assert "0.9041" in text


@pytest.mark.parametrize("part", ["metrics", "test", "best"])
@pytest.mark.parametrize("damage", ["x", 3, [1]])
def test_numbers_that_are_no_table_are_named_and_the_rest_is_shown(run: Path, part: str, damage: object):
    path = run / "stages/02-distil/result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {part: damage}))
    text = text_of(write_report(run))
    assert f"stages/02-distil/result.json holds no table &#x27;{part}&#x27;: its numbers are unknown." in text
    assert "0.9312" in text
    assert model_rows(run)[1]["parameters"] == 2_750_000


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("result.json", {"teacher": {"metrics": "x"}}),
        ("result.json", {"export": [{"model": "distil.onnx", "accuracy": 3}]}),
        ("stages/02-distil/result.json", {"plugins": 3}),
        ("stages/02-distil/result.json", {"plugins": [["x"]]}),
        ("stages/02-distil/metrics.jsonl", {"update": 500, "loss": 1.0, "terms": "x"}),
        ("environment.json", {"data": ["x"]}),
    ],
)
def test_a_damaged_value_does_not_hide_the_rest(run: Path, tmp_path: Path, file: str, damage: dict[str, object]):
    other, path = make_run(tmp_path / "other"), run / file
    if file.endswith("jsonl"):
        path.write_text(path.read_text() + json.dumps(damage) + "\n")
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    assert "0.9041" in text_of(write_report(run))
    found = Comparison([run, other])
    assert "0.9041" in page(found)
    assert found.notes == []


def test_a_metrics_line_that_a_kill_cut_off_is_left_out(run: Path):
    path = run / "stages" / "01-teacher" / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"update": 550, "lo')
    folder = RecordedRun(run)
    assert folder.stages[0].losses[-1]["update"] == 500
    assert folder.missing == ["stages/01-teacher/metrics.jsonl, line 13, cannot be read and is left out."]


def test_a_run_that_has_only_begun_has_a_report_and_a_folder_without_a_run_an_error(tmp_path: Path):
    (tmp_path / "begun" / "stages").mkdir(parents=True)
    assert "No model is finished yet." in text_of(write_report(tmp_path / "begun"))
    with pytest.raises(UserError, match="holds no run"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="no run folder"):
        write_report(tmp_path / "absent")


def test_long_lists_of_facts_are_cut_with_their_length():
    assert tree(list(range(40))) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 … (40 in all)"


@pytest.mark.parametrize(
    ("seconds", "shown"), [(4.21, "4.2 s"), (59, "59 s"), (200.4, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_durations_are_read_at_a_glance(seconds: float, shown: str):
    assert duration(seconds) == shown


def test_the_report_command_prints_path_markdown_or_json(run: Path, capsys):
    assert potstill.cli.main(["report", str(run)]) == 0
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    assert potstill.cli.main(["report", str(run), "--markdown"]) == 0
    assert capsys.readouterr().out.startswith("| model | accuracy |")
    assert potstill.cli.main(["report", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["accuracy"] == 0.9312
    assert potstill.cli.main(["report", str(run), "--json", "--markdown"]) == 2
    assert capsys.readouterr() == ("", "--json and --markdown are two forms of one table; give one of them.\n")


def test_compare_shows_what_differs_and_both_runs_metrics(run: Path, tmp_path: Path, capsys):
    other = make_run(tmp_path / "cold", "cold", temperature=1.0)
    assert potstill.cli.main(["compare", str(run), str(other), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert any("temperature: 4.0 → 1.0" in line for line in content["differences"]["cold"])
    assert [row["run"] for row in content["rows"]] == ["birds"] * 5 + ["cold"] * 5
    assert potstill.cli.main(["compare", str(run), str(other)]) == 0
    assert "birds → cold" in capsys.readouterr().out
    assert potstill.cli.main(["compare", str(run)]) == 2


def test_a_page_is_written_without_torch(run: Path):
    code = (
        "import sys; from potstill.cli import main;"
        f"main(['report', {str(run)!r}]); main(['compare', {str(run)!r}, {str(run)!r}]);"
        "import potstill.report.comparepage, potstill.report.overlaid; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
