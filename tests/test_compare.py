"""Several runs beside each other: seeds, differences, the page, and runs that cannot be compared."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from scipy.stats import t

import potstill.cli
from potstill.report.comparepage import page, write_comparison
from potstill.report.comparison import Comparison
from potstill.report.folder import RecordedRun
from potstill.report.overlaid import overlaid
from potstill.report.quality import points
from potstill.report.seeds import spread
from potstill.report.table import headline
from tests.browser import complaints_of, needs_browser
from tests.fabricated import DETAILS, make_run


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Three seeds of one recipe and one run of another temperature."""
    made = [
        make_run(tmp_path / f"seed={seed}", seed=seed, better=better)
        for seed, better in ((1, -0.01), (2, 0.0), (3, 0.02))
    ]
    return [*made, make_run(tmp_path / "cold", temperature=1.0)]


def told(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = potstill.cli.main(["compare", *map(str, words)])
    return code, *capsys.readouterr()


def test_a_spread_is_students_interval_of_the_mean() -> None:
    found = spread([0.88, 0.90, 0.95])
    assert found.mean == pytest.approx(0.91)
    assert found.deviation == pytest.approx(0.0360555)
    half = t.ppf(0.975, 2) * 0.0360555 / 3**0.5  # 4.303 of standard errors
    assert (found.low, found.high) == pytest.approx((0.91 - half, 0.91 + half))
    assert found.shown("accuracy") == "0.9100 ± 0.0361 (0.8204 to 0.9996)"
    assert spread([0.9]).shown("accuracy") == "0.9000"


def test_runs_that_differ_by_seed_have_mean_and_interval_and_others_stand_alone(runs: list[Path]) -> None:
    found = Comparison(runs).seeds
    assert list(found) == ["seed=1, seed=2, seed=3"]
    accuracy = found["seed=1, seed=2, seed=3"]["distil"]["accuracy"]
    assert accuracy.count == 3
    assert accuracy.mean == pytest.approx(0.9041 + 0.01 / 3)
    assert Comparison(runs[2:]).seeds == {}


def test_runs_of_other_data_and_repetitions_of_a_seed_are_no_further_seeds(runs: list[Path], tmp_path: Path) -> None:
    def read(run: Path, data: str) -> None:
        path = run / "environment.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "data": data}))

    for run in runs:
        read(run, "here")
    again = make_run(tmp_path / "again", seed=1, better=0.05)
    read(again, "here")
    assert list(Comparison([*runs, again]).seeds) == ["seed=1, seed=2, seed=3"]
    assert Comparison([runs[0], again]).seeds == {}
    read(runs[1], "elsewhere")
    assert list(Comparison(runs).seeds) == ["seed=1, seed=3"]
    read(again, "elsewhere")
    assert list(Comparison([*runs, again]).seeds) == ["seed=1, seed=3", "seed=2, again"]


def test_a_model_that_all_seeds_share_is_one(runs: list[Path]) -> None:
    for run in runs[:3]:
        path = run / "stages/01-teacher/result.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "key": "the same"}))
    (models,) = Comparison(runs).seeds.values()
    counts = {name: metrics["accuracy"].count for name, metrics in models.items()}
    assert counts == {"teacher": 1, "distil": 3, "teacher.onnx": 1, "distil.onnx": 3, "distil.int8.onnx": 3}


def test_the_command_prints_differences_rows_and_seeds(
    runs: list[Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, printed, _ = told(capsys, *runs, "--html", tmp_path / "page.html")
    assert code == 0
    for piece in (
        "seed=1 → seed=2\n  seed: 1 → 2\n",
        "stage.distil.options.hinton.temperature: 4.0 → 1.0",
        "0.9074 ± 0.0153 (0.8695 to 0.9454)",
        "with Student's 95 % interval of the mean",
        f"page  {tmp_path / 'page.html'}\n",
    ):
        assert piece in printed
    code, printed, _ = told(capsys, *runs, "--json")
    spreads = json.loads(printed)["seeds"]
    (one,) = [row for row in spreads if (row["model"], row["metric"]) == ("distil", "accuracy")]
    assert (one["count"], one["deviation"]) == (3, pytest.approx(0.01528, abs=1e-5))


def test_curves_are_overlaid_a_line_a_run_and_the_picture_has_a_colour_a_run(runs: list[Path]) -> None:
    stages = {run.name: RecordedRun(run).stages[1] for run in runs[:2]}
    figure = overlaid(stages, "term", "hinton.hard")
    assert [line.name for line in figure.data] == ["seed=1", "seed=2"]
    assert figure.data[0].y[1] == pytest.approx(2.5)
    figure = overlaid(stages, "metric", "accuracy")
    assert [line.y[-1] for line in figure.data] == pytest.approx([0.8941, 0.9041])
    assert len(points(RecordedRun(runs[0]))) == 5


def test_the_page_holds_what_differs_the_table_seeds_and_errors(runs: list[Path]) -> None:
    text = page(Comparison(runs))
    for piece in (
        "<h1>seed=1 · seed=2 · seed=3 · cold</h1>",
        "<li>stage.distil.options.hinton.temperature: 4.0 → 1.0</li>",
        "<h2>Over seeds</h2>",
        "<h2>Training: distil</h2>",
        "<h2>Errors of the students on the validation rows</h2>",
        "F1 cold",
        "&lt;b&gt;owl&lt;/b&gt;",
    ):
        assert piece in text


def test_runs_of_two_tasks_are_not_compared(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    recipe = runs[1] / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('"text-classification"\nmetric = "accuracy"', '"regression"'))
    assert told(capsys, *runs) == (
        2, "",
        "The run 'seed=1' is of the task 'text-classification' and 'seed=2' of 'regression', whose metrics cannot be "
        "compared; name runs of one task.\n",
    )  # fmt: skip


def test_what_cannot_be_compared_is_one_sentence(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = make_run(tmp_path / "bare")
    (bare / "recipe.toml").unlink()
    for words, sentence in (
        ([runs[0]], "name two folders or more."),
        ([runs[0], tmp_path / "absent"], f"There is no run folder '{tmp_path / 'absent'}'."),
        ([runs[0], runs[0]], f"'{runs[0]}' is named twice; name each folder once."),
        (
            [runs[0], runs[0].parent / "cold" / ".." / "seed=1"],
            f"'{runs[0].parent}/cold/../seed=1' is named twice, before as '{runs[0]}'; name each folder once.",
        ),
        (
            [runs[0], bare],
            f"The recipe.toml of the run '{bare}' is missing; put it back or leave that run out.",
        ),
        ([*runs, "--html", ""], "--html: '.' names no file; give one such as runs.html."),
        ([*runs, "--html", tmp_path / "no" / "page.html"], f"--html: there is no folder '{tmp_path / 'no'}'."),
        ([*runs, "--html", tmp_path], f"{tmp_path} cannot be written: a folder has its name; "),
    ):
        code, printed, error = told(capsys, *words)
        assert (code, printed) == (2, "")
        assert sentence in error
        assert error.count("\n") == 1


def test_a_run_under_way_and_one_of_other_data_are_told(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    (runs[0] / "result.json").unlink()
    shutil.rmtree(runs[0] / "stages/02-distil")
    for number, run in enumerate(runs):
        path = run / "environment.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "data": f"hash {number // 2}"}))
    code, printed, error = told(capsys, *runs)
    assert code == 0
    assert "0.9041" in printed
    assert error.splitlines() == [
        "The run 'seed=1' has not ended; what is finished is shown.",
        "The runs read different data, so their metrics may be of different rows.",
    ]
    assert "seed=1: result.json is missing" in page(Comparison(runs))


def test_the_metric_of_a_run_is_its_recipes_or_what_its_last_stage_was_judged_by(runs: list[Path]) -> None:
    assert RecordedRun(runs[0]).metric == "accuracy"
    recipe = runs[0] / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('metric = "accuracy"\n', ""))
    path = runs[0] / "stages/02-distil/result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "metric": "macro_f1"}))
    assert RecordedRun(runs[0]).metric == "macro_f1"
    assert "perplexity" in headline("perplexity")


@needs_browser
def test_a_browser_draws_the_page_and_complains_of_nothing(runs: list[Path], tmp_path: Path) -> None:
    (runs[3] / "stages/02-distil/details.json").write_text(json.dumps({"model": {"validation": DETAILS}}))
    drawn, complaints = complaints_of(write_comparison(Comparison(runs), tmp_path / "page.html"), tmp_path)
    assert complaints == []
    # seeds, quality; loss and two metrics of the teacher, these and two terms of the student; classes, lengths and
    # the matrices of four runs on the validation rows, of three on the test rows
    assert drawn == 2 + 3 + 5 + (2 + 4) + (2 + 3)


@needs_browser
def test_a_click_on_a_name_of_a_legend_hides_that_run_in_all_figures(runs: list[Path], tmp_path: Path) -> None:
    path = write_comparison(Comparison(runs), tmp_path / "page.html")
    clicks = """<script>
      const plots = [...document.querySelectorAll(".js-plotly-plot")];
      const marks = plots.flatMap(plot => plot.data).filter(mark => mark.meta === "cold");
      const shown = () => marks.filter(mark => mark.visible !== false);
      const tell = () => console.log(shown().length > 9 ? "all" : shown().length, document.querySelectorAll(
        '.legend button[aria-pressed="false"]').length > 5 ? "pale" : "strong");
      const button = [...document.querySelectorAll(".legend button")].find(one => one.textContent === "cold");
      tell(); button.click(); tell(); button.click(); tell();
    </script></body>"""
    path.write_text(path.read_text().replace("</body>", clicks))
    _, told = complaints_of(path, tmp_path)
    assert [line.split('"')[1] for line in told] == ["all strong", "0 pale", "all strong"]


def test_the_curves_of_a_stage_share_one_legend_with_whole_names(runs: list[Path], tmp_path: Path) -> None:
    long = [make_run(tmp_path / f"{'a-long-name-' * 7}{seed}", seed=seed) for seed in (4, 5)]
    text = page(Comparison([*runs, *long]))
    training = text.split("<h2>Training: distil</h2>")[1].split("</section>")[0]
    (names,) = re.findall(r"<ul class='legend'>(.*?)</ul>", training, re.DOTALL)
    assert re.findall(r"</i>(.*?)</button>", names) == [run.name for run in (*runs, *long)]
    assert training.count('"showlegend":false') == training.count('class="plotly-graph-div"') == 5
    assert text.count("<ul class='legend'>") == 2 + 2 + 2 * 2  # seeds, quality; two stages; classes, lengths twice
