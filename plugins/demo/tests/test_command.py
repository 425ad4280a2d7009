"""`potstill demo`, from nothing to the report, with models of a few thousand weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from potstill_demo import corpus, recipe

from potstill.recipe import load

SMALLER = (
    "data.train_rows=200",
    "data.validation_rows=60",
    "data.test_rows=60",
    "teacher.config.hidden_size=32",
    "teacher.config.intermediate_size=64",
    "teacher.config.num_attention_heads=2",
    "student.config.hidden_size=16",
    "student.config.intermediate_size=32",
    "export.onnx.rounds=2",
    "export.onnx.lengths=[8]",
)


def test_importing_the_command_imports_no_torch() -> None:
    code = "import sys, potstill_demo.command; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_recipe_trains_both_students_alike(tmp_path: Path) -> None:
    stages = {stage.name: stage for stage in load(recipe.write(tmp_path)).stages}
    alone, distilled = stages["alone"], stages["distilled"]
    assert alone.plugins == ()
    assert distilled.plugins == ("hinton",)
    assert distilled.with_(name="alone", plugins=(), options={}) == alone


def test_quick_is_the_same_recipe_with_fewer_rows_and_epochs(tmp_path: Path) -> None:
    full, quick = load(recipe.write(tmp_path / "full")), load(recipe.write(tmp_path / "quick", quick=True))
    assert (full.teacher, full.student, full.export) == (quick.teacher, quick.student, quick.export)
    assert full.data.train_rows is None
    assert quick.data.train_rows is not None
    for long, short in zip(full.stages, quick.stages, strict=True):
        assert (short.epochs or 0) < (long.epochs or 0)


def test_a_recipe_that_the_user_changed_is_kept(tmp_path: Path) -> None:
    path = recipe.write(tmp_path)
    path.write_text(path.read_text(encoding="utf-8").replace("temperature = ", "temperature = 1"), encoding="utf-8")
    changed = path.read_text(encoding="utf-8")
    assert recipe.write(tmp_path).read_text(encoding="utf-8") == changed


def test_the_demo_ends_with_a_table_of_all_models_and_the_report(
    tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from potstill_demo.command import demo

    monkeypatch.setattr(corpus, "standard_library", lambda: library)
    monkeypatch.setattr(recipe, "QUICK", recipe.QUICK + SMALLER)
    folder = tmp_path / "run"
    arguments = ["--quick", "--quiet", "--folder", str(folder)]
    first = CliRunner().invoke(demo, arguments, catch_exceptions=False)
    assert first.exit_code == 0
    for heading in ("accuracy", "macro-F1", "parameters", "size", "p50 ms", "p95 ms", "speed-up"):
        assert heading in first.output
    for model in ("teacher", "alone", "distilled", "student (onnx)", "student (onnx int8)", "teacher (onnx)"):
        assert f"\n {model} " in first.output
    last = first.output.splitlines()[-1]
    assert last.endswith(str(folder / "report.html"))
    assert (folder / "report.html").is_file()
    assert (folder / "model" / "model.safetensors").is_file()
    results = {path.parent.name[3:]: json.loads(path.read_text()) for path in folder.glob("stages/*/result.json")}
    assert results["alone"]["updates"] == results["distilled"]["updates"] > 0

    again = CliRunner().invoke(demo, arguments, catch_exceptions=False)
    assert again.output == first.output  # nothing is trained or timed a second time
