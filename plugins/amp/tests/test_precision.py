"""Training in half precision: near float32, exact where it is broken off, and unhurt by an overflow."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from potstill_accumulate.plugin import Accumulate
from potstill_amp import precision
from potstill_amp.plugin import Amp
from potstill_amp.precision import Mixed, allow_tf32
from pydantic import ValidationError
from torch import Tensor

from potstill.engine import Engine
from potstill.errors import TrainingError
from potstill.optimizer import clip_norm
from potstill.plugin import LossTerm, Plugin, hookimpl
from potstill.progress import Progress
from potstill.stage import Stage
from potstill.step import Pass, Step
from potstill.testing import assert_resumes_exactly, engine_of
from potstill.testing.tiny import student_only, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


class Notes(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class Records(Plugin):
    """Writes the gradients down that are clipped, and the weights after each update."""

    name = "records"

    def __init__(self) -> None:
        super().__init__(None)
        self.gradients: list[Tensor] = []
        self.weights: list[Tensor] = []
        self.applied: list[bool] = []
        self.rates: list[float] = []

    @hookimpl
    def setup(self, stage: Stage) -> None:
        stage.claim("clip", self.clip)

    def clip(self, parameters: list[Tensor]) -> Tensor:
        self.gradients.append(
            torch.cat([value.grad.flatten().clone() for value in parameters if value.grad is not None])
        )
        return clip_norm(1.0)(parameters)

    @hookimpl
    def on_update(self, update: Any) -> None:
        self.weights.append(torch.cat([value.detach().flatten() for value in update.stage.parameters]).clone())
        self.applied.append(update.applied)


class Spikes(Plugin):
    """A loss whose gradient overflows in float16, in one update; the loss itself is an ordinary number."""

    name = "spikes"
    at = 2

    @hookimpl
    def compute_loss(self, step: Step) -> list[LossTerm]:
        logits = step.student().logits
        height = 1e30 if step.update == self.at else 0.0
        return [LossTerm("spike", height * (logits - logits.detach()).sum())]


class Twice(Plugin):
    """Two passes a micro-batch, as an attack makes them."""

    name = "twice"

    @hookimpl(wrapper=True)
    def on_step(self, step: Step) -> Any:
        first: Pass = yield
        step.gradients("again")
        return first


def engine(data: Path, folder: Path, *plugins: Plugin, updates: int = 5, **options: Any) -> Engine:
    tables = student_only(updates=updates, checkpoint_every=2, log_every=1)
    del tables["stage"][0]["epochs"]
    return engine_of(tables, data, folder, plugins=[Amp(Amp.Config(**options)), *plugins], progress=Notes())


def trained(data: Path, folder: Path, *plugins: Plugin, **more: Any) -> Records:
    records = Records()
    training = engine(data, folder, records, *plugins, **more)
    with training.stage.exit:
        training.train()
    return records


def cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one, other, dim=0))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gradients_point_where_those_of_float32_do_and_are_as_long(dtype: str, data: Path, tmp_path: Path) -> None:
    """Two micro-batches of two passes each: all four are added at one scale, and unscaled once."""
    several = (Accumulate(Accumulate.Config(batches=2)), Twice(None))
    exact = trained(data, tmp_path / "exact", *several, dtype="float32", updates=1).gradients[0]
    half = trained(data, tmp_path / "half", *several, dtype=dtype, updates=1).gradients[0]
    once = trained(data, tmp_path / "once", several[0], dtype="float32", updates=1).gradients[0]
    torch.testing.assert_close(exact, 2 * once)
    assert cosine(exact, half) > 0.99
    assert float(half.norm() / exact.norm()) == pytest.approx(1, abs=0.05)
    assert not torch.equal(exact, half)  # it did compute in something else


def test_float32_is_what_the_core_computes_without_the_plugin(data: Path, tmp_path: Path) -> None:
    records = trained(data, tmp_path / "with", dtype="float32")
    plain = Records()
    tables = student_only(updates=5)
    del tables["stage"][0]["epochs"]
    engine_of(tables, data, tmp_path, plugins=[plain]).train()
    assert torch.equal(records.weights[-1], plain.weights[-1])


def test_an_overflow_skips_one_update_and_neither_weights_nor_schedule_move(data: Path, tmp_path: Path) -> None:
    records = Records()
    training = engine(data, tmp_path, records, Spikes(None), dtype="float16", init_scale=1024.0)
    with training.stage.exit:
        training.train()
    assert records.applied == [True, True, False, True, True]
    assert torch.equal(records.weights[2], records.weights[1])
    assert not torch.equal(records.weights[3], records.weights[2])
    lines = [json.loads(line) for line in training.log.path.read_text().splitlines()]
    lines = [line for line in lines if "grad_norm" in line]
    assert [line["grad_norm"] is None for line in lines] == [not applied for applied in records.applied]
    assert lines[3]["learning_rate"] == lines[2]["learning_rate"] != lines[1]["learning_rate"]
    assert training.at.applied == 4
    [note] = training.stage.progress.notes  # type: ignore[attr-defined]
    assert note == (
        "plain: updates skipped since they overflowed in float16: 1; the loss was scaled by 512 at the end."
    )
    assert training.stage.explained["amp"]["skipped_updates"] == 1


def test_the_update_after_an_overflow_is_the_one_that_would_have_been(data: Path, tmp_path: Path) -> None:
    """In the third update the spike hides what the rows say; the fourth starts from the same weights."""
    spiked = trained(data, tmp_path / "a", Spikes(None), dtype="float16")
    plain = trained(data, tmp_path / "b", dtype="float16")
    assert torch.equal(spiked.weights[1], plain.weights[1])
    assert cosine(spiked.gradients[3], plain.gradients[3]) > 0.9
    assert bool(spiked.gradients[3].isfinite().all())


def test_a_gradient_that_overflows_at_every_scale_ends_in_one_sentence(data: Path, tmp_path: Path) -> None:
    class Always(Spikes):
        @hookimpl
        def compute_loss(self, step: Step) -> list[LossTerm]:
            self.at = step.update
            return super().compute_loss(step)

    training = engine(data, tmp_path, Always(None), dtype="float16", init_scale=2.0, updates=30)
    told = (
        "In update 12 of the stage 'plain' the gradients overflow in float16 even where the loss is scaled by "
        '0.000976562; set dtype = "bfloat16" or "float32" in [stage.amp].'
    )
    with pytest.raises(TrainingError, match=f"^{re.escape(told)}$"):
        training.train()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_without_a_scale_gradients_that_are_not_finite_are_an_error(dtype: str, data: Path, tmp_path: Path) -> None:
    class Infinite(Spikes):
        @hookimpl
        def compute_loss(self, step: Step) -> list[LossTerm]:
            near = (step.student().logits - step.student().logits.detach()).sum()
            return [LossTerm("root", near.abs().sqrt())]  # 0, with an infinite slope

    training = engine(data, tmp_path, Infinite(None), dtype=dtype)
    with pytest.raises(TrainingError, match=r"In update 1 of the stage 'plain' the norm of the gradients is (nan|inf)"):
        training.train()


def test_an_update_without_any_gradient_is_none_of_the_scaler_s_business() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    mixed = Mixed(Amp.Config(dtype="float16"), "cpu")
    mixed.unscale(optimizer)
    assert mixed.step(optimizer, 0.0)
    assert weight.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "bfloat16"},
        # the scale halves until nothing overflows, and doubles after every other update
        {"dtype": "float16", "init_scale": 2.0**30, "growth_interval": 2},
    ],
)
def test_a_run_in_half_precision_resumes_exactly(options: dict[str, Any], data: Path, tmp_path: Path) -> None:
    tables = student_only(plugins=["amp"], amp=options, updates=9, checkpoint_every=2, log_every=1)
    del tables["stage"][0]["epochs"]
    tables["student"]["config"]["hidden_dropout_prob"] = 0.2
    told = assert_resumes_exactly(tables, data=data, folder=tmp_path, stage="plain", after=5).stages["plain"]
    skipped = told["explained"]["amp"].get("skipped_updates", 0)
    assert (skipped > 0) == (options["dtype"] == "float16"), skipped


def test_a_chosen_dtype_is_told_with_its_times_and_kept_by_a_resumed_stage(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "measured", lambda stage, rows: {"float32": 0.04, "bfloat16": 0.01})

    class Breaks(Plugin):
        name = "breaks"

        @hookimpl
        def on_update(self, update: Any) -> None:
            if update.number == 3:
                raise KeyboardInterrupt

    training = engine(data, tmp_path, Breaks(None), updates=4)
    with pytest.raises(KeyboardInterrupt):
        training.train()
    assert training.stage.progress.notes == [  # type: ignore[attr-defined]
        "plain: amp computes in bfloat16 (a step of the student: float32 40 ms, bfloat16 10 ms)."
    ]
    assert training.stage.explained["amp"]["dtype"] == "bfloat16"

    monkeypatch.setattr(precision, "measured", lambda stage, rows: {"float32": 0.01, "bfloat16": None})
    again = engine(data, tmp_path, updates=4)
    again.train()
    assert again.at.update == 4
    assert again.stage.progress.notes == []  # type: ignore[attr-defined]
    assert again.stage.explained["amp"] == {
        "dtype": "bfloat16",
        "seconds_a_step": {"float32": 0.04, "bfloat16": 0.01},
    }

    other = engine(data, tmp_path / "other", updates=2)
    other.train()
    [note] = other.stage.progress.notes  # type: ignore[attr-defined]
    assert note.endswith("amp computes in float32 (a step of the student: float32 10 ms, bfloat16 given up).")


def test_tf32_is_allowed_until_the_stage_is_over_and_changes_the_key_on_cuda_alone() -> None:
    before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    with ExitStack() as stage:
        allow_tf32(stage)
        assert torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cudnn.allow_tf32
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before
    assert Mixed(Amp.Config(tf32=True), "cpu").key == "float32"


@pytest.mark.parametrize(
    "options", [{"dtype": "float8"}, {"teacher_tolerance": 0.0}, {"init_scale": 0.5}, {"growth_interval": 0}]
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        Amp.Config(**options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ["auto", "bfloat16", "float16"])
def test_a_run_on_cuda_resumes_exactly(dtype: str, data: Path, tmp_path: Path) -> None:
    tables = student_only(plugins=["amp"], amp={"dtype": dtype, "tf32": True}, checkpoint_every=3)
    assert_resumes_exactly(tables, data=data, folder=tmp_path, stage="plain", after=8)
