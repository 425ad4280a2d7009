"""More causes of wrong input from the command line; and that a model's own code and pickles are never run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tomli_w
import torch

from potstill.testing.tiny import student_only, write_data
from tests.wrong import LABELS, Run, caller, composed, save_model, told

TWO = {"label": ["sea", "wood"]}


class Evil:
    """Makes a file where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("ran",))


def write_files(root: Path) -> None:
    late = [f"café {row},sea\n".encode("latin-1" if row == 20_000 else "utf-8") for row in range(20_100)]
    files: dict[str, str | bytes] = {
        "half.csv": "text,label\n海浪,sea\n".encode() * 40 + "橡树,wood\n".encode("gbk") * 40,
        "late.csv": b"text,label\n" + b"".join(late),
        "utf16-bare.csv": "text,label\nwave,sea\n".encode("utf-16-le"),
        "gbk.jsonl": '{"text":"海","label":"sea"}\n'.encode("gbk"),
        "semicolons.csv": "text;label\nwave;sea\n",
        "cut.json": '[{"text": "a", "label": "sea"}, {"text": "b", "la',
        "behind.json": '[{"text": "a", "label": "sea"}] x',
        "table.json": '{"data": [{"text": "a", "label": "sea"}]}',
        "numbers.json": "[1, 2]",
        "list-label.jsonl": '{"text": "a", "label": ["sea"]}\n',
        "textless-row.jsonl": '{"text": "a", "label": "sea"}\n{"label": "sea"}\n',
        "labelless.jsonl": '{"text": "a"}\n',
        "train.csv.gz": b"\x1f\x8b",
        "twice.txt": "sea\nsea\nwood\n",
        "list.toml": "[[",
    }
    for name, content in files.items():
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    tables: dict[str, dict[str, Any]] = {
        "bytes": {"text": [b"a", b"b"], **TWO},
        "lists": {"text": [["a"], ["b"]], **TWO},
        "gap": {"text": ["a", None], **TWO},
        "list-labels": {"text": ["a", "b"], "label": [["sea"], ["wood"]]},
        "sentence": {"sentence": ["a", "b"], **TWO},
        "none": {"text": pa.array([], pa.string()), "label": pa.array([], pa.string())},
        "nulls": {"text": pa.array([None, None], pa.null()), **TWO},
        "whole": {"text": ["a", "b"], **TWO},
    }
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), root / f"{name}.parquet")
    whole = (root / "whole.parquet").read_bytes()
    (root / "footless.parquet").write_bytes(whole[:-100])
    (root / "folder.csv").mkdir()


