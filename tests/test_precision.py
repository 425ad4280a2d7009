"""What a plugin may decide of numbers and rates: the slot "precision", and learning rates of its own parameters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

import potstill
from potstill.batch import TOKEN
from potstill.data.examples import Examples
from potstill.features import LOGITS, QKV, Hidden
from potstill.optimizer import Precision
from potstill.plugin import LossTerm, Plugin, hookimpl
from potstill.stage import Stage
from potstill.step import Step
from potstill.testing import engine_of
from potstill.testing.tiny import recipe, student_only


class Half(Precision):
    """bfloat16 around the models; writes down what happens."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.inside = False

    def prepare(self, stage: Stage, rows: Examples, optimizer: Optimizer) -> None:
        self.calls.append(f"prepare {len(rows)} rows, {len(optimizer.param_groups)} groups, {stage.total_updates}")

    def forward(self) -> AbstractContextManager[Any]:
        return self._around("student")

    def teacher(self) -> AbstractContextManager[Any]:
        return self._around("teacher")

    @contextmanager
    def _around(self, side: str) -> Iterator[None]:
        self.calls.append(side)
        self.inside = True
        with torch.autocast("cpu", torch.bfloat16):
            yield
        self.inside = False

    def clipped(self, parameters: list[Tensor]) -> list[Tensor]:
        return parameters[:1]


class Watches(Plugin):
    name = "watches"

    def __init__(self, precision: Half) -> None:
        super().__init__(None)
        self.precision = precision
        self.kinds: set[torch.dtype] = set()

    @hookimpl
    def setup(self, stage: Stage) -> None:
        stage.claim("precision", self.precision)
        stage.observe(teacher=[Hidden(1), LOGITS], student=[QKV(1)])

    @hookimpl
    def compute_loss(self, step: Step) -> list[LossTerm]:
        learnt, known = step.student(), step.teacher()
        assert not self.precision.inside
        assert not torch.is_autocast_enabled("cpu")
        self.kinds |= {value.dtype for value in (*learnt[QKV(1)], learnt[LOGITS], known[Hidden(1)], known[LOGITS])}
        return [LossTerm("far", (known[Hidden(1)] - learnt[QKV(1)].query.flatten(2).mean()).square().mean(), per=TOKEN)]


def test_models_run_inside_the_precision_and_losses_outside_in_float32(data: Path, tmp_path: Path) -> None:
    tables = recipe()
    teacher = potstill.run({**tables, "stage": tables["stage"][:1]}, folder=tmp_path / "teacher", data_root=data)
    tables["teacher"] = {"model": str(teacher.model)}
    tables["stage"] = [{"name": "distil", "updates": 2, "batch_size": 8}]
    half = Half()
    watches = Watches(half)
    training = engine_of(tables, data, tmp_path, plugins=[watches])
    training.train()
    assert half.calls == ["prepare 96 rows, 2 groups, 2", "student", "teacher", "student", "teacher"]
    assert watches.kinds == {torch.float32}


def test_a_precision_is_prepared_after_its_state_came_back_also_for_a_stage_that_is_over(
    data: Path, tmp_path: Path
) -> None:
    class Remembers(Precision):
        told: list[str] = []  # noqa: RUF012 - of all of them
        state = 0

        def prepare(self, stage: Stage, rows: Examples, optimizer: Optimizer) -> None:
            self.told.append(f"prepared at {self.state}")

        def step(self, optimizer: Optimizer, norm: float) -> bool:
            self.state += 1
            if self.state == 3:
                raise KeyboardInterrupt
            return super().step(optimizer, norm)

        def state_dict(self) -> dict[str, Any]:
            return {"state": self.state}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.state = 10 * state["state"]

    class Claims(Plugin):
        name = "claims"

        @hookimpl
        def setup(self, stage: Stage) -> None:
            stage.claim("precision", Remembers())

    tables = student_only(updates=4, checkpoint_every=1)
    del tables["stage"][0]["epochs"]
    with pytest.raises(KeyboardInterrupt):
        engine_of(tables, data, tmp_path, plugins=[Claims(None)]).train()
    for _ in range(2):
        engine_of(tables, data, tmp_path, plugins=[Claims(None)]).train()
    assert Remembers.told == ["prepared at 0", "prepared at 20", "prepared at 220"]


class Rates(Plugin):
    name = "rates"

    def __init__(self, **factors: float) -> None:
        super().__init__(None)
        self.factors = factors

    @hookimpl
    def setup(self, stage: Stage) -> None:
        for part, factor in self.factors.items():
            parameters = [value for name, value in stage.student.module.named_parameters() if part in name]
            assert parameters
            stage.scale_rate(parameters, factor)


def test_parameters_learn_at_rates_of_their_own_and_those_at_0_only_count_in_the_clipping(
    data: Path, tmp_path: Path
) -> None:
    def moved(**factors: float) -> tuple[dict[str, float], float]:
        tables = student_only(updates=1, schedule="constant", warmup=0, weight_decay=0.0, epsilon=1e-12)
        del tables["stage"][0]["epochs"]
        training = engine_of(tables, data, tmp_path / "-".join(factors), plugins=[Rates(**factors)])
        parameters = dict(training.stage.student.module.named_parameters())
        before = {name: value.detach().clone() for name, value in parameters.items()}
        training.train()
        norm = json.loads(training.log.path.read_text().splitlines()[0])["grad_norm"]
        return {name: float((value.detach() - before[name]).abs().max()) for name, value in parameters.items()}, norm

    plain, norm = moved()
    scaled, scaled_norm = moved(pooler=0.5, embeddings=0.0)
    assert scaled_norm == norm
    for name, distance in plain.items():
        factor = 0.5 if "pooler" in name else 0.0 if "embeddings" in name else 1.0
        # Adam's first step is the learning rate long, whatever the gradient.
        assert scaled[name] == pytest.approx(factor * distance, rel=1e-3, abs=0), name


def test_a_held_parameter_does_not_decay_either(data: Path, tmp_path: Path) -> None:
    training = engine_of(student_only(weight_decay=0.5), data, tmp_path, plugins=[Rates(embeddings=0.0)])
    held = {name: value for name, value in training.stage.student.module.named_parameters() if "embeddings" in name}
    before = {name: value.detach().clone() for name, value in held.items()}
    training.train()
    assert all(torch.equal(before[name], value) for name, value in held.items())
