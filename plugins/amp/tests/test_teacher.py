"""A teacher in half precision: what is converted, how far off it may be, and that nobody else notices."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from potstill_amp.plugin import Amp
from potstill_amp.teacher import convert, difference
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from potstill.context import Context
from potstill.engine import Engine
from potstill.errors import ModelError
from potstill.features import QKV, Hidden, Scores
from potstill.models import Model, from_config
from potstill.plugin import LossTerm, Plugin, hookimpl
from potstill.progress import Progress
from potstill.recipe import parse
from potstill.stage import Stage
from potstill.step import Step
from potstill.testing import engine_of, stage_of
from potstill.testing.tiny import bert, recipe, write_data
from potstill.tokenizers import load_tokenizer

FEATURES = (Hidden(0), Hidden(-1), QKV(1), Scores(2))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


class Looks(Plugin):
    """Looks inside the teacher, whose head nobody trained."""

    name = "looks"
    features: Any = FEATURES
    kinds: set[torch.dtype] = set()  # noqa: RUF012 - of all of them

    @hookimpl
    def setup(self, stage: Stage) -> None:
        stage.observe(teacher=self.features)

    @hookimpl
    def compute_loss(self, step: Step) -> list[LossTerm]:
        self.kinds.update(step.teacher()[feature].dtype for feature in self.features if isinstance(feature, Hidden))
        return [LossTerm("far", (step.student().logits - step.teacher()[Hidden(-1)].mean()).square().mean())]


class Notes(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def engine(data: Path, folder: Path, *plugins: Plugin, **options: Any) -> Engine:
    amp = Amp(Amp.Config(**{"dtype": "float32", "teacher_dtype": "bfloat16", **options}))
    tables = recipe()
    tables["stage"] = [{"name": "distil", "teacher": "fresh", "updates": 3, "batch_size": 8}]
    return engine_of(tables, data, folder, plugins=[*(plugins or (Looks(None),)), amp], progress=Notes())


def test_the_difference_is_a_share_of_the_largest_value_and_masked_scores_are_none() -> None:
    exact = torch.tensor([[2.0, -4.0], [1.0, torch.finfo(torch.float32).min]])
    rounded = torch.tensor([[2.5, -4.0], [0.0, torch.finfo(torch.bfloat16).min]])
    assert difference([exact], [rounded]) == 1 / 4
    assert difference([exact, 10 * torch.ones(3)], [rounded, 10 * torch.ones(3)]) == 1 / 10
    assert difference([torch.zeros(2)], [torch.zeros(2)]) == 0
    assert difference([torch.tensor([7e4])], [torch.tensor([7e4]).half().float()]) == math.inf
    assert difference([torch.ones(1)], [torch.tensor([torch.nan])]) == math.inf


def test_what_a_model_computes_for_itself_stays_exact() -> None:
    config = AutoConfig.for_model(
        "modernbert",
        vocab_size=20,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0),
    )
    module = AutoModelForSequenceClassification.from_config(config).eval()
    frequencies = {name: buffer.clone() for name, buffer in module.named_buffers() if "inv_freq" in name}
    assert frequencies
    with torch.no_grad():
        exact = module(input_ids=torch.arange(1, 9)[None]).logits
        convert(module, torch.bfloat16)
        rounded = module(input_ids=torch.arange(1, 9)[None]).logits
    assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}
    buffers = dict(module.named_buffers())
    assert all(torch.equal(buffers[name], value) for name, value in frequencies.items())
    assert rounded.dtype == torch.bfloat16
    assert difference([exact], [rounded.float()]) < 0.05


def test_what_a_model_is_saved_with_is_converted_all_of_it() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.LSTM(3, 3, bidirectional=True)).eval()
    convert(module, torch.bfloat16)
    assert {value.dtype for value in module.state_dict().values()} == {torch.bfloat16, torch.int64}
    assert module(torch.ones(2, 3, dtype=torch.bfloat16))[0].dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_teacher_in_half_precision_is_converted_checked_and_told_of(dtype: str, data: Path, tmp_path: Path) -> None:
    training = engine(data, tmp_path, teacher_dtype=dtype)
    stage = training.stage
    assert stage.precision.key == "float32"
    Looks.kinds.clear()
    training.train()
    [note] = stage.progress.notes  # type: ignore[attr-defined]
    assert note.startswith(f"distil: in {dtype} the teacher is off float32 by up to 0.0")
    assert stage.precision.key == dtype
    assert stage.explained["amp"] == {"dtype": "float32", "teacher_dtype": dtype}
    assert {value.dtype for value in stage.teacher.module.parameters()} == {getattr(torch, dtype)}
    assert {value.dtype for value in stage.student.module.parameters()} == {torch.float32}
    assert Looks.kinds == {torch.float32}


def test_a_teacher_that_half_precision_changes_is_refused_by_number_and_feature(data: Path, tmp_path: Path) -> None:
    """Embeddings of 100 and a little: bfloat16 drops the little, of which a layer norm makes all there is."""
    training = engine(data, tmp_path)
    with torch.no_grad():
        training.stage.teacher.module.bert.embeddings.position_embeddings.weight.add_(100.0)
    told = r"In bfloat16 the teacher is off float32 by up to [\d.]+ of the largest value of .*; set teacher_dtype = "
    with pytest.raises(ModelError, match=told) as caught:
        training.train()
    assert caught.value.exit_code == 2
    assert not list(training.checkpoints.glob("*"))


def test_a_teacher_too_large_for_float16_is_refused(data: Path, tmp_path: Path) -> None:
    training = engine(data, tmp_path, teacher_dtype="float16")
    with torch.no_grad():
        training.stage.teacher.module.bert.encoder.layer[1].output.LayerNorm.weight.fill_(1e5)
    with pytest.raises(ModelError, match="In float16 the teacher is off float32 by up to inf of the largest value of"):
        training.train()


def test_a_teacher_that_the_machine_cannot_run_in_half_precision_is_refused(data: Path, tmp_path: Path) -> None:
    def cannot(module: nn.Module, args: Any) -> None:
        if module.weight.dtype == torch.bfloat16:
            raise RuntimeError("could not create a primitive descriptor. Run it verbosely")

    training = engine(data, tmp_path)
    training.stage.teacher.module.bert.embeddings.LayerNorm.register_forward_pre_hook(cannot)
    told = r"The teacher, a BertForSequenceClassification, cannot compute in bfloat16 .*descriptor\); set teacher_dtype"
    with pytest.raises(ModelError, match=told):
        training.train()


def test_a_wider_tolerance_lets_it_through(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="teacher_tolerance is 0.0001"):
        engine(data, tmp_path / "tight", teacher_tolerance=1e-4).train()
    engine(data, tmp_path / "wide", teacher_tolerance=0.05).train()


def test_a_teacher_that_nobody_looks_at_is_neither_loaded_nor_converted(data: Path, tmp_path: Path) -> None:
    class Blind(Looks):
        @hookimpl
        def setup(self, stage: Stage) -> None:
            """Looks at nothing."""

        @hookimpl
        def compute_loss(self, step: Step) -> list[LossTerm]:
            return [LossTerm("small", step.student().logits.square().mean())]

    training = engine(data, tmp_path, Blind(None))
    training.train()
    assert not training.stage._models._teachers
    assert training.stage.precision.key == "float32"


def test_student_and_caller_keep_their_weights_where_the_student_is_made_of_the_teacher(data: Path) -> None:
    tables = recipe("hinton", "amp", student={"layers": [1]})
    tables["stage"] = [
        {**tables["stage"][1], "updates": 2, "amp": {"dtype": "float32", "teacher_dtype": "bfloat16"}},
    ]
    del tables["stage"][0]["epochs"]
    context = Context(parse(recipe()), data, data, progress=Progress())
    words = load_tokenizer("vocab.txt", data)
    teacher = Model(from_config(bert(2), words, context.task).module, words)
    before = copy.deepcopy(teacher.module.state_dict())
    stage = stage_of(tables, data, data, given={"teacher": teacher})
    with stage.exit:
        Engine(stage, data / "from-layers").train()
    assert {value.dtype for value in stage.student.module.parameters()} == {torch.float32}
    assert {value.dtype for value in stage.teacher.module.parameters()} == {torch.bfloat16}
    assert all(torch.equal(before[name], value) for name, value in teacher.module.state_dict().items())
