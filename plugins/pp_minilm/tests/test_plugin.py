"""The plugin in a stage: what it looks at, what it says and refuses, and that a run resumes exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from potstill_pp_minilm.plugin import PPMiniLM
from pydantic import ValidationError

from potstill import recipes
from potstill.errors import ModelError
from potstill.features import QKV
from potstill.loader import make_plugins
from potstill.planning import plan
from potstill.progress import Progress
from potstill.recipe import load, parse
from potstill.runner import run
from potstill.stage import Stage
from potstill.testing import assert_resumes_exactly, stage_of
from potstill.testing.tiny import bert, recipe, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def tables(**options: Any) -> dict[str, Any]:
    made = recipe("pp_minilm", student={"config": bert(1, 48)})
    made["stage"][1].update(pp_minilm=options, evaluate=False)
    return made


def stage_with(data: Path, folder: Path, teacher: dict[str, Any] | None = None, **options: Any) -> Stage:
    made = tables(**options)
    made["teacher"]["config"] = teacher or bert(2)
    made["stage"] = [{**made["stage"][1], "teacher": "fresh"}]
    return stage_of(made, data, folder)


def test_the_published_layer_is_the_20th_of_24_and_the_last_of_fewer(data: Path, tmp_path: Path) -> None:
    deep = stage_with(data, tmp_path / "deep", bert(24))
    assert deep.observed["teacher"] == [QKV(20)]
    assert deep.explained["pp_minilm"] == {
        "layers": "student 1 ← teacher 20",
        "relations": {"token": 1.0},
        "relation_heads": 16,
        "mode": "corrected",
    }
    assert stage_with(data, tmp_path / "flat").explained["pp_minilm"]["layers"] == "student 1 ← teacher 2"


@pytest.mark.parametrize(
    ("alpha", "beta", "left"),
    [
        (0.0, 1.0, {"sample": 1.0}),
        (0.7, 0.3, {"head": 0.7, "sample": 0.3}),  # 1 - 0.7 - 0.3 is 5.6e-17
        (0.25, 0.25, {"token": 0.5, "head": 0.25, "sample": 0.25}),
    ],
)
def test_the_tokens_have_the_weight_that_is_left(alpha: float, beta: float, left: dict[str, float]) -> None:
    assert PPMiniLM(PPMiniLM.Config(alpha=alpha, beta=beta)).weights == left


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"alpha": 0.6, "beta": 0.6}, "alpha = 0.6 and beta = 0.6 are more than 1 together"),
        ({"beta": -0.1}, "greater than or equal to 0"),
        ({"mode": "published"}, "'corrected' or 'reference'"),
        ({"relation_heads": 0}, "greater than or equal to 1"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        PPMiniLM.Config(**options)


def test_what_does_not_fit_the_models_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="relation_heads = 12 does not divide the teacher's width 32; .* is 16"):
        stage_with(data, tmp_path / "heads", relation_heads=12)
    with pytest.raises(ModelError, match="Layer 20 of the teacher is asked for, but it has layers 1 to 2"):
        stage_with(data, tmp_path / "layer", teacher_layer=20)


@pytest.mark.parametrize(("mode", "unit"), [("corrected", "token"), ("reference", "position")])
def test_the_plan_shows_what_each_relation_is_a_mean_of(data: Path, mode: str, unit: str) -> None:
    told = plan(parse(tables(alpha=0.25, beta=0.25, mode=mode)), data).stages[1]
    assert told["loss_terms"] == {
        "pp_minilm.token": f"0.5 per {unit}",
        "pp_minilm.head": f"0.25 per {unit}",
        "pp_minilm.sample": "0.25 per batch",
    }


def test_as_a_stage_of_masked_language_models_it_reads_whole_texts(data: Path) -> None:
    made = tables()
    made["task"] = {"kind": "masked-lm"}
    told = plan(parse(made), data).stages
    assert [stage["slots"] for stage in told] == [{}, {"masking": "pp_minilm"}]


class Notes(Progress):
    """Keeps what a run notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.parametrize(("beta", "warned"), [(1.0, True), (0.0, False)])
def test_samples_warn_under_accumulation_and_say_why(data: Path, tmp_path: Path, beta: float, warned: bool) -> None:
    made = tables(beta=beta)
    made["stage"][1].update(plugins=["pp_minilm", "accumulate"], accumulate={"batches": 2}, updates=1, warmup=0)
    del made["stage"][1]["epochs"]
    progress = Notes()
    run(made, folder=tmp_path, data_root=data, progress=progress)
    told = [note for note in progress.notes if "'pp_minilm.sample' compares the rows of a micro-batch" in note]
    assert bool(told) == warned


def test_a_run_resumes_exactly_and_learns(data: Path, tmp_path: Path) -> None:
    made = tables(alpha=0.2, beta=0.5, relation_heads=8)
    made["stage"][1].update(epochs=3, checkpoint_every=3)
    assert_resumes_exactly(made, data=data, folder=tmp_path, stage="distil", after=8)
    lines = map(json.loads, (tmp_path / "whole/stages/02-distil/metrics.jsonl").read_text().splitlines())
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("name", ["pp_minilm-6x768", "pp_minilm-4x256", "pp_minilm-2x128"])
def test_published_recipes_state_the_published_settings(name: str) -> None:
    made = load(recipes.find(name).path)
    stage = made.stages[0]
    assert made.student is not None
    assert made.student.config is not None
    layers, width = (made.student.config[key] for key in ("num_hidden_layers", "hidden_size"))
    assert f"pp_minilm-{layers}x{width}" == name
    assert made.student.config["hidden_act"] == "relu"
    assert stage.options_of("pp_minilm")["beta"] == 1.0
    assert (stage.updates, stage.warmup, stage.learning_rate, stage.batch_size) == (400_000, 4000, 6e-4, 128)
    make_plugins(stage.plugins, stage.options)
