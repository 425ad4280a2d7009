"""Runs on running text: every row once on any number of processes, exact after a kill, wrong recipes in a sentence."""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tomli_w
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import potstill.cli
from potstill.collate import Collation
from potstill.data.batching import by_files
from potstill.data.examples import has_labels
from potstill.errors import RecipeError
from potstill.testing import assert_resumes_exactly, stage_of, weights
from potstill.testing.stages import engine_of
from potstill.testing.tiny import bert, recipe
from tests.corpora import language, texts, write_corpus, write_text
from tests.nursery import Nursery


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(0, 12), min_size=1, max_size=9), size=st.integers(1, 7), epoch=st.integers(0, 3))
def test_by_files_every_row_is_in_one_batch_and_a_file_s_rows_stay_in_order(
    sizes: list[int], size: int, epoch: int
) -> None:
    files = np.cumsum([0, *sizes])
    batches = by_files(files, size, seed=1, epoch=epoch)
    order = np.concatenate([np.zeros(0, int), *batches])
    assert sorted(order.tolist()) == list(range(files[-1]))
    assert all(len(batch) == size for batch in batches[:-1])
    for begin, end in itertools.pairwise(files):
        places = np.flatnonzero((order >= begin) & (order < end))
        assert order[places].tolist() == list(range(begin, end))
        assert (np.diff(places) == 1).all()


def test_the_order_of_files_changes_with_seed_and_epoch() -> None:
    files = np.arange(0, 110, 10)
    orders = {tuple(np.concatenate(by_files(files, 10, seed=s, epoch=e))) for s in (0, 1) for e in (0, 1)}
    assert len(orders) == 4


@pytest.mark.parametrize("order", ["shuffled", "files"])
def test_every_row_is_seen_once_an_epoch_on_one_two_and_three_processes(
    order: str, place: Path, tmp_path: Path
) -> None:
    stage = stage_of(language({}, order=order), place, tmp_path)
    rows = stage.examples("train")
    assert rows is not None
    for world in (1, 2, 3):
        for epoch in (0, 1):
            seen: Counter[int] = Counter()
            for rank in range(world):
                stage.context.ranks.rank, stage.context.ranks.world = rank, world
                collation = Collation(stage, rows)
                for group in stage.batches(rows, epoch):
                    for part in group:
                        seen.update(collation.batch(part, epoch).index.tolist())
            assert seen == Counter(range(len(rows))), (world, epoch)
    stage.exit.close()


def test_file_by_file_a_batch_holds_neighbours(place: Path, tmp_path: Path) -> None:
    stage = stage_of(language({}, order="files"), place, tmp_path)
    rows = stage.examples("train")
    assert rows is not None
    [first] = stage.batches(rows, 0)[0]
    assert np.diff(first).tolist() == [1] * 4
    stage.exit.close()


@pytest.mark.parametrize("order", ["shuffled", "files"])
def test_a_run_on_a_corpus_resumes_exactly_in_the_middle_of_an_epoch(order: str, place: Path, tmp_path: Path) -> None:
    tables = language({"checkpoint_every": 7}, order=order, layout="cut")
    result = assert_resumes_exactly(tables, data=place, folder=tmp_path, stage="mlm", after=16)
    assert result.metrics["perplexity"] > 1
    assert result.stages["mlm"]["rows"] > 80


def test_two_and_three_processes_give_one_s_losses_and_weights(nursery: Nursery, place: Path, tmp_path: Path) -> None:
    tables = language({"epsilon": 1e-4, "plugins": ["accumulate"], "accumulate": {"batches": 2}}, order="files")
    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps(tables))
    losses = {}
    for ranks in (1, 2, 3):
        folder = tmp_path / str(ranks)
        launch = nursery.launch("run", path, "--data-root", place, "--folder", folder, ranks=ranks)
        assert launch.wait(120) == [0] * ranks, launch.errors
        lines = (folder / "stages/01-mlm/metrics.jsonl").read_text().splitlines()
        losses[ranks] = [line["loss"] for line in map(json.loads, lines) if "loss" in line]
    assert len(losses[1]) > 15
    for ranks in (2, 3):
        torch.testing.assert_close(torch.tensor(losses[ranks]), torch.tensor(losses[1]), rtol=1e-5, atol=1e-5)
        theirs = weights(tmp_path / str(ranks), "mlm")
        for name, value in weights(tmp_path / "1", "mlm").items():
            torch.testing.assert_close(theirs[name], value, rtol=1e-5, atol=1e-6)


