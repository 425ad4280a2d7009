"""The plugin in stages and whole runs: what is drawn, what learns, what is clipped, what comes out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from potstill_theseus.plugin import Theseus
from torch import Tensor
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

import potstill
from potstill.engine import Engine
from potstill.errors import PotstillError
from potstill.features import Hidden
from potstill.patches import Patch
from potstill.plugin import Plugin, hookimpl
from potstill.shares import shares
from potstill.stage import Stage
from potstill.step import Pass, Step, Update
from potstill.testing import assert_resumes_exactly, stage_of, weights
from potstill.testing.tiny import bert, recipe, write_data
from potstill.tokenizers import load_tokenizer

CALM = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
LABELS = {0: "sea", 1: "town", 2: "wood"}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny data, and beside it a predecessor of 4 layers without dropout whose head is no fresh one."""
    folder = write_data(tmp_path_factory.mktemp("rows"), train=24, validation=12)
    words = load_tokenizer("vocab.txt", folder)
    torch.manual_seed(1)
    labels = {"num_labels": 3, "id2label": LABELS, "label2id": {name: i for i, name in LABELS.items()}}
    config = BertConfig(**{**bert(4, 32, **CALM), "vocab_size": len(words), "initializer_range": 0.2, **labels})
    BertForSequenceClassification(config).save_pretrained(folder / "predecessor")
    words.save_pretrained(folder / "predecessor")
    return folder


def tables(*others: str, stage: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    """One stage that replaces the predecessor's layers, in 3 updates of 8 rows."""
    made = recipe(teacher={"model": "predecessor"})
    del made["student"]
    own = {"name": "distil", "plugins": ["theseus", *others], "theseus": options, "epochs": 1, "batch_size": 8}
    return {**made, "stage": [{**own, "learning_rate": 1e-3, "log_every": 1, **(stage or {})}]}


@contextmanager
def open_stage(told: dict[str, Any], rows: Path, folder: Path) -> Iterator[Stage]:
    stage = stage_of(told, rows, folder)
    with stage.exit:
        yield stage


def theseus(stage: Stage) -> Theseus:
    return next(plugin for plugin in stage.plugins if isinstance(plugin, Theseus))


def weights_of(stage: Stage) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in stage.student.module.named_parameters()}


class Twice(Plugin):
    """A second pass over every micro-batch, and what both passes and all modules were."""

    name = "twice"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.losses: list[tuple[float, float]] = []
        self.drawn: list[list[Any]] = []

    @hookimpl(wrapper=True)
    def on_step(self, step: Step) -> Generator[None, Pass, Pass]:
        clean = yield
        again = step.gradients("again")
        self.losses.append(tuple(float(each.terms["supervised"].value) for each in (clean, again)))  # type: ignore[arg-type]
        self.drawn.append([module.replaced for module in theseus(step.stage).modules])
        return clean


def watched(
    told: dict[str, Any], rows: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *, first: bool = False
) -> Twice:
    """A stage trained with `Twice` beside its plugins."""
    twice, made = Twice(None), potstill.stage.loader.stage_plugins  # type: ignore[attr-defined]

    def with_twice(*words: Any) -> list[Plugin]:
        return [twice, *made(*words)] if first else [*made(*words), twice]

    monkeypatch.setattr("potstill.stage.loader.stage_plugins", with_twice)
    with open_stage(told, rows, folder) as stage:
        Engine(stage, folder / "stage").train()
    return twice


