"""What stages and runs keep to at their edges: first updates, short stages, stops, copies, keys and clean-up."""

from __future__ import annotations

import copy
import gc
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import potstill
from potstill import runner, training
from potstill.batch import BATCH, TARGET
from potstill.context import Context, model_key
from potstill.engine import Engine
from potstill.errors import DataError, Interrupted, ModelError, PluginError, RecipeError
from potstill.evaluate import evaluate
from potstill.features import LOGITS
from potstill.plugin import LossTerm, Plugin, hookimpl
from potstill.progress import Progress
from potstill.recipe import parse
from potstill.records import Sums, means_over_ranks
from potstill.runner import expanded
from potstill.stage import Stage
from potstill.step import Step
from potstill.testing import assert_same_weights, stage_of
from potstill.testing.tiny import recipe, student_only
from potstill.tokenizers import load_tokenizer
from tests.test_engine import Fault, with_plugins


def train(stage: Stage, folder: Path) -> Any:
    with stage.exit:
        return Engine(stage, folder).train()


# what counts


def test_a_first_update_without_a_labelled_row_is_ordinary(data: Path, tmp_path: Path) -> None:
    tables = student_only(batch_size=2)
    tables["data"]["labelled_rows"] = 6
    stage = stage_of(tables, data, tmp_path)
    first = stage.examples("train").batch(stage.batches(stage.examples("train"), 0)[0][0])
    assert TARGET.count(first) == 0
    assert train(stage, tmp_path / "s").update == 48


def test_a_stage_that_ends_in_its_first_epoch_without_any_label_is_an_error(data: Path, tmp_path: Path) -> None:
    tables = student_only(epochs=None, updates=3)
    tables["data"]["labelled_rows"] = 0
    with pytest.raises(DataError, match="'supervised' had no element"):
        train(stage_of(tables, data, tmp_path), tmp_path / "s")


