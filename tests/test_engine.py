"""The loop: exact shares, schedules, nothing silently zero, non-finite losses, isolated gradients."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from potstill import loader
from potstill.batch import EXAMPLE, TARGET, Unit
from potstill.engine import Engine
from potstill.errors import DataError, ModelError, PluginError, TrainingError
from potstill.features import LOGITS, Hidden
from potstill.optimizer import clip_norm
from potstill.plugin import LossTerm, Plugin, hookimpl
from potstill.shares import shares
from potstill.stage import Stage
from potstill.step import Step
from potstill.testing import stage_of
from potstill.testing.tiny import recipe, student_only


def with_plugins(monkeypatch: pytest.MonkeyPatch, *plugins: Plugin) -> None:
    """Makes these plugin objects the active ones, in front of installed plugins."""
    monkeypatch.setattr(loader, "stage_plugins", lambda recipe, plan: list(plugins))


def gradients(stage: Stage, groups: list[list[int]]) -> list[torch.Tensor]:
    rows = stage.examples("train")
    batches = [rows.batch(group) for group in groups]
    portions = shares(batches, stage.units)
    for micro, batch in enumerate(batches):
        stage.hook.on_step(step=Step(stage, batch, portions, 0, micro))
    return [parameter.grad.clone() for parameter in stage.parameters if parameter.grad is not None]


@pytest.mark.parametrize("cut", [[0, 30], [0, 9, 10, 30], [0, 1, 2, 3, 29, 30], [0, 10, 20, 30]])
def test_uneven_micro_batches_give_the_gradient_of_the_whole_batch(cut: list[int], data: Path, tmp_path: Path) -> None:
    # rows 9, 19 and 29 have no label, so the counts of rows and of labels differ between micro-batches
    stage = stage_of(student_only(), data, tmp_path)
    stage.student.module.double()
    whole = gradients(stage, [list(range(30))])
    stage.student.module.zero_grad()
    parts = gradients(stage, [list(range(start, end)) for start, end in pairwise(cut)])
    assert len(whole) == len(parts)
    for one, many in zip(whole, parts, strict=True):
        torch.testing.assert_close(many, one, rtol=1e-9, atol=1e-12)


def test_the_supervised_gradient_is_that_of_a_plain_cross_entropy(data: Path, tmp_path: Path) -> None:
    stage = stage_of(student_only(), data, tmp_path)
    stage.student.module.double()
    got = gradients(stage, [list(range(8)), list(range(8, 12))])
    stage.student.module.zero_grad()
    batch = stage.examples("train").batch(list(range(12)))
    loss = nn.functional.cross_entropy(stage.student.module(**batch.student).logits, batch.labels, ignore_index=-100)
    loss.backward()
    want = [parameter.grad for parameter in stage.parameters if parameter.grad is not None]
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_training_learns_and_logs_every_term(data: Path, tmp_path: Path) -> None:
    stage = stage_of(student_only(epochs=15, learning_rate=3e-3, log_every=4), data, tmp_path)
    with stage.exit:
        position = Engine(stage, tmp_path / "s").train()
    lines = [json.loads(line) for line in (tmp_path / "s/metrics.jsonl").read_text().splitlines()]
    losses = [line["terms"]["supervised"] for line in lines if "terms" in line]
    assert position.update == 180
    assert len(losses) == 45
    assert losses[-1] < 0.6 * losses[0]
    assert lines[0]["learning_rate"] > 0
    assert [line["evaluation"]["accuracy"] for line in lines if "evaluation" in line][-1] > 0.8


def test_a_group_left_over_at_the_end_of_an_epoch_is_an_update_of_its_own(data: Path, tmp_path: Path) -> None:
    tables = student_only(plugins=["accumulate"], accumulate={"batches": 5}, epochs=2)
    stage = stage_of(tables, data, tmp_path)
    with stage.exit:
        position = Engine(stage, tmp_path / "s").train()
    assert position.update == 2 * 3  # 96 rows are 12 micro-batches: 5 + 5 + 2


def test_what_depends_on_other_plugins_is_decided_after_every_setup(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Claims(Plugin):
        name = "claims"

        @hookimpl
        def setup(self, stage: Stage) -> None:
            stage.claim("clip", clip_norm(2.0))

    class Asks(Plugin):
        name = "asks"

        @hookimpl
        def setup(self, stage: Stage) -> None:
            stage.after_setup(lambda: stage.explain("owners", stage.owners))

    with_plugins(monkeypatch, Asks(None), Claims(None))
    stage = stage_of(student_only(), data, tmp_path)
    assert stage.explained == {"asks": {"owners": {"clip": "claims"}}}


class Fault(Plugin):
    name = "fault"
    provides = frozenset({"objective"})

    def __init__(self, term: Callable[[Step], list[LossTerm]]) -> None:
        self.term = term

    @hookimpl
    def compute_loss(self, step: Step) -> list[LossTerm]:
        return self.term(step)


def train_with(term: Callable[[Step], list[LossTerm]], monkeypatch: Any, data: Path, folder: Path) -> None:
    with_plugins(monkeypatch, Fault(term))
    stage = stage_of(student_only(), data, folder)
    with stage.exit:
        Engine(stage, folder / "s").train()


def test_a_loss_that_is_not_finite_names_term_update_and_rows(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def term(step: Step) -> list[LossTerm]:
        value = step.student().logits.square().mean()
        return [LossTerm("odd", value * float("nan") if step.update == 3 else value)]

    with pytest.raises(TrainingError, match=r"'fault\.odd' became nan in update 4 of the stage 'plain' \(rows \d+"):
        train_with(term, monkeypatch, data, tmp_path)


def test_weights_stay_as_they_were_before_the_loss_that_is_not_finite(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def term(step: Step) -> list[LossTerm]:
        weight = step.stage.student.module.classifier.weight
        seen[:] = [weight, weight.detach().clone()]
        value = step.student().logits.square().mean()
        return [LossTerm("odd", value / 0 if step.update == 2 else value)]

    with pytest.raises(TrainingError, match="inf|nan"):
        train_with(term, monkeypatch, data, tmp_path)
    torch.testing.assert_close(seen[0].detach(), seen[1], rtol=0, atol=0)


def test_an_objective_that_returns_no_term_is_an_error(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PluginError, match="'fault' declares an objective but returned no loss term"):
        train_with(lambda step: [], monkeypatch, data, tmp_path)


def test_a_term_without_an_element_for_a_whole_epoch_is_an_error(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = Unit("never", lambda batch: 0)

    class Silent(Fault):
        @hookimpl
        def setup(self, stage: Stage) -> None:
            stage.add_unit(never)

    def term(step: Step) -> list[LossTerm]:
        value = step.student().logits.mean()
        return [LossTerm("real", value), LossTerm("silent", value * float("nan"), per=never)]

    with_plugins(monkeypatch, Silent(term))
    stage = stage_of(student_only(), data, tmp_path)
    with stage.exit, pytest.raises(DataError, match=r"'fault\.silent' had no element"):
        Engine(stage, tmp_path / "s").train()


def test_a_unit_nobody_announced_is_an_error(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def term(step: Step) -> list[LossTerm]:
        return [LossTerm("pairs", step.student().logits.mean(), per=Unit("pair", len))]

    with pytest.raises(PluginError, match="mean per 'pair', which is not known here; call stage.add_unit"):
        train_with(term, monkeypatch, data, tmp_path)


def test_two_terms_of_one_name_are_an_error(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def term(step: Step) -> list[LossTerm]:
        value = step.student().logits.mean()
        return [LossTerm("same", value), LossTerm("same", value)]

    with pytest.raises(PluginError, match=r"returned two terms named 'same'"):
        train_with(term, monkeypatch, data, tmp_path)


def test_a_batch_without_labels_has_no_supervised_share(data: Path, tmp_path: Path) -> None:
    stage = stage_of(student_only(), data, tmp_path)
    batch = stage.examples("train").batch([9, 19])
    portions = shares([batch, stage.examples("train").batch([0])], stage.units)
    assert portions.share(TARGET, 0) == 0.0
    assert portions.share(EXAMPLE, 0) == pytest.approx(2 / 3)
    step = Step(stage, batch, portions, 0, 0)
    done = step.gradients()
    assert done.terms["supervised"][1] == 0.0
    assert all(parameter.grad is None for parameter in stage.parameters)


def test_isolated_gradients_come_back_only_when_committed(data: Path, tmp_path: Path) -> None:
    stage = stage_of(student_only(), data, tmp_path)
    batch = stage.examples("train").batch(list(range(8)))
    step = Step(stage, batch, shares([batch], stage.units), 0, 0)
    step.gradients()
    clean = [parameter.grad.clone() for parameter in stage.parameters if parameter.grad is not None]
    with step.isolated() as handle:
        step.gradients("other")
    made = [grad for grad in handle.grads if grad is not None]
    for before, now, again in zip(clean, [p.grad for p in stage.parameters if p.grad is not None], made, strict=True):
        torch.testing.assert_close(now, before, rtol=0, atol=0)
        torch.testing.assert_close(again, before)
    assert [done.tag for done in step.passes] == ["clean"]  # what adds nothing is not in the log
    with step.isolated() as handle:
        step.gradients("other")
        handle.commit()
    assert [done.tag for done in step.passes] == ["clean", "other"]
    for before, now in zip(clean, [p.grad for p in stage.parameters if p.grad is not None], strict=True):
        torch.testing.assert_close(now, 2 * before)


def test_the_teacher_runs_once_a_batch_over_all_passes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Looks(Plugin):
        name = "looks"
        provides = frozenset({"objective"})

        @hookimpl
        def setup(self, stage: Stage) -> None:
            stage.observe(teacher=[Hidden(1)], student=[Hidden(-1)])

        @hookimpl
        def compute_loss(self, step: Step) -> list[LossTerm]:
            distance = (step.student()[Hidden(1)] - step.teacher()[Hidden(1)]).square().mean()
            return [LossTerm("hidden", distance)]

        @hookimpl(wrapper=True)
        def on_step(self, step: Step) -> Any:
            done = yield
            step.gradients("again")
            return done

    with_plugins(monkeypatch, Looks(None))
    tables = recipe()
    tables["stage"] = [{"name": "hidden", "student": "fresh", "teacher": "fresh", "epochs": 1}]
    stage = stage_of(tables, data, tmp_path)
    calls = {"teacher": 0, "second layer": 0, "student": 0}

    def count(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            calls[name] += 1

        return hook

    handles = [
        stage.teacher.module.register_forward_pre_hook(count("teacher")),
        stage.teacher.module.bert.encoder.layer[1].register_forward_pre_hook(count("second layer")),
        stage.student.module.register_forward_pre_hook(count("student")),
    ]
    batch = stage.examples("train").batch(list(range(4)))
    with stage.exit:
        step = Step(stage, batch, shares([batch], stage.units), 0, 0)
        stage.hook.on_step(step=step)
    for handle in handles:
        handle.remove()
    assert calls == {"teacher": 1, "second layer": 0, "student": 2}
    assert [done.tag for done in step.passes] == ["clean", "again"]
    assert all(parameter.grad is None for parameter in stage.teacher.module.parameters())


def test_the_teachers_logits_with_an_untrained_head_are_refused(data: Path, tmp_path: Path) -> None:
    tables = recipe("hinton")
    del tables["stage"][0]
    with pytest.raises(ModelError, match=r"no checkpoint gave its classifier\.bias a value"):
        stage_of(tables, data, tmp_path)


def test_two_plugins_that_claim_one_slot_are_named(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def claims(called: str) -> Plugin:
        class Claims(Plugin):
            name = called

            @hookimpl
            def setup(self, stage: Stage) -> None:
                stage.claim("batching", lambda rows: ([row] for row in rows))

        return Claims(None)

    with_plugins(monkeypatch, claims("one"), claims("two"))
    with pytest.raises(PluginError, match="The plugins 'one' and 'two' both want the slot 'batching'"):
        stage_of(student_only(), data, tmp_path)


def test_an_added_module_is_trained_clipped_checkpointed_and_not_exported(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Projects(Plugin):
        name = "projects"

        @hookimpl
        def setup(self, stage: Stage) -> None:
            self.projection = nn.Linear(3, 3)
            self.start = self.projection.weight.detach().clone()
            stage.add_module("projection", self.projection)

        @hookimpl
        def compute_loss(self, step: Step) -> list[LossTerm]:
            return [LossTerm("fit", (self.projection(step.student()[LOGITS]) - 1).square().mean())]

    plugin = Projects(None)
    with_plugins(monkeypatch, plugin)
    stage = stage_of(student_only(), data, tmp_path)
    with stage.exit:
        Engine(stage, tmp_path / "s").train()
    assert not torch.equal(plugin.projection.weight, plugin.start)
    assert any(parameter is plugin.projection.weight for parameter in stage.parameters)
    assert set(stage.state_dict()["modules"]["projection"]) == {"weight", "bias"}
    assert not any("projection" in name for name, _ in stage.student.module.named_parameters())
