"""The plugin's terms against models run by hand, its options, and whole runs of its parts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from potstill_tinybert.plugin import TinyBERT
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, PreTrainedModel

import potstill
from potstill.batch import Batch
from potstill.engine import Engine
from potstill.errors import ModelError
from potstill.plugin import LossTerm
from potstill.recipe import TaskConfig
from potstill.shares import shares
from potstill.stage import Stage
from potstill.step import Step
from potstill.tasks import load_task
from potstill.testing import assert_resumes_exactly, stage_of
from potstill.testing.tiny import bert, recipe, write_data
from potstill.tokenizers import load_tokenizer

CALM = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("rows"), train=24, validation=12)


def tables(phase: str = "intermediate", *, student: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    """One stage: a student of 2 layers and 16 wide, a teacher of 4 and 32 wide that nobody trained."""
    stage = {"name": "distil", "plugins": ["tinybert"], "epochs": 1, "batch_size": 8, "learning_rate": 1e-3}
    stage["tinybert"] = {"phase": phase, **options}
    config = student or bert(2, 16, **CALM)
    return recipe(stage=[stage], teacher={"config": bert(4), "tokenizer": "vocab.txt"}, student={"config": config})


@contextmanager
def open_stage(told: dict[str, Any], data: Path, folder: Path) -> Iterator[Stage]:
    stage = stage_of(told, data, folder)
    with stage.exit:
        yield stage


def terms_of(stage: Stage) -> tuple[dict[str, LossTerm], Batch]:
    """The terms of the first eight rows."""
    batch = stage.examples("train").batch(range(8))  # type: ignore[union-attr]
    return Step(stage, batch, shares([batch], stage.units), 0, 0).terms(), batch


def inside(module: Any, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
    """Hidden states from the embedding output on, and each layer's scores by its own query and key matrices."""
    with torch.no_grad():
        hidden = list(module(**batch.student, output_hidden_states=True).hidden_states)
        scores = []
        for layer, state in zip(module.bert.encoder.layer, hidden, strict=False):
            inner = layer.attention.self
            query, key = (
                part(state).unflatten(-1, (inner.num_attention_heads, -1)).transpose(1, 2)
                for part in (inner.query, inner.key)
            )
            scores.append(query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5)
    return hidden, scores


def test_the_terms_are_sums_over_the_mapped_layers_of_means_over_tokens_and_pairs(rows: Path, tmp_path: Path) -> None:
    with open_stage(tables(hidden=0.5), rows, tmp_path) as stage:
        terms, batch = terms_of(stage)
        own, own_scores = inside(stage.student.module, batch)
        known, known_scores = inside(stage.teacher.module, batch)
        linear = stage.modules["tinybert_projection"].maps["all"]  # type: ignore[union-attr, index]
        lengths = batch.student["attention_mask"].sum(1).tolist()
        assert min(lengths) < max(lengths)

        def hidden(m: int, g: int) -> float:
            apart = [(linear(own[m]) - known[g])[i, :n] for i, n in enumerate(lengths)]  # type: ignore[operator]
            return torch.cat(apart).square().mean().item()

        def scores(m: int, g: int) -> float:
            apart = [(own_scores[m - 1] - known_scores[g - 1])[i, :, :n, :n] for i, n in enumerate(lengths)]
            return sum(part.square().sum().item() for part in apart) / (2 * sum(n * n for n in lengths))

        assert {name: (term.weight, term.per.name) for name, term in terms.items()} == {
            "tinybert.embedding": (1.0, "token"),
            "tinybert.hidden": (0.5, "token"),
            "tinybert.attention": (1.0, "pair"),
        }
        assert terms["tinybert.embedding"].value.item() == pytest.approx(hidden(0, 0), rel=1e-5)
        assert terms["tinybert.hidden"].value.item() == pytest.approx(hidden(1, 2) + hidden(2, 4), rel=1e-5)
        assert terms["tinybert.attention"].value.item() == pytest.approx(scores(1, 2) + scores(2, 4), rel=1e-5)
        assert stage.explained["tinybert"]["layers"] == ["student 1 ← teacher 2", "student 2 ← teacher 4"]


