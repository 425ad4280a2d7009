"""distilbert and any other plugin on a masked language model over running text: trains, resumes exactly, exports."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest

import potstill
from potstill.errors import UserError
from potstill.exporting import export_folder
from potstill.testing import assert_resumes_exactly
from potstill.testing.tiny import bert
from tests.composition.plugins import OPTIONS, together
from tests.corpora import language, write_corpus

REFUSED = {"bilstm": "has one answer a row", "pp_minilm": "both want the slot 'masking'"}
"""A BiLSTM has no answer for each token; relations are those of a text without masks."""
BESIDE = [name for name in OPTIONS if name not in REFUSED]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder "books" of sentences, and a trained masked language model of four layers in "teacher"."""
    place = write_corpus(tmp_path_factory.mktemp("language"))
    tables = language({"epochs": 3, "batch_size": 8, "learning_rate": 1e-2})
    tables["student"]["config"] = bert(4)
    potstill.run(tables, folder=place / "run", data_root=place)
    (place / "run/model").rename(place / "teacher")
    shutil.rmtree(place / "run")
    return place


def recipe(other: str, **stage: Any) -> dict[str, Any]:
    """`together` of distilbert and another plugin, on the corpus."""
    tables, running = together(("distilbert", other), "teacher", **stage), language({})
    return {**tables, "task": running["task"], "data": running["data"]}


@pytest.mark.parametrize("other", BESIDE)
def test_distilbert_and_another_train_resume_exactly_and_export_with_parity(
    other: str, corpus: Path, tmp_path: Path
) -> None:
    after = random.Random(other).randint(1, 4)
    result = assert_resumes_exactly(recipe(other), data=corpus, folder=tmp_path, stage="distil", after=after)
    assert result.stages["distil"]["updates"] == 5
    onnx = {"quantize": False, "time": False, "teacher": False}
    [artifact] = export_folder(
        tmp_path / "whole/model", {"onnx": onnx}, tmp_path / "export", data_root=corpus, validation="held-out.txt"
    )
    [parity] = artifact.facts["parity"].values()
    assert parity["max_difference"] < 1e-5
    assert parity["onnx"]["perplexity"] == pytest.approx(parity["torch"]["perplexity"], rel=1e-5)


@pytest.mark.parametrize("other", REFUSED)
def test_what_makes_no_sense_beside_distilbert_is_refused_in_a_sentence(
    other: str, corpus: Path, tmp_path: Path
) -> None:
    (corpus / "characters.txt").write_text("<PAD>\n<UNK>\n \na\nb\n")
    with pytest.raises(UserError, match=REFUSED[other]):
        potstill.run(recipe(other), folder=tmp_path / "run", data_root=corpus)
