"""Saved models put to use: whose rows they read, whose .onnx file it is, and what another program saved."""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import potstill
from potstill.errors import DataError, ModelError, UserError
from potstill.exporting import export_folder
from potstill.models import from_config
from potstill.saved import evaluate_folder, open_saved, predict
from potstill.settings import TaskConfig
from potstill.tasks import load_task
from potstill.testing.tiny import SUBJECTS, bert, write_data
from potstill.testing.words import TAGS, asking, tagging, write_questions, write_tags
from potstill.tokenizers import load_tokenizer
from tests.words import SPECIAL, write

KINDS = {
    "text-classification": [*SUBJECTS],
    "multi-label": [*SUBJECTS],
    "token-classification": TAGS,
    "question-answering": None,
}
COLUMNS: dict[str, dict[str, str]] = {
    "token-classification": {"text": "words", "label": "tags"},
    "question-answering": {"text": "question", "text_pair": "context", "label": "answers"},
}
QUIET = {"onnx": {"quantize": False, "time": False}}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and a vocabulary of single letters, by which a word is several tokens."""
    place = write_data(tmp_path_factory.mktemp("saved"))
    write_tags(place)
    write_questions(place)
    letters = [*SPECIAL, *string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase)]
    write(place / "letters.txt", letters)
    return place


def save(place: Path, folder: Path, kind: str, words: str = "vocab.txt", card: bool = True, length: int = 16) -> Path:
    """A model folder as a run leaves it, of random weights far apart; without the card as other programs do."""
    options = {"unanswerable": True} if kind == "question-answering" else {}
    config = TaskConfig(kind=kind, labels=KINDS[kind], **options)
    torch.manual_seed(0)
    settings = bert(1, 16, initializer_range=0.5)
    model = from_config(settings, load_tokenizer(words, place), load_task(config, KINDS[kind]))
    model.module.save_pretrained(folder)  # type: ignore[operator]
    model.tokenizer.save_pretrained(folder)
    if card:
        told = {"task": config.model_dump(exclude_none=True), "max_length": length, **COLUMNS.get(kind, {})}
        (folder / "potstill.json").write_text(json.dumps(told))
    return folder


# a teacher beside the student


@pytest.mark.parametrize(
    ("kind", "rows"),
    [("token-classification", "validation-tags.jsonl"), ("question-answering", "validation-questions.jsonl")],
)
def test_a_teacher_with_a_tokenizer_of_its_own_is_compared_at_its_own_tokens(
    kind: str, rows: str, place: Path, tmp_path: Path
) -> None:
    student = save(place, tmp_path / "student", kind)
    teacher = save(place, tmp_path / "teacher", kind, "letters.txt", length=32)
    [artifact] = export_folder(student, QUIET, tmp_path / "export", rows, teacher, data_root=place)
    for row, folder in zip(artifact.rows, (teacher, student), strict=True):
        expected = evaluate_folder(folder, rows, data_root=place)
        del expected["loss"]
        assert {name: row[name] for name in expected} == pytest.approx(expected)


def test_a_run_scores_such_a_teacher_at_its_own_tokens_too(place: Path, tmp_path: Path) -> None:
    """A teacher of whom only hidden states are looked at may read other tokens."""
    teacher = save(place, tmp_path / "teacher", "token-classification", "letters.txt")
    stage = {"name": "a", "plugins": ["layers"], "updates": 1, "batch_size": 8}
    layers = {"kd": "none", "hidden": {"pkd": 1.0}}
    tables = tagging(
        teacher={"model": str(teacher)},
        student={"config": bert(1, 16), "tokenizer": "vocab.txt"},
        stage=[{**stage, "layers": layers}],
        export={"plugins": ["onnx"], **QUIET},
    )
    result = potstill.run(tables, folder=tmp_path / "run", data_root=place)
    expected = evaluate_folder(teacher, "validation-tags.jsonl", data_root=place)
    assert result.stages["a"]["teacher"]["metrics"] == pytest.approx(expected)
    row = json.loads((tmp_path / "run/export/onnx.json").read_text())["rows"][0]
    assert (row["model"], row["accuracy"]) == ("teacher (onnx)", pytest.approx(expected["accuracy"]))
    tables = asking(
        teacher={"model": str(save(place, tmp_path / "qa", "question-answering", "letters.txt"))},
        student={"config": bert(1, 16), "tokenizer": "vocab.txt"},
        stage=[{**stage, "layers": layers}],
    )
    with pytest.raises(ModelError, match=r"^The task 'question-answering' makes \d+ rows .* must share a tokenizer"):
        potstill.run(tables, folder=tmp_path / "refused", data_root=place)


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        ("question-answering", "token-classification"),
        ("token-classification", "question-answering"),
        ("multi-label", "token-classification"),
        ("multi-label", "text-classification"),
    ],
)
@pytest.mark.parametrize("card", [True, False])
def test_an_export_compares_with_no_teacher_of_another_task(
    kind: str, other: str, card: bool, place: Path, tmp_path: Path
) -> None:
    model = save(place, tmp_path / "model", kind)
    teacher = save(place, tmp_path / "teacher", other, card=card)
    with pytest.raises(ModelError, match=rf"teacher was made for the task '{other}', and this one is '{kind}'; name a"):
        export_folder(model, QUIET, tmp_path / "export", "rows.csv", teacher, data_root=place)


# .onnx files


def graph(path: Path, *shape: Any, name: str = "input_ids", vocabulary: int | None = None) -> Path:
    """An ONNX file that gives logits of this shape, [batch, classes] or [batch, sequence, classes]."""
    nodes = [
        helper.make_node("Cast", [name], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["numbers", "last"], ["column"]),
        helper.make_node("MatMul", ["column", "weight"], ["each"]),
        helper.make_node("ReduceMean", ["each", "middle"], ["mean"], keepdims=0),
        helper.make_node("Identity", ["each" if len(shape) == 3 else "mean"], ["logits"]),
    ]
    constants = {"last": torch.tensor([2]), "middle": torch.tensor([1]), "weight": torch.ones(1, shape[-1])}
    made = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value.numpy(), key) for key, value in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if vocabulary is not None:
        helper.set_model_props(model, {"potstill.vocab_size": str(vocabulary)})
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("kind", "shape", "told"),
    [
        (
            "question-answering",
            ("batch", "sequence", 7),
            r"gives \[batch, sequence, 7\], and the logits of the task 'question-answering' are \[batch, seq, 2\]",
        ),
        ("token-classification", ("batch", "sequence", 2), r"gives .* 'token-classification' are \[batch, seq, 7\]"),
        ("token-classification", ("batch", 7), r"gives \[batch, 7\], .* are \[batch, seq, 7\]"),
        ("multi-label", ("batch", "sequence", 3), r"gives .* of the task 'multi-label' are \[batch, 3\]"),
        ("text-classification", ("batch", 4), r"gives \[batch, 4\], .* are \[batch, 3\]"),
    ],
)
def test_an_onnx_file_of_another_task_is_refused_when_it_is_opened(
    kind: str, shape: Sequence[Any], told: str, place: Path, tmp_path: Path
) -> None:
    folder = save(place, tmp_path, kind)
    with pytest.raises(ModelError, match=rf"model\.onnx {told}; it is not the file that was exported into this folder"):
        open_saved(graph(folder / "model.onnx", *shape))


def test_an_onnx_file_that_reads_otherwise_is_refused_when_it_is_opened(place: Path, tmp_path: Path) -> None:
    folder = save(place, tmp_path, "text-classification")
    with pytest.raises(ModelError, match="reads 'pixels', and the tokenizer beside it makes input_ids, attention_mask"):
        open_saved(graph(folder / "model.onnx", "batch", 3, name="pixels"))
    with pytest.raises(ModelError, match=r"knows 9 tokens, and the tokenizer beside it has \d+; it is not the file"):
        open_saved(graph(folder / "model.onnx", "batch", 3, vocabulary=9))
    [told] = predict(graph(folder / "model.onnx", "batch", 3, vocabulary=500), ["wave"])
    assert told["score"] == pytest.approx(1 / 3)


def test_an_onnx_file_alone_is_told_what_lacks_beside_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^Beside .*model\.onnx there is no potstill\.json that says what it was"):
        open_saved(graph(tmp_path / "model.onnx", "batch", 3))


# what another program saved


def test_questions_are_put_to_a_model_that_another_program_saved(place: Path, tmp_path: Path) -> None:
    folder = save(place, tmp_path, "question-answering", card=False)
    [told] = predict(folder, [("wave", "the old wave tide")])
    assert told["answer"]
    assert "the old wave tide"[told["start"] : told["end"]] == told["answer"]
    rows = [*predict(folder, place / "validation-questions.jsonl")]
    assert len(rows) == 24
    with pytest.raises(UserError, match=r"reads pairs of texts; give the second one too \(--text-pair\)"):
        next(predict(folder, ["wave"]))


def test_such_a_model_is_measured_on_questions_without_an_answer_where_a_card_says_so(
    place: Path, tmp_path: Path
) -> None:
    folder = save(place, tmp_path, "question-answering", card=False)
    with pytest.raises(DataError, match=r"for a saved model, write (.*) into its potstill\.json") as error:
        evaluate_folder(folder, "validation-questions.jsonl", data_root=place)
    written = str(error.value).partition("write ")[2].partition(" into")[0]
    (folder / "potstill.json").write_text(written)
    assert "unanswerable_accuracy" in evaluate_folder(folder, "validation-questions.jsonl", data_root=place)


def test_words_and_tags_are_the_usual_columns_of_a_tagger_that_another_program_saved(
    place: Path, tmp_path: Path
) -> None:
    folder = save(place, tmp_path, "token-classification", card=False)
    assert "f1" in evaluate_folder(folder, "validation-tags.jsonl", data_root=place)
