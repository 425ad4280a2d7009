"""The shipped recipes on real data, a few hundred rows each; skipped where the data is absent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig, BertModel

from potstill import recipes
from potstill.recipe import parse, read, with_overrides
from potstill.runner import run
from potstill.suite.running import run_suite
from potstill.suite.tasks import suite_tasks
from potstill.tokenizers import load_tokenizer

DATA = Path(os.environ.get("POTSTILL_DATA", Path(__file__).parents[2] / "shared/data"))
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no data sets at {DATA}; set POTSTILL_DATA")


@needs_data
@pytest.mark.parametrize(
    ("name", "metrics"),
    [
        ("sst2-small", {"accuracy", "macro_f1", "f1", "matthews"}),
        ("mrpc-small", {"accuracy", "f1"}),
        ("stsb-small", {"pearson", "spearman", "mse"}),
    ],
)
def test_a_shipped_recipe_runs_on_its_real_data(name: str, metrics: set[str], tmp_path: Path) -> None:
    tables = read(recipes.find(name).path)
    sizes = [f"{side}.config.{key}={value}" for side in ("teacher", "student") for key, value in SMALL.items()]
    rows = ["data.train_rows=256", "data.validation_rows=128"]
    tables = with_overrides(tables, [*sizes, *rows, "stage.teacher.epochs=1", "stage.distil.epochs=1"])
    result = run(parse(tables), folder=tmp_path / "run", data_root=DATA)
    assert set(result.metrics) >= metrics
    assert result.stages["distil"]["rows"] == 256


@needs_data
@pytest.mark.parametrize("name", ["glue", "clue"])
def test_a_shipped_suite_fits_the_data_that_is_there(name: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(DATA / "vocab/bert-base-chinese-vocab.txt"), None)
    BertModel(BertConfig(vocab_size=len(tokenizer), **SMALL)).save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    few = ["data.train_rows=64", "data.validation_rows=64", "data.max_length=32", "stage.tune.updates=2"]
    tasks = suite_tasks([name], DATA, settings=few)
    options: dict[str, Any] = {"grid": {}, "seeds": [], "folder": tmp_path / "runs", "name": "encoder"}
    found = run_suite(tasks, str(tmp_path / "encoder"), **options)["tasks"]
    for task in tasks:
        here = any((DATA / task.name).glob("train*"))  # of some sets only the development file is to be had
        assert ("runs" in found[task.name]) == here
        assert not here or set(task.metrics) <= found[task.name]["runs"][0].keys()


@needs_data
def test_the_chinese_job_runs_from_the_command_line(tmp_path: Path) -> None:
    def potstill(*words: str) -> str:
        command = [sys.executable, "-m", "potstill", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    potstill("recipes", "copy", "thucnews-bilstm")
    settings = [f"teacher.config.{key}={value}" for key, value in SMALL.items()]
    settings += [
        "data.train_rows=400",
        "data.validation_rows=200",
        "student.hidden_size=16",
        "student.embedding_size=16",
    ]
    settings += ["data.test_rows=100", "export.onnx.time=false"]
    settings += [f"stage.{stage}.epochs=1" for stage in ("teacher", "alone", "distilled")]
    words = [word for setting in settings for word in ("--set", setting)]
    potstill("run", "thucnews-bilstm.toml", "--data-root", str(DATA), *words)
    run_folder = tmp_path / "runs/thucnews-bilstm"
    assert (run_folder / "report.html").is_file()
    assert (run_folder / "export/model.onnx").is_file()
    told = potstill("predict", str(run_folder), "北京楼市成交回暖", "世界杯决赛今晚开赛")
    assert len(told.strip().splitlines()) == 2