def test_a_killed_run_of_two_processes_loses_and_repeats_nothing(nursery: Nursery, place: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps(language({"checkpoint_every": 5, "epochs": 4})))
    words = ("run", path, "--data-root", place, "--folder")
    launch = nursery.launch(*words, tmp_path / "whole", ranks=2)
    assert launch.wait(120) == [0, 0], launch.errors
    launch = nursery.launch(*words, tmp_path / "killed", ranks=2)
    log = tmp_path / "killed/stages/01-mlm/metrics.jsonl"
    while not (log.is_file() and len(log.read_bytes().splitlines()) > 8):
        pass
    launch.kill(1)
    assert launch.wait(60) != [0, 0]
    launch = nursery.launch(*words, tmp_path / "killed", ranks=2)
    assert launch.wait(120) == [0, 0], launch.errors
    name = "stages/01-mlm/metrics.jsonl"
    assert (tmp_path / "killed" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_unlabelled_text_teaches_through_a_teacher_of_a_task_with_labels(place: Path, tmp_path: Path) -> None:
    tables = recipe("minilm", student={"config": bert(1, 32)})
    tables["stage"][1].update(
        evaluate=False, epochs=1, data={"train": "books", "corpus": {"min_tokens": 4, "layout": "pack"}}
    )
    result = potstill.run(tables, data_root=place, folder=tmp_path / "run")
    assert result.stages["distil"]["rows"] > 40
    assert result.stages["teacher"]["rows"] == 96


def test_the_counts_of_words_come_from_the_shards(place: Path, tmp_path: Path) -> None:
    tables = language({"plugins": ["distilbert"]}, order="files")
    tables["teacher"] = {"config": bert(2, 16), "tokenizer": "vocab.txt"}
    train = {"name": "teach", "trains": "teacher", "updates": 2, "batch_size": 4}
    tables["stage"] = [train, tables["stage"][0]]
    assert potstill.run(tables, data_root=place, folder=tmp_path / "run").stages["mlm"]["updates"] > 30
    tables["stage"][1]["distilbert"] = {"group_by_length": True}
    with pytest.raises(RecipeError, match="group_by_length and data.corpus.order = 'files' both order the"):
        potstill.run(tables, data_root=place, folder=tmp_path / "other")


def test_another_number_of_workers_is_the_same_run(place: Path, tmp_path: Path) -> None:
    first = potstill.run(language({"updates": 3}), data_root=place, folder=tmp_path / "one")
    again = language({"updates": 3}, workers=2)
    second = potstill.run(again, data_root=place, folder=tmp_path / "two", reuse=[first.folder])
    assert second.stages["mlm"]["key"] == first.stages["mlm"]["key"]


def test_labels_of_many_rows_are_looked_at_all_at_once() -> None:
    many = np.broadcast_to(np.array([-100]), (5_000_000,))
    assert not has_labels(many)
    assert has_labels(np.broadcast_to(np.array([0]), (5_000_000,)))
    assert not has_labels(np.broadcast_to(np.array([np.nan]), (5_000_000,)))


def test_the_engine_s_batches_are_the_corpus_s_tokens(place: Path, tmp_path: Path) -> None:
    engine = engine_of(language({}, layout="cut"), place, tmp_path)
    batch = engine.train_rows.batch([0, 3])
    lines = (place / "books/0.txt").read_text().splitlines()
    tokenizer = engine.stage.student.tokenizer
    kept = [line for line in lines if len(line.split()) >= 2]
    for row, line in zip(batch.student["input_ids"], (kept[0], kept[3]), strict=True):
        assert tokenizer.decode(row, skip_special_tokens=True) == " ".join(line.split()[:14])
    assert batch.student.keys() == {"input_ids", "token_type_ids", "attention_mask"}
    engine.stage.exit.close()


Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """A command on a recipe's tables: exit code, standard output and standard error."""

    def run(command: str, tables: dict[str, Any], *words: str) -> tuple[int, str, str]:
        path = tmp_path / "recipe.toml"
        path.write_text(tomli_w.dumps(tables))
        capsys.readouterr()
        code = potstill.cli.main([command, str(path), "--data-root", str(place), *words])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def test_prepare_tells_what_became_of_the_text_and_run_finds_it_done(call: Call, tmp_path: Path) -> None:
    tables = language({"updates": 2}, min_tokens=6)
    code, out, _ = call("prepare", tables, "--stats")
    assert code == 0
    assert "data.train = 'books'\n  93 documents → " in out
    assert "short ones dropped" in out
    assert "data.validation = 'held-out.txt'" in out
    assert "unknown 0.000%" in out
    code, out, err = call("run", tables, "--folder", str(tmp_path / "run"))
    assert code == 0
    assert "93 documents" not in err
    code, out, _ = call("prepare", tables, "--json", "--stats")
    [train, held_out] = json.loads(out)
    assert (train["split"], held_out["split"]) == ("train", "validation")
    assert train["documents"] == 93
    assert train["sequences"] + train["dropped"]["short"] >= 93
    assert sum(count for _, _, count in train["lengths"]) == train["sequences"]
    assert sum(train["frequent"].values()) <= 1
    assert list(train["frequent"])[:2] == ["[CLS]", "[SEP]"]


def test_prepare_takes_rows_with_labels_too(call: Call) -> None:
    code, out, _ = call("prepare", recipe("hinton"), "--json", "--stats")
    assert code == 0
    train, validation = json.loads(out)
    assert (train["sequences"], validation["sequences"]) == (96, 40)


def test_a_plan_of_a_corpus_counts_its_rows(call: Call) -> None:
    code, out, _ = call("plan", language({}, order="files"), "--json")
    assert code == 0
    assert json.loads(out)["stages"][0]["rows"] > 80


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "pairs": ({"data": {"text_pair": "other"}}, "'text_pair' and the table 'corpus' are both given"),
    "labelled rows": ({"data": {"labelled_rows": 3}}, "'labelled_rows' and the table 'corpus' are both given"),
    "a layout": ({"corpus": {"layout": "joined"}}, "'layout' = 'joined' should be 'split', 'pack' or 'cut'"),
    "a key": ({"corpus": {"min_token": 3}}, "unknown key 'min_token'. Did you mean 'min_tokens'?"),
    "no share": ({"corpus": {"max_unknown": 0.0}}, "'max_unknown' = 0.0 should be greater than 0"),
    "workers": ({"corpus": {"workers": -1}}, "'workers' = -1 should be greater than or equal to 0"),
    "longer than all": ({"corpus": {"min_tokens": 17}}, "min_tokens = 17 is more than max_length = 16"),
    "no room": ({"data": {"max_length": 3}}, "max_length = 3 leaves no room for text"),
    "more than the model reads": ({"data": {"max_length": 99}}, "the student reads 32 tokens a row at most"),
    "a table for text": ({"data": {"corpus": 3}}, "[data.corpus]: should be a table"),
    "no such file": ({"data": {"train": "boks"}}, "data.train = 'boks'"),
    "a csv": ({"data": {"train": "train.csv"}}, "ends in '.csv'; running text may end in .txt"),
    "nothing beside a plus": ({"data": {"train": "books + "}}, "has nothing beside a '+'"),
    "a file twice": ({"data": {"train": "books + books/1.txt"}}, "a second time (first in 'books')"),
    "a split of a file": ({"data": {"train": "books/1.txt::train"}}, "a file has no splits"),
    "a split of a folder": ({"data": {"train": "books::dev"}}, "holds no text of 'dev'"),
    "labels to learn": ({"task": {"kind": "text-classification", "labels": ["a", "b"]}}, "No row of data.validation"),
    "all unknown": ({"data": {"train": "unknown.txt"}}, "leaves no sequence: 2 documents → 0 sequences"),
    "a bad line": ({"data": {"train": "bad.txt"}}, 'line 2: the line holds a NUL byte, which text does not (data.'),
    "a folder of damaged files": ({"data": {"train": "damaged"}}, "is not a readable Parquet file"),
    "a pipe": ({"data": {"train": "pipe.txt"}}, "is no file that holds text, but a device, a pipe or a folder"),
    "a link to itself": ({"data": {"train": "loop.txt"}}, "loop.txt cannot be read: Too many levels of symbolic links"),
    "brackets": ({"data": {"train": "deep.json"}}, "deep.json"),
    "no user's folder": ({"data": {"train": "~nobody-here/a.txt"}}, "there is no file or folder"),
    "no UTF-8 name": ({"data": {"train": "names"}}, "has a name that is no UTF-8 text; rename the file"),
    "a column of numbers": ({"data": {"train": "numbers.parquet"}}, "column 'text' (data.text) holds int64, not text"),
    "no field": ({"data": {"train": "rows.jsonl", "text": "body"}}, "there is no field 'body' (data.text)"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("command", ["prepare", "run"])
def test_what_is_wrong_is_one_sentence(command: str, wrong: str, call: Call, place: Path) -> None:
    write_text(place / "unknown.txt", ["zzz yyy xxx www", "zzz zzz zzz zzz"])
    (place / "bad.txt").write_bytes(b"wave\nti\0de\n")
    write_text(place / "damaged/a.parquet", ["no Parquet"])
    write_text(place / "rows.jsonl", ['{"text": "wave tide"}'])
    write_text(place / "deep.json", ["[" * 100_000])
    pq.write_table(pa.table({"text": [1, 2]}), place / "numbers.parquet")
    (place / "names").mkdir(exist_ok=True)
    Path(os.fsdecode(os.fsencode(place / "names") + b"/f\xfc.txt")).write_text("wave tide")
    if not os.path.lexists(place / "pipe.txt"):
        os.mkfifo(place / "pipe.txt")
        (place / "loop.txt").symlink_to("loop.txt")
    tables, (changes, sentence) = language({"updates": 1}), WRONG[wrong]
    for name, table in changes.items():
        target = tables["data"] if name in ("data", "corpus") else tables
        key = "corpus" if name == "corpus" else name
        if name == "data":
            target.update(table)
        else:
            target[key] = {**target.get(key, {}), **table}
    words = ("--folder", str(place / "never")) if command == "run" else ()
    code, _, err = call(command, tables, "--quiet", *words)
    assert code == 2, err
    assert sentence in err
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err


@pytest.mark.parametrize("bad_rows", ["refuse", "skip"])
def test_a_cache_that_is_a_file_is_told_and_no_damage_of_the_text(
    bad_rows: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "file"))
    code, _, err = call("prepare", language({"updates": 1}, bad_rows=bad_rows), "--quiet")
    assert code == 2
    assert err.startswith(f"'{tmp_path}/file', where tokens are kept, is no folder; set POTSTILL_CACHE to another")


def test_teacher_and_student_share_a_tokenizer_on_a_corpus(call: Call, place: Path) -> None:
    (place / "other.txt").write_text((place / "vocab.txt").read_text() + "zzz\n")
    tables = language({"updates": 1, "plugins": ["minilm"]})
    tables["teacher"] = {"config": bert(1, 16), "tokenizer": "other.txt"}
    code, _, err = call("run", tables, "--quiet", "--folder", str(place / "never"))
    assert code == 2
    assert "share" in err
    assert "tokenizer" in err


def test_damaged_rows_and_files_are_left_out_and_counted_where_the_recipe_allows_it(call: Call, place: Path) -> None:
    folder = place / "mixed"
    write_text(folder / "a.txt", texts(5))
    (folder / "b.txt").write_bytes(b"wave tide sail\n\xff\xff\nreef storm deck\n")
    write_text(folder / "c.parquet", ["no Parquet"])
    write_text(folder / "d.jsonl", ['{"text": "wave tide sail"}', '{"text": 5}', "{", '{"other": "a"}'])
    write_text(folder / "picture.png", ["x"])
    tables = language({"updates": 1}, bad_rows="skip")
    tables["data"]["train"] = "mixed"
    code, out, _ = call("prepare", tables, "--json")
    [train, _] = json.loads(out)
    assert code == 0
    assert (train["documents"], train["damaged"], len(train["bad"])) == (8, 5, 5)
    assert all(str(folder) in told for told in train["bad"])
    code, out, _ = call("prepare", tables)
    assert "4 damaged rows left out, such as" in out
    assert "1 damaged files left out, such as" in out
    assert "1 other files left aside" in out