def test_an_epoch_without_a_batch_is_an_error(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Drops(Plugin):
        name = "drops"

        @hookimpl
        def setup(self, stage: Stage) -> None:
            stage.claim("sampler", lambda lengths, batch_size, epoch: [])

    with_plugins(monkeypatch, Drops(None))
    with pytest.raises(PluginError, match="was given no batch for epoch 1"):
        train(stage_of(student_only(), data, tmp_path), tmp_path / "s")


def test_the_log_counts_an_update_once_wherever_its_rows_were() -> None:
    # two updates of 1.0 each: in the first both ranks have half of it, in the second only the first rank has rows
    one, other = Sums(), Sums()
    for first, second in ((0.5, 0.5), (1.0, 0.0)):
        one.add({"loss": first})
        if second:
            other.add({"loss": second})
    assert means_over_ranks([one.take(), other.take()]) == {"loss": 1.0}


def test_early_stopping_without_validation_rows_is_an_error(data: Path, tmp_path: Path) -> None:
    tables = student_only(early_stopping=2)
    del tables["data"]["validation"]
    with pytest.raises(RecipeError, match="has early_stopping, and no data.validation"):
        train(stage_of(tables, data, tmp_path), tmp_path / "s")


def test_unlabelled_test_rows_have_no_scores_and_no_loss_of_zero(data: Path, tmp_path: Path) -> None:
    tables = student_only()
    (tmp_path / "test.csv").write_text("text,label\nwave tide,\noak pine,\n")
    tables["data"]["test"] = str(tmp_path / "test.csv")
    result = potstill.run(tables, folder=tmp_path / "run", data_root=data)
    assert result.test is None
    assert result.stages["plain"]["test"] is None


def test_evaluating_leaves_every_part_in_its_mode(data: Path, tmp_path: Path) -> None:
    stage = stage_of(student_only(), data, tmp_path)
    module = stage.student.module
    module.bert.embeddings.eval()
    before = [part.training for part in module.modules()]
    assert set(before) == {True, False}
    evaluate(module, stage.examples("validation"), stage.task, stage.context.ranks)
    assert [part.training for part in module.modules()] == before


# memory and hooks


def test_a_micro_batchs_outputs_are_dropped_when_it_is_done(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    alive: list[int] = []

    class Looks(Plugin):
        name = "looks"

        @hookimpl
        def setup(self, stage: Stage) -> None:
            stage.observe(teacher=[LOGITS])
            stage.claim("batching", lambda rows: [rows])

        @hookimpl
        def compute_loss(self, step: Step) -> list[LossTerm]:
            gc.collect()
            alive.append(sum(reference() is not None for reference in seen))
            seen.append(weakref.ref(step.teacher()))
            return []

    with_plugins(monkeypatch, Looks(None))
    tables = recipe()
    tables["stage"] = [{"name": "looks", "epochs": 1, "teacher": "fresh", "student": "fresh", "batch_size": 32}]
    monkeypatch.setattr(Stage, "_setup", setup_without_head_check)
    train(stage_of(tables, data, tmp_path), tmp_path / "s")
    assert alive == [0, 0, 0]


def setup_without_head_check(stage: Stage) -> None:
    stage.teacher.fresh = ()
    original_setup(stage)


original_setup = Stage._setup


def test_a_stage_that_cannot_be_set_up_takes_its_hooks_off(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[bool] = []

    class Breaks(Plugin):
        name = "breaks"

        @hookimpl
        def setup(self, stage: Stage) -> None:
            stage.exit.callback(closed.append, True)
            raise ValueError("no")

    with_plugins(monkeypatch, Breaks(None))
    with pytest.raises(ValueError, match="no"):
        stage_of(student_only(), data, tmp_path)
    assert closed == [True]


# draws


def test_loading_the_teacher_changes_no_draw_of_the_student(data: Path, tmp_path: Path) -> None:
    tables = recipe(student={"config": recipe()["student"]["config"], "tokenizer": "vocab.txt"})
    tables["stage"] = [{"name": "alone", "teacher": "fresh", "student": "fresh", "epochs": 1}]
    stage = stage_of(tables, data, tmp_path)
    before = torch.get_rng_state()
    assert stage.teacher.module is not None
    assert torch.equal(torch.get_rng_state(), before)


def test_tokens_are_kept_by_what_a_tokenizer_does(data: Path, tmp_path: Path) -> None:
    context = Context(expanded(parse(student_only())), tmp_path, data, progress=Progress())
    words = load_tokenizer("vocab.txt", data)
    before = context.examples("train", words, None, context.recipe.data)
    assert context.examples("train", copy.deepcopy(words), None, context.recipe.data) is before
    words.add_tokens(["wave tide"])  # another tokenizer in the same place
    assert context.examples("train", words, None, context.recipe.data) is not before


# stopping


def test_a_stop_while_evaluating_goes_on_at_the_evaluation(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = student_only(epochs=2, checkpoint_every=1000, evaluate_every=5)
    potstill.run(tables, folder=tmp_path / "whole", data_root=data)
    stops = iter([True])

    real = Context.check_stop

    def check(context: Context) -> None:
        # before there is a log the checks are those after tokenizing; the next is in the evaluation after update 5
        if (tmp_path / "run/stages/01-plain/metrics.jsonl").is_file() and next(stops, False):
            context.stop.requested = True
        real(context)

    monkeypatch.setattr(Context, "check_stop", check)
    with pytest.raises(Interrupted):
        potstill.run(tables, folder=tmp_path / "run", data_root=data)
    assert [path.name for path in tmp_path.glob("run/stages/*/checkpoints/*")] == ["update-00000005"]
    potstill.run(tables, folder=tmp_path / "run", data_root=data)
    log = "stages/01-plain/metrics.jsonl"
    assert (tmp_path / "run" / log).read_bytes() == (tmp_path / "whole" / log).read_bytes()
    assert_same_weights(tmp_path / "whole", tmp_path / "run", "plain")


def test_a_run_killed_before_its_report_gets_it_the_next_time(data: Path, tmp_path: Path) -> None:
    potstill.run(student_only(), folder=tmp_path / "run", data_root=data)
    (tmp_path / "run/report.html").unlink()
    checkpoints = tmp_path / "run/stages/01-plain/checkpoints/update-00000012"
    checkpoints.mkdir(parents=True)
    assert potstill.run(student_only(), folder=tmp_path / "run", data_root=data).report.is_file()
    assert not checkpoints.parent.exists()


def test_a_checkpoint_of_other_processes_goes_on_from_the_same_row_and_says_so(data: Path, tmp_path: Path) -> None:
    engine = Engine(stage_of(student_only(), data, tmp_path), tmp_path / "s")
    engine.ranks.gather = lambda value: [value, value]  # type: ignore[method-assign]
    engine._save()
    again = Engine(stage_of(student_only(), data, tmp_path), tmp_path / "s")
    notes: list[str] = []
    again.context.progress.note = notes.append  # type: ignore[method-assign]
    assert again.train().update == 12
    assert notes == ["plain: begun by 2 processes, going on with 1; the rows go on exactly, the dropout does not."]


# what the caller holds


@pytest.fixture(scope="module")
def teachers(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    tables = recipe()
    tables["stage"] = tables["stage"][:1]
    potstill.run(tables, folder=folder, data_root=data)
    return folder / "stages/01-teacher/best"


def held(folder: Path) -> dict[str, Any]:
    return {
        "teacher": AutoModelForSequenceClassification.from_pretrained(folder),
        "tokenizer": AutoTokenizer.from_pretrained(folder),
    }


def test_a_run_leaves_the_callers_models_as_they_were(teachers: Path, data: Path, tmp_path: Path) -> None:
    tables = recipe("hinton")
    tables["stage"] = [{**tables["stage"][1], "epochs": 1}]
    del tables["teacher"], tables["student"]  # a teacher in memory needs no table and no reference
    objects = held(teachers)
    objects["student"] = copy.deepcopy(objects["teacher"]).train()
    tokenizer = objects["tokenizer"]
    before = {side: model_key(runner.Model(objects[side], tokenizer)) for side in ("teacher", "student")}
    objects["teacher"].train()
    potstill.run(tables, folder=tmp_path / "run", data_root=data, **objects)
    assert {side: model_key(runner.Model(objects[side], tokenizer)) for side in before} == before
    assert objects["teacher"].training
    assert all(parameter.requires_grad for parameter in objects["teacher"].parameters())


def test_another_object_as_teacher_is_another_run_and_no_twin(teachers: Path, data: Path, tmp_path: Path) -> None:
    tables = recipe("hinton")
    tables["stage"] = [{**tables["stage"][1], "epochs": 1}]
    tables["student"] = {"layers": [1]}
    del tables["teacher"]
    potstill.run(tables, folder=tmp_path / "one", data_root=data, **held(teachers))
    other = held(teachers)
    nn.init.normal_(other["teacher"].classifier.weight)
    with pytest.raises(ModelError, match="are not those that the run in"):
        potstill.run(tables, folder=tmp_path / "one", data_root=data, **other)
    potstill.run(tables, folder=tmp_path / "two", data_root=data, reuse=[tmp_path / "one"], **other)
    keys = [json.loads((tmp_path / run / "stages/01-distil/result.json").read_text())["key"] for run in ("one", "two")]
    assert keys[0] != keys[1]


def test_a_stage_of_another_plugin_version_is_no_twin(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = Context(expanded(parse(student_only(plugins=["accumulate"]))), tmp_path, data, progress=Progress())
    plan = context.recipe.stages[0]
    key = training._key(context, plan, {})
    assert training._key(context, plan.model_copy(update={"checkpoint_every": 7}), {}) == key
    assert training._key(context, plan.model_copy(update={"learning_rate": 1.0}), {}) != key
    monkeypatch.setattr(training, "_versions", lambda plugins: {"accumulate": "9.9"})
    assert training._key(context, plan, {}) != key


def test_a_file_that_a_plugins_options_name_belongs_to_the_stage(data: Path, tmp_path: Path) -> None:
    def key() -> str:
        augmented = {"augmentation": {"vectors": "vectors.txt"}, "phase": "prediction"}
        tables = student_only(plugins=["tinybert"], tinybert=augmented)
        context = Context(expanded(parse(tables)), tmp_path, data, progress=Progress())
        return training._key(context, context.recipe.stages[0], {})

    keys = []
    for vectors in ("one 1 0", "one 1 0", "one 0 1"):
        (data / "vectors.txt").write_text(vectors, encoding="utf-8")
        keys.append(key())
    assert keys[0] == keys[1] != keys[2]


def test_a_plugin_that_needs_a_teacher_says_so_before_anybody_looks_for_one(data: Path, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="The plugin 'hinton' needs a teacher"):
        stage_of(student_only(plugins=["hinton"]), data, tmp_path)


def test_the_seconds_of_a_run_are_no_more_than_it_took(data: Path, tmp_path: Path) -> None:
    from time import perf_counter

    started = perf_counter()
    potstill.run(student_only(epochs=4), folder=tmp_path / "run", data_root=data)
    took = perf_counter() - started
    told = json.loads((tmp_path / "run/result.json").read_text())["seconds"]
    assert told <= took


def test_a_module_that_two_names_share_is_trained_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Shares(Fault):
        @hookimpl
        def setup(self, stage: Stage) -> None:
            shared = nn.Linear(2, 2)
            stage.add_module("one", shared)
            stage.add_module("two", nn.Sequential(shared))

    with_plugins(monkeypatch, Shares(lambda step: []))
    parameters = stage_of(student_only(), data, tmp_path).parameters
    assert len({id(parameter) for parameter in parameters}) == len(parameters)


@pytest.mark.parametrize(("batches", "told"), [(1, False), (3, True)])
def test_a_term_across_samples_is_pointed_out_where_an_update_is_cut(
    batches: int, told: bool, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pairs(Plugin):
        name = "pairs"

        @hookimpl
        def setup(self, stage: Stage) -> None:
            stage.claim("batching", lambda rows: [rows[i : i + batches] for i in range(0, len(rows), batches)])

        @hookimpl
        def compute_loss(self, step: Step) -> list[LossTerm]:
            logits = step.student().logits
            return [LossTerm("alike", (logits @ logits.T).square().mean(), per=BATCH)]

    with_plugins(monkeypatch, Pairs(None))
    stage = stage_of(student_only(), data, tmp_path)
    notes: list[str] = []
    stage.progress.note = notes.append  # type: ignore[method-assign]
    with stage.exit:
        Engine(stage, tmp_path / "s").train()
    assert [line for line in notes if "'pairs.alike' compares the rows of a micro-batch" in line] == notes[: int(told)]
    assert len(notes) == int(told)


def test_a_stage_that_does_not_look_at_its_teacher_does_not_load_it(teachers: Path, data: Path, tmp_path: Path) -> None:
    stage = {"name": "alone", "student": "fresh", "updates": 2, "batch_size": 8}
    tables = recipe(teacher={"model": str(teachers)})
    context_stage = stage_of({**tables, "stage": [stage]}, data, tmp_path)
    with context_stage.exit:
        Engine(context_stage, tmp_path / "s").train()
    assert context_stage.teacher_names
    assert not context_stage._models._teachers  # its tokenizer alone was read
    assert len(context_stage.student.tokenizer) == len(load_tokenizer("vocab.txt", data))


def test_a_hook_that_a_plugin_leaves_behind_is_an_error_and_one_the_caller_brought_is_not(
    teachers: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Leaves(Plugin):
        name = "leaves"

        @hookimpl
        def setup(self, stage: Stage) -> None:
            stage.student.module.register_forward_hook(lambda *_: None)

    student = AutoModelForSequenceClassification.from_pretrained(teachers)
    student.register_forward_hook(lambda *_: None)
    given = {"student": student, "student_tokenizer": AutoTokenizer.from_pretrained(teachers)}
    tables = student_only(epochs=0.1)
    del tables["student"]
    potstill.run(tables, folder=tmp_path / "brought", data_root=data, **given)
    with_plugins(monkeypatch, Leaves(None))
    with pytest.raises(PluginError, match="1 forward hooks are left on the student after the stage 'plain'"):
        potstill.run(tables, folder=tmp_path / "left", data_root=data, **given)
