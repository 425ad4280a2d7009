"""Questions in English and Chinese with a tokenizer of sentence pieces, as XLM-R's, from tokens to ONNX."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

import potstill
from potstill.context import tokenized
from potstill.data.source import open_source
from potstill.exporting import export_folder
from potstill.progress import Progress
from potstill.saved import evaluate_folder, predict
from potstill.settings import TaskConfig
from potstill.tasks import load_task

REAL = Path(os.environ.get("POTSTILL_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
pytestmark = pytest.mark.skipif(
    not REAL.is_dir(), reason="the real data sets are not here (POTSTILL_DATA names their folder)"
)
COLUMNS = {"text": "question", "text_pair": "context", "label": "answers"}
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first questions of both languages together, a file of each, and a tokenizer trained on their contexts."""
    place = tmp_path_factory.mktemp("xquad")
    tables = {name: pq.read_table(REAL / "xquad" / f"{name}.parquet").slice(0, 60) for name in ("en", "zh")}
    for name, table in tables.items():
        pq.write_table(table, place / f"{name}.parquet")
    both = pa.concat_tables(tables.values())
    pq.write_table(both, place / "both.parquet")
    pieces(both["context"].to_pylist() + both["question"].to_pylist()).save_pretrained(place / "words")
    return place


def pieces(texts: list[str]) -> Any:
    """Unigram pieces, spaces as "▁", and rows of the form <s> question </s></s> context </s>."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=1500, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    ends = [(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=ends
    )
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    rest = {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_input_names=["input_ids", "attention_mask"], **names, **rest
    )


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_model_that_knew_the_labels_would_answer_right(language: str, place: Path, tmp_path: Path) -> None:
    task = load_task(TaskConfig(kind="question-answering", stride=24, max_answer_tokens=60))
    source = open_source(f"{language}.parquet", COLUMNS, place, cache=tmp_path, shapes=task.shapes)
    notes: list[str] = []
    labels = task.read_labels(source, notes.append)
    words = PreTrainedTokenizerFast.from_pretrained(place / "words")
    rows = tokenized(source, task, words, None, 160, labels, tmp_path, Progress())
    assert notes == []
    assert len(rows) > len(source)  # some contexts are several windows
    starts, ends = rows.student.marks(np.arange(len(rows)), "start", "end")
    found: set[int] = set()
    kept = []
    for window, (first, last) in enumerate(rows.labels.tolist()):
        row = int(rows.origin[window])
        if first:
            covered = source.dataset[row]["text_pair"][starts[window][first] : ends[window][last]]
            assert source.dataset[row]["label"]["text"][0] in covered
            found.add(row)
        logits = torch.zeros(1, int(rows.lengths[window]), 2)
        logits[0, first, 0] = logits[0, last, 1] = 9 if first else 1
        kept.append(task.outcome(logits, rows.batch([window])))
    assert len(found) == len(source)
    scores = task.score([one for one, _ in kept], np.concatenate([numbers for _, numbers in kept]), rows)
    assert scores["f1"] > (0.97 if language == "en" else 0.93)  # a piece may reach beyond the answer's ends


def test_a_teacher_of_both_languages_distils_and_exports(place: Path, tmp_path: Path) -> None:
    def config(layers: int) -> dict[str, Any]:
        wide = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
        return {"model_type": "xlm-roberta", "num_hidden_layers": layers, "max_position_embeddings": 140, **wide}

    tables = {
        "task": {"kind": "question-answering", "stride": 24},
        "data": {"train": "both.parquet", "validation": "both.parquet", "max_length": 128, **COLUMNS},
        "teacher": {"config": config(2), "tokenizer": "words"},
        "student": {"config": config(1)},
        "stage": [
            {"name": "teacher", "trains": "teacher", "updates": 4, "evaluate": False},
            {"name": "distil", "plugins": ["hinton"], "updates": 4, "eval_batch_size": 32},
        ],
    }
    result = potstill.run(tables, folder=tmp_path / "run", data_root=place)
    assert 0 <= result.metrics["exact_match"] <= result.metrics["f1"] <= 1
    onnx = {"quantize": False, "time": False, "teacher": False}
    [artifact] = export_folder(tmp_path / "run/model", {"onnx": onnx}, tmp_path / "export", data_root=place)
    assert artifact.facts["parity"]["student (onnx)"]["max_difference"] < 1e-4
    for language in ("en", "zh"):
        rows = place / f"{language}.parquet"
        in_torch, in_onnx = (
            evaluate_folder(model, str(rows)) for model in (tmp_path / "run/model", tmp_path / "export/model.onnx")
        )
        assert in_onnx == pytest.approx(in_torch, abs=1e-4)
        contexts = pq.read_table(rows)["context"].to_pylist()
        for told, context in zip(predict(tmp_path / "export/model.onnx", rows), contexts, strict=True):
            assert told["answer"] == context[told["start"] : told["end"]]
            assert told["answer"]
