"""Choosing a dtype: by times that are written down here, and once by the clock of this machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from potstill_amp.choice import PATIENCE, fastest, measured, slowest_rank, step_times, try_out

from potstill.checkpoint import own_random, random_state
from potstill.errors import ModelError
from potstill.stage import Stage
from potstill.testing import stage_of
from potstill.testing.tiny import bert, student_only, write_data


class Machine:
    """A machine whose every row costs so many seconds in each dtype, and its clock."""

    def __init__(self, **seconds: float) -> None:
        self.seconds = seconds
        self.now = 100.0
        self.steps: list[tuple[str, int]] = []

    def step(self, dtype: str, rows: int) -> None:
        self.steps.append((dtype, rows))
        self.now += self.seconds[dtype] * rows

    def clock(self) -> float:
        return self.now

    def times(self, rows: int = 10) -> dict[str, float | None]:
        return step_times(self.step, tuple(self.seconds), rows, self.clock)


def test_every_dtype_does_a_growing_batch_and_three_whole_steps_of_which_the_fastest_counts() -> None:
    machine = Machine(float32=1.0, bfloat16=0.5)
    assert machine.times() == {"float32": 10.0, "bfloat16": 5.0}
    assert machine.steps == [(dtype, rows) for dtype in machine.seconds for rows in (1, 2, 4, 8, 10, 10, 10)]


def test_a_dtype_is_given_up_when_it_took_longer_than_float32_altogether() -> None:
    machine = Machine(float32=1.0, bfloat16=100.0, float16=0.5)
    assert machine.times() == {"float32": 10.0, "bfloat16": None, "float16": 5.0}
    # float32 took 1 + 2 + 4 + 8 + 3 * 10 = 45 seconds; a single row was enough to see
    assert [rows for dtype, rows in machine.steps if dtype == "bfloat16"] == [1]


def test_a_slow_first_step_within_a_second_gives_nothing_up() -> None:
    machine = Machine(float32=1e-3, bfloat16=5e-4)
    plain = machine.step

    def loads_first(dtype: str, rows: int) -> None:
        first = all(done != "bfloat16" for done, _ in machine.steps)
        plain(dtype, rows)
        machine.now += 0.9 * PATIENCE if dtype == "bfloat16" and first else 0.0

    times = step_times(loads_first, ("float32", "bfloat16"), 10, machine.clock)
    assert times == pytest.approx({"float32": 10e-3, "bfloat16": 5e-3})


def test_a_dtype_that_the_machine_lacks_is_given_up_and_an_error_in_float32_is_none_of_its() -> None:
    machine = Machine(float32=1.0, bfloat16=0.1)

    def lacks(what: str) -> Any:
        def step(dtype: str, rows: int) -> None:
            if dtype == what:
                raise RuntimeError("could not create a primitive")
            machine.step(dtype, rows)

        return step

    assert step_times(lacks("bfloat16"), ("float32", "bfloat16"), 2, machine.clock) == {"float32": 2, "bfloat16": None}
    with pytest.raises(RuntimeError, match="primitive"):
        step_times(lacks("float32"), ("float32", "bfloat16"), 2, machine.clock)


@pytest.mark.parametrize(
    ("times", "chosen"),
    [
        ({"float32": 1.0, "bfloat16": 0.5}, "bfloat16"),
        ({"float32": 1.0, "bfloat16": 0.95}, "float32"),  # not worth the digits
        ({"float32": 1.0, "bfloat16": 100.0}, "float32"),
        ({"float32": 1.0, "bfloat16": None}, "float32"),
        ({"float32": 1.0, "bfloat16": 0.5, "float16": 0.4}, "float16"),
        ({"float32": 1.0, "bfloat16": 0.5, "float16": None}, "bfloat16"),
    ],
)
def test_the_fastest_is_taken_where_it_gains_a_tenth(times: dict[str, float | None], chosen: str) -> None:
    assert fastest(times) == chosen


def test_several_ranks_go_by_the_slowest_and_one_that_gave_up_speaks_for_all() -> None:
    everyone = [
        {"float32": 1.0, "bfloat16": 0.5, "float16": 0.2},
        {"float32": 2.0, "bfloat16": 0.4, "float16": None},
    ]
    assert slowest_rank(everyone) == {"float32": 2.0, "bfloat16": 0.5, "float16": None}


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    tables: dict[str, Any] = student_only(batch_size=4)
    tables["student"]["config"] = bert(1)  # with dropout
    return stage_of(tables, write_data(tmp_path), tmp_path)


def test_a_student_that_the_machine_cannot_train_in_a_dtype_is_refused(stage: Stage) -> None:
    rows = stage.examples("train")
    assert rows is not None
    try_out(stage, rows, "bfloat16")

    def cannot(module: Any, args: Any) -> None:
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError("could not create a primitive descriptor. Run it verbosely")

    stage.student.module.classifier.register_forward_pre_hook(cannot)
    told = (
        "The student, a BertForSequenceClassification, cannot be trained in bfloat16 on this machine (could not create "
        'a primitive descriptor); set dtype = "auto" or "float32" in [stage.amp].'
    )
    with pytest.raises(ModelError, match=re.escape(told)):
        try_out(stage, rows, "bfloat16")


def test_a_real_measurement_times_both_and_leaves_no_trace(stage: Stage) -> None:
    rows = stage.examples("train")
    assert rows is not None
    module = stage.student.module
    module.register_buffer("counted", torch.zeros(()))

    def count(*_: Any) -> None:
        module.counted.add_(1)

    module.register_forward_hook(count)
    before, weights = random_state(), [parameter.detach().clone() for parameter in module.parameters()]
    with own_random(0):
        times = measured(stage, rows)
    assert set(times) == {"float32", "bfloat16"}
    assert times["float32"] is not None
    assert 0 < times["float32"] < 60
    after = random_state()
    assert torch.equal(before.pop("torch"), after.pop("torch"))
    assert before == after
    assert module.training
    assert float(module.counted) == 0
    assert all(parameter.grad is None for parameter in module.parameters())
    assert all(torch.equal(one, other) for one, other in zip(weights, module.parameters(), strict=True))