def write_models(root: Path) -> None:
    save_model(root / "teacher", LABELS)
    config = json.loads((root / "teacher" / "config.json").read_text())
    for name in ("disguised", "disguised-zip", "shardless", "cut-words", "own-code", "own-words", "kindless", "huge"):
        shutil.copytree(root / "teacher", root / name)
    (root / "disguised" / "model.safetensors").write_bytes(pickle.dumps(Evil()))
    torch.save({"weight": Evil()}, root / "disguised-zip" / "model.safetensors")
    (root / "shardless" / "model.safetensors").rename(root / "shardless" / "model-00001-of-00002.safetensors")
    shards = {"metadata": {}, "weight_map": {"classifier.weight": "model-00002-of-00002.safetensors"}}
    (root / "shardless" / "model.safetensors.index.json").write_text(json.dumps(shards))
    os.truncate(root / "cut-words" / "tokenizer.json", 300)
    own = {"AutoConfig": "mine.Config", "AutoModelForSequenceClassification": "mine.Model"}
    changes: dict[str, dict[str, Any]] = {
        "own-code": {**config, "model_type": "mine", "auto_map": own},
        "kindless": {key: value for key, value in config.items() if key != "model_type"},
        "huge": {**config, "hidden_size": 48},
    }
    for name, changed in changes.items():
        (root / name / "config.json").write_text(json.dumps(changed))
    words = json.loads((root / "own-words" / "tokenizer_config.json").read_text())
    words |= {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Words", "mine.Words"]}}
    (root / "own-words" / "tokenizer_config.json").write_text(json.dumps(words))
    for name in ("own-code", "own-words"):
        (root / name / "mine.py").write_text("import os\nos.mkdir('ran')\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_data(tmp_path_factory.mktemp("faults"), train=24, validation=12)
    write_files(root)
    write_models(root)
    return root


@pytest.fixture
def run(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return caller(place, tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("half.csv", "half.csv, line 81: byte 880 (0xcf) is not UTF-8; save the file as UTF-8."),
        ("late.csv", "late.csv, line 20002: byte 308904 (0xe9) is not UTF-8"),
        ("utf16-bare.csv", "begins with a zero byte, as UTF-16 does; save the file as UTF-8"),
        ("gbk.jsonl", "gbk.jsonl, line 1: byte 9 (0xba) is not UTF-8"),
        ("semicolons.csv", "its columns are 'text;label'"),
        ("cut.json", "row 2: this is not valid JSON (Unterminated string starting at, at character 46)"),
        ("behind.json", "there is more behind the array's end, at character 32"),
        ("table.json", "has no column 'text' (data.text); its columns are 'data'"),
        ("numbers.json", "row 1: 1 is not an object with columns"),
        ("list-label.jsonl", "row 1: the label ['sea'] is none of the 3 labels"),
        ("textless-row.jsonl", "line 2, has no column 'text'"),
        ("labelless.jsonl", "has no column 'label' (data.label)"),
        ("train.csv.gz", "ends in '.gz'; files may end in .csv"),
        ("bytes.parquet", "row 1: the text 'text' is b'a', not text"),
        ("lists.parquet", "row 1: the text 'text' is ['a'], not text"),
        ("gap.parquet", "row 2: the text 'text' is missing"),
        ("list-labels.parquet", "row 1: the label ['sea'] is none of the 3 labels"),
        ("sentence.parquet", "its columns are 'sentence', 'label'"),
        ("none.parquet", "none.parquet holds no rows"),
        ("nulls.parquet", "row 1: the text 'text' is missing"),
        ("footless.parquet", "is not a readable Parquet file"),
        ("folder.csv", "the folder"),
    ],
)
def test_a_data_file_that_cannot_be_used_is_a_sentence(run: Run, file: str, sentence: str) -> None:
    assert sentence in told(run, *composed("--set", f"task.labels={LABELS}", train=file))


@pytest.mark.parametrize(
    ("folder", "sentence"),
    [
        ("disguised", "are cut short or no safetensors"),
        ("disguised-zip", "are cut short or no safetensors"),
        ("shardless", "model-00002-of-00002.safetensors"),
        ("cut-words", "The tokenizer 'cut-words' could not be loaded"),
        ("own-code", "needs code of its own; set trust_remote_code = true in its table if you trust it"),
        ("kindless", "Should have a `model_type` key in its config.json"),
        ("huge", "has weights of another shape than its config.json and this task ask for"),
        ("an/unknown-model", "is neither a folder here nor could it be fetched from the hub"),
    ],
)
def test_a_model_that_cannot_be_used_is_a_sentence_and_runs_no_code(
    run: Run, place: Path, folder: str, sentence: str
) -> None:
    said = told(run, *composed(teacher=folder)).replace(f"{place}/", "")
    assert sentence in said
    assert not (place / "ran").exists()


def test_a_tokenizers_own_code_is_not_run(run: Run, place: Path) -> None:
    code, said = run(*composed("--set", "stage.distil.updates=1", teacher="own-words"))
    assert (code, said) == (0, "")
    assert not (place / "ran").exists()


def test_the_code_of_a_model_that_the_recipe_trusts_is_run(run: Run, place: Path) -> None:
    run(*composed("--set", "teacher.trust_remote_code=true", teacher="own-code"))
    assert (place / "ran").is_dir()
    (place / "ran").rmdir()


def test_a_label_twice_in_the_file_of_labels_is_a_sentence(run: Run) -> None:
    assert "task.labels names 'sea' more than once" in told(run, *composed("--set", "task.labels=twice.txt"))


def test_nothing_of_the_users_is_written_over(run: Run, tmp_path: Path) -> None:
    files = {
        "mine/recipe.toml": "# mine\n" + tomli_w.dumps(student_only()),
        "export/onnx.json": '{"files": [], "facts": {}}',
        "export/notes.md": "mine",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    here = ["run", "{tmp}/mine/recipe.toml", "--folder", "{tmp}/mine", "--data-root", ".", "--quiet"]
    exported = ["export", "teacher", "-p", "onnx", "--validation", "validation.csv", "--out", "{tmp}/export"]
    for words, sentence in (
        (here, "is no run folder and holds a 'recipe.toml', which a run would replace; give another --folder"),
        ([*here, "--fresh"], "is no run folder; nothing was removed"),
        (composed("--save-recipe", "{tmp}/mine/recipe.toml"), "exists and holds something else; name another file"),
        (exported, "notes.md' is no earlier export's"),
    ):
        assert sentence in told(run, *words)
        assert {name: (tmp_path / name).read_text() for name in files} == files


def test_a_recipe_is_saved_again_where_it_is_the_same(run: Run, tmp_path: Path) -> None:
    words = composed("--save-recipe", "{tmp}/saved.toml", "--set", "stage.distil.updates=1")
    for _ in range(2):
        code, said = run(*words)
        assert code == 0, said