def test_only_mapped_layers_are_observed_and_a_list_may_leave_one_out(rows: Path, tmp_path: Path) -> None:
    with open_stage(tables(layers=[0, -2], embedding=0, padding="reference"), rows, tmp_path) as stage:
        assert [str(feature) for feature in stage.observed["teacher"]] == ["Hidden(layer=3)", "Scores(layer=3)"]
        terms, _ = terms_of(stage)
        units = {name: term.per.name for name, term in terms.items()}
        assert units == {"tinybert.hidden": "position", "tinybert.attention": "position_pair"}


def test_widths_that_are_equal_need_no_projection_and_one_that_is_asked_for_is_there(
    rows: Path, tmp_path: Path
) -> None:
    wide = bert(2, 32, **CALM)
    with open_stage(tables(student=wide), rows, tmp_path) as stage:
        assert not stage.modules
    with open_stage(tables(student=wide, projection="paper"), rows, tmp_path) as stage:
        projection = stage.modules["tinybert_projection"]
        assert set(projection.state_dict()) == {"maps.embedding.weight", "maps.hidden.weight"}
        assert {id(p) for p in projection.parameters()} <= {id(p) for p in stage.parameters}
    with open_stage(tables(hidden=0, embedding=0), rows, tmp_path) as stage:
        assert not stage.modules


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        (tables(student=bert(2, 16, num_attention_heads=4)), "teacher has 2 attention heads and the student 4"),
        (tables(layers=[4]), r"tinybert.layers = \[4\] is for a student of 1 layers, and this one has 2"),
        (tables(layers=[1, 5]), "Layer 5 of the teacher is asked for, but it has layers 1 to 4"),
        (tables(projection="none"), "the student is 16 wide and the teacher 32"),
    ],
)
def test_what_does_not_fit_the_models_is_one_sentence(
    told: dict[str, Any], sentence: str, rows: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=sentence), open_stage(told, rows, tmp_path):
        pass


def test_bertadam_claims_the_optimizer_and_clips_each_parameter_by_itself(rows: Path, tmp_path: Path) -> None:
    with open_stage(tables(optimizer="bertadam"), rows, tmp_path) as stage:
        assert stage.owners == {"optimizer": "tinybert", "clip": "tinybert"}
        assert type(stage.make_optimizer()).__name__ == "BertAdam"


def trained(told: dict[str, Any], data: Path, folder: Path) -> list[Tensor]:
    with open_stage(told, data, folder) as stage:
        stage.student.module.double()
        stage.teacher.module.double()
        for module in stage.modules.values():
            module.double()
        Engine(stage, folder / "stage").train()
        return [parameter.detach().clone() for parameter in stage.parameters]


@pytest.mark.parametrize("padding", ["excluded", "reference"])
def test_micro_batches_of_uneven_rows_train_the_large_batch_s_weights(padding: str, rows: Path, tmp_path: Path) -> None:
    def told(size: int, group: int) -> dict[str, Any]:
        made = tables(padding=padding)
        keys = {"batch_size": size, "updates": 1, "epochs": None, "warmup": 0, "accumulate": {"batches": group}}
        made["stage"][0].update(keys, plugins=["tinybert", "accumulate"])
        return made

    whole = trained(told(24, 1), rows, tmp_path / "whole")
    parts = trained(told(8, 3), rows, tmp_path / "parts")
    apart = max((one - many).abs().max().item() for one, many in zip(whole, parts, strict=True))
    # What padding adds depends on how far rows are padded; where it counts, no cut into batches gives the same.
    assert apart < 1e-9 if padding == "excluded" else apart > 1e-7


def test_a_value_is_learnt_from_the_teacher_or_as_the_reference_does_from_the_label() -> None:
    student, teacher, labels = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [5.0]]), torch.tensor([1.0, 4.0])
    task = load_task(TaskConfig(kind="regression"), None)
    inputs = {"input_ids": torch.ones(2, 3, dtype=torch.long)}
    batch = Batch(inputs, inputs, labels, torch.arange(2))
    step = SimpleNamespace(
        stage=SimpleNamespace(task=task),
        batch=batch,
        student=lambda: SimpleNamespace(logits=student),
        teacher=lambda: SimpleNamespace(logits=teacher),
        supervised=lambda: LossTerm("supervised", task.loss(student, batch)),
    )
    for reduction, value, unit in (("row", (4 + 9) / 2, "example"), ("reference", (0 + 4) / 2, "target")):
        options = TinyBERT.Config(phase="prediction", reduction=reduction, prediction=2.0)  # type: ignore[arg-type]
        (term,) = TinyBERT(options).compute_loss(step)  # type: ignore[arg-type]
        assert (term.value.item(), term.weight, term.per.name) == (pytest.approx(value), 2.0, unit)