@pytest.mark.parametrize(("draw", "first"), [("batch", True), ("batch", False), ("example", True)])
def test_every_pass_over_a_micro_batch_draws_the_same(
    draw: str, first: bool, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tables(draw=draw, schedule="constant", tune=False, stage={"epochs": 4, "evaluate": False, "keep": "last"})
    twice = watched(told, rows, tmp_path, monkeypatch, first=first)
    assert len(twice.losses) == 12
    assert all(clean == pytest.approx(again, rel=1e-5) for clean, again in twice.losses)
    kinds = {str(which) if isinstance(which, bool) else "rows" for drawn in twice.drawn for which in drawn}
    assert kinds == ({"True", "False"} if draw == "batch" else {"rows"})


def test_a_row_draws_the_same_in_any_cut_of_an_update_into_micro_batches(rows: Path, tmp_path: Path) -> None:
    def trained(size: int, batches: int, folder: Path) -> dict[str, Tensor]:
        stage = {"batch_size": size, "epochs": None, "updates": 1, "warmup": 0, "accumulate": {"batches": batches}}
        stage["evaluate"] = False
        options = {"draw": "example", "schedule": "constant", "tune": False}
        with open_stage(tables("accumulate", stage=stage, **options), rows, folder) as stage_:
            stage_.student.module.double()
            Engine(stage_, folder / "stage").train()
            return weights_of(stage_)

    whole, parts = trained(24, 1, tmp_path / "whole"), trained(8, 3, tmp_path / "parts")
    assert max((whole[name] - parts[name]).abs().max().item() for name in whole) < 1e-9


@pytest.mark.parametrize(
    ("options", "moved"),
    [
        ({}, {"successor"}),
        ({"clip": "all"}, {"successor"}),
        ({"trains": "all"}, {"successor", "outside"}),
        ({"trains": "all", "clip": "all"}, {"successor", "outside"}),
    ],
)
def test_the_successor_learns_the_predecessor_never_and_the_rest_when_asked(
    options: dict[str, Any], moved: set[str], rows: Path, tmp_path: Path
) -> None:
    with open_stage(tables(rate=0.8, **options), rows, tmp_path) as stage:
        before = weights_of(stage)
        Engine(stage, tmp_path / "stage").train()
        after = weights_of(stage)

    def part(name: str) -> str:
        return next((part for part in ("successor", "predecessor") if f".{part}." in name), "outside")

    assert {part(name) for name in before if not torch.equal(before[name], after[name])} == moved


def norms(folder: Path) -> list[float]:
    lines = (folder / "stage/metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["grad_norm"] for line in lines if "grad_norm" in json.loads(line)]


def noting(name: str, sizes: dict[str, float]) -> Callable[[Tensor], None]:
    """Notes the norm of a parameter's gradient when it is there."""

    def note(value: Tensor) -> None:
        assert value.grad is not None
        sizes[name] = value.grad.norm().item()

    return note


def test_clipping_all_counts_what_the_predecessor_s_embeddings_and_head_would_have_learnt(
    rows: Path, tmp_path: Path
) -> None:
    # At rate 1 the kept layers have no gradient: what more there is to clip is outside the layers.
    for clip in ("trained", "all"):
        with open_stage(tables(rate=1.0, clip=clip, stage={"updates": 1, "epochs": None}), rows, tmp_path) as stage:
            sizes: dict[str, float] = {}
            for name, value in stage.student.module.named_parameters():
                if value.requires_grad:
                    value.register_post_accumulate_grad_hook(noting(name, sizes))
            Engine(stage, tmp_path / clip / "stage").train()
        assert norms(tmp_path / clip) == pytest.approx([math.hypot(*sizes.values())], rel=1e-5)
        assert any("embeddings" in name for name in sizes) == (clip == "all")


def test_an_update_in_which_no_module_is_replaced_changes_nothing_and_goes_on(rows: Path, tmp_path: Path) -> None:
    with open_stage(tables(rate=1e-9, schedule="constant", tune=False), rows, tmp_path) as stage:
        before = weights_of(stage)
        Engine(stage, tmp_path / "stage").train()
        assert all(torch.equal(value, before[name]) for name, value in weights_of(stage).items())
    assert norms(tmp_path) == [0.0] * 3


def test_the_rate_follows_the_updates_that_were_applied(rows: Path, tmp_path: Path) -> None:
    with open_stage(tables(slope=0.25, rate=0.25), rows, tmp_path) as stage:
        plugin, rates = theseus(stage), []
        for number, applied in ((1, True), (2, False), (3, True)):
            done = sum((True, False, True)[:number])
            plugin.on_update(Update(stage, number, applied, done, 10))
            rates.append(plugin.config.rate_after(plugin.state_dict()["applied"], 10))
        assert rates == [0.5, 0.5, 0.75]
        other = Theseus(plugin.config)
        other.load_state_dict(plugin.state_dict())
        assert other.state_dict() == plugin.state_dict()


@pytest.mark.parametrize("rate", [1e-9, 1.0])
def test_other_plugins_see_as_many_layers_as_modules_and_what_is_kept_is_the_teacher_s(
    rate: float, rows: Path, tmp_path: Path
) -> None:
    beside = {"layers": {"hidden": {"hidden_mse": 1.0}, "attention": {"attention_mse": 1.0}}, "evaluate": False}
    with open_stage(
        tables("layers", schedule="constant", rate=rate, tune=False, stage=beside), rows, tmp_path
    ) as stage:
        Engine(stage, tmp_path / "stage").train()
    terms = json.loads((tmp_path / "stage/metrics.jsonl").read_text().splitlines()[0])["terms"]
    pairs = ("hidden_mse_t2_s1", "hidden_mse_t4_s2", "attention_mse_t2_s1", "attention_mse_t4_s2")
    assert [terms[f"layers.{pair}"] > 0 for pair in pairs] == [rate == 1] * 4


@pytest.mark.parametrize("replaced", [False, True])
def test_a_hybrid_is_patched_like_a_model_of_its_own(replaced: bool, rows: Path, tmp_path: Path) -> None:
    """The whole output of layer 1 on other rows makes their logits, whichever layers run."""
    with open_stage(tables(tune=False), rows, tmp_path) as stage:
        stage.observe(student=[Hidden(1)])
        for module in theseus(stage).modules:
            module.replaced = replaced
        data = stage.examples("train")
        assert data is not None
        alike = np.flatnonzero(data.lengths == np.bincount(data.lengths).argmax())[:2]
        batch, other = data.batch(alike), data.batch([*reversed(alike)])
        step = Step(stage, batch, shares([batch], stage.units), 0, 0)
        source = step.student(other, until=1)[Hidden(1)]
        places = torch.cartesian_prod(torch.arange(2), torch.arange(source.shape[1]))
        patch = Patch(1, places[:, 0], places[:, 1], source.flatten(0, 1))
        logits = step.student(patches=[patch]).logits
        assert torch.equal(logits, step.student(other).logits)
        assert not torch.allclose(logits, step.student().logits)


def test_hinton_brings_soft_targets_and_the_map_of_layers_is_explained(rows: Path, tmp_path: Path) -> None:
    with open_stage(tables("hinton"), rows, tmp_path) as stage:
        Engine(stage, tmp_path / "stage").train()
        assert stage.explained["theseus"] == {
            "modules": ["student 1 ↔ teacher 1 to 2", "student 2 ↔ teacher 3 to 4"],
            "start": "bottom",
            "rate": "rising from 0.3, 1 after 70% of the updates",
            "trains": "layers",
        }
    line = json.loads((tmp_path / "stage/metrics.jsonl").read_text().splitlines()[0])
    assert set(line["terms"]) == {"hinton.soft", "hinton.hard"}


def test_three_parts_break_off_anywhere_and_leave_a_plain_student(rows: Path, tmp_path: Path) -> None:
    stage = {"epochs": 2, "checkpoint_every": 2, "accumulate": {"batches": 2}}
    parts = {"predecessor": {"epochs": 1}, "tune": {"epochs": 1}}
    told = tables("hinton", "accumulate", stage=stage, unsampled="move", clip="all", **parts)
    result = assert_resumes_exactly(told, data=rows, folder=tmp_path, stage="distil-replace", after=3)
    assert list(result.stages) == ["distil-predecessor", "distil-replace", "distil"]
    student = AutoModelForSequenceClassification.from_pretrained(result.model)
    assert type(student) is BertForSequenceClassification
    assert len(student.bert.encoder.layer) == student.config.num_hidden_layers == 2
    # Embeddings and head are the predecessor's, through both stages.
    known, own = weights(tmp_path / "whole", "distil-predecessor"), weights(tmp_path / "whole", "distil")
    outside = [name for name in own if "encoder" not in name]
    assert outside
    assert all(torch.equal(own[name], known[name]) for name in outside)


def test_rows_that_draw_alone_resume_exactly_too(rows: Path, tmp_path: Path) -> None:
    stage = {"checkpoint_every": 1}
    assert_resumes_exactly(
        tables(draw="example", trains="all", stage=stage), data=rows, folder=tmp_path, stage="distil", after=2
    )


def test_scores_are_the_finished_student_s(rows: Path, tmp_path: Path) -> None:
    with open_stage(tables(), rows, tmp_path) as stage:
        engine = Engine(stage, tmp_path / "stage")
        engine.train()
        module = stage.student.module
        batch = engine.train_rows.batch(range(6))
        evaluated = module.eval()(**batch.student).logits
        finished = stage.hook.finish_student(student=module)
        finished.save_pretrained(tmp_path / "saved")
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
        assert torch.equal(loaded(**batch.student).logits, evaluated)
        assert not {name for name in loaded.state_dict() if "predecessor" in name or "successor" in name}


FRESH = {"teacher": {"config": bert(4), "tokenizer": "vocab.txt"}}


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        (tables(layers=3), "theseus.layers = 3 does not cut the teacher's 4 layers into equal runs; possible: 1, 2"),
        ({**tables(), **FRESH}, "theseus keeps the teacher's head, and no checkpoint gave its classifier.bias a value"),
        ({**tables(), "student": {"config": bert(2), "tokenizer": "vocab.txt"}}, "another bert.embeddings"),
        ({**tables(), "student": {"layers": [1, 2, 3]}}, "The student has 3 layers, which does not cut"),
        ({**tables(start="spread"), "student": {"layers": [1, 2]}}, "theseus.start = 'spread' is for a student that"),
        (tables("layers", draw="example", tune=False, stage={"layers": {"attention": {"attention_mse": 1.0}}}),
         "theseus.draw = 'example' mixes rows of two layers, so Scores(layer=1) of the student cannot be observed"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_sentence(told: dict[str, Any], sentence: str, rows: Path, tmp_path: Path) -> None:
    def train() -> None:
        with open_stage(told, rows, tmp_path) as stage:
            Engine(stage, tmp_path / "stage").train()

    with pytest.raises(PotstillError) as caught:
        train()
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_the_student_s_table_may_name_the_layers_it_starts_as(rows: Path, tmp_path: Path) -> None:
    with open_stage({**tables(), "student": {"layers": [2, 4]}}, rows, tmp_path) as stage:
        own = [module.successor.state_dict() for module in theseus(stage).modules]
        known = [stage.teacher.module.bert.encoder.layer[i].state_dict() for i in (1, 3)]  # type: ignore[union-attr, index]
        assert all(torch.equal(a[name], b[name]) for a, b in zip(own, known, strict=True) for name in a)
        assert stage.explained["theseus"]["start"] == "as the recipe's student"