def test_three_parts_with_hinton_accumulate_and_augmentation_resume_exactly(rows: Path, tmp_path: Path) -> None:
    told = recipe("tinybert", "hinton", "accumulate", student={"config": bert(1, 16)})
    told["stage"][0]["epochs"] = 1
    general = {"epochs": 1, "data": {"text": "other", "label": ""}}
    told["stage"][1].update(
        epochs=1,
        checkpoint_every=2,
        accumulate={"batches": 2},
        tinybert={
            "general": general,
            "intermediate": {"learning_rate": 1e-2},
            "augmentation": {"passes": 2},
            "optimizer": "bertadam",
        },
    )
    result = assert_resumes_exactly(told, data=rows, folder=tmp_path, stage="distil-intermediate", after=3)
    assert list(result.stages) == ["teacher", "distil-general", "distil-intermediate", "distil"]
    assert (result.stages["distil-general"]["rows"], result.stages["distil-general"]["metrics"]) == (24, None)
    assert result.stages["distil-intermediate"]["rows"] == result.stages["distil"]["rows"] > 30
    lines = (tmp_path / "whole/stages/04-distil/metrics.jsonl").read_text().splitlines()
    terms = {name for line in lines for name in json.loads(line).get("terms", {})}
    assert terms == {"tinybert.prediction", "hinton.soft", "hinton.hard"}


def save_model(kind: type[PreTrainedModel], rows: Path, folder: Path) -> Path:
    torch.manual_seed(1)
    words = load_tokenizer("vocab.txt", rows)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    kind(BertConfig(vocab_size=len(words), initializer_range=1.0, **sizes)).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def test_words_of_one_piece_become_what_a_masked_language_model_from_a_folder_expects(
    rows: Path, tmp_path: Path
) -> None:
    folder = save_model(BertForMaskedLM, rows, tmp_path / "lm")
    augmentation = {"passes": 1, "candidates": 3, "probability": 1.0, "masked_lm": str(folder)}
    with open_stage(tables(augmentation=augmentation), rows, tmp_path) as stage:
        (transform,) = stage.transforms
        text = "the wave of a storm"
        row, variant = transform.apply([{"text": text, "label": "sea"}], [np.random.default_rng(1)])[0]
        words = load_tokenizer("vocab.txt", rows)
        module = BertForMaskedLM.from_pretrained(folder).eval()
        for place, word in ((2, "wave"), (5, "storm")):
            ids = words(text.replace(word, "[MASK]"), text, return_tensors="pt")
            likeliest = words.convert_ids_to_tokens(module(**ids).logits[0, place].topk(3).indices.tolist())
            assert variant["text"].split()[place - 1] in likeliest
        assert (row["text"], variant["label"], variant["text"].split()[::2][1]) == (text, "sea", "of")
        assert stage.explained["tinybert"]["augmentation"].startswith("1 passes; each word with probability 1 by one")
        known = transform.key
    other = {**augmentation, "candidates": 2}
    with open_stage(tables(augmentation=other), rows, tmp_path) as stage:
        assert stage.transforms[0].key != known


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [(BertForSequenceClassification, "is no masked language model: it has no cls"), (None, "could not be loaded")],
)
def test_what_is_no_masked_language_model_is_refused(
    kind: type[PreTrainedModel] | None, sentence: str, rows: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "lm"
    if kind is not None:
        save_model(kind, rows, folder)
    told = tables(augmentation={"masked_lm": str(folder)})
    with pytest.raises(ModelError, match=sentence) as caught, open_stage(told, rows, tmp_path):
        pass
    assert "\n" not in str(caught.value)


def test_the_inner_losses_fall_and_the_teacher_s_head_is_not_needed(rows: Path, tmp_path: Path) -> None:
    told = tables(prediction=0)
    told["stage"][0].update(epochs=12, keep="last", evaluate=False, log_every=1, learning_rate=5e-3)
    run = potstill.run(told, folder=tmp_path / "run", data_root=rows)
    lines = (tmp_path / "run/stages/01-distil/metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.6 * losses[0]
    assert run.stages["distil"]["explained"]["tinybert"]["projection"] == "shared, 16 → 32"
