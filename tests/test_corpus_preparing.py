"""From files to shards: the same sequences in any parts and threads, kept by content, whole or not at all."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, concatenate_datasets, load_from_disk
from transformers import PreTrainedTokenizerFast

from potstill.corpus import reading, shards, sources, table
from potstill.corpus.cleaning import Layout
from potstill.corpus.remote import Remote
from potstill.corpus.sources import Unit
from potstill.corpus.words import words_of
from potstill.errors import DataError, Interrupted
from potstill.progress import Progress, Stoppable
from potstill.testing.tiny import write_data
from potstill.tokenizers import load_tokenizer
from tests.corpora import LENGTH, made, prepared, sequences, texts, write_text
from tests.kill import left_over


@pytest.mark.parametrize("layout", ["split", "cut"])
@pytest.mark.parametrize(("part", "workers", "step"), [(1 << 20, 1, 1 << 18), (2000, 3, 500), (300, 2, 1)])
def test_sequences_are_those_that_the_tokenizer_gives_each_text(
    layout: Layout, part: int, workers: int, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "PART", part)
    monkeypatch.setattr(shards, "_CHARACTERS", step)
    given = texts(80)
    write_text(tmp_path / "a.txt", given)
    done = prepared("a.txt", tmp_path, layout=layout, workers=workers)
    tokenizer = load_tokenizer(str(tmp_path / "vocab.txt"), None)
    expected, room = [], LENGTH - 2
    for text in given:
        whole = tokenizer(text)["input_ids"]
        if len(whole) <= LENGTH:
            expected.append(whole)
        elif layout == "cut":
            expected.append([*whole[: LENGTH - 1], whole[-1]])
        else:
            first = [whole[: LENGTH - 2], *(whole[at : at + room] for at in range(room, len(whole), room))]
            for piece in first:
                piece = piece if piece[0] == whole[0] else [whole[0], *piece]
                expected.append(piece if piece[-1] == whole[-1] else [*piece, whole[-1]])
    expected = [row for row in expected if len(row) >= 3]
    assert sequences(done) == expected
    assert done.table.lengths.tolist() == [len(row) for row in expected]
    assert len(done.shards) == -(-(tmp_path / "a.txt").stat().st_size // part)
    size = len(tokenizer)
    counted = np.bincount(np.concatenate([np.array(row) for row in expected]), minlength=size)
    np.testing.assert_array_equal(done.table.counts(size), counted)
    np.testing.assert_array_equal(done.table.counts(7), counted[:7])


def test_the_first_rows_are_those_of_the_whole_and_no_file_behind_them_is_prepared(tmp_path: Path) -> None:
    for number in range(6):
        write_text(tmp_path / f"in/{number}.txt", texts(20, seed=number, words=12))
    few = prepared("in", tmp_path, rows=25, workers=1)
    assert len(few.shards) == 2
    whole = prepared("in", tmp_path)
    assert sequences(few) == sequences(whole)[:25]
    np.testing.assert_array_equal(
        few.table.counts(60), np.bincount(np.concatenate(sequences(few)).astype(int), minlength=60)
    )
    assert few.table.key != whole.table.key
    assert few.table.files[-1] == 25


def test_two_corpora_are_joined_without_tokenizing_again(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", texts(20, seed=1))
    write_text(tmp_path / "b.txt", texts(20, seed=2))
    a, b = (prepared(name, tmp_path) for name in ("a.txt", "b.txt"))
    before = made(tmp_path / "cache")
    both = prepared("a.txt + b.txt", tmp_path)
    assert sequences(both) == sequences(a) + sequences(b)
    assert made(tmp_path / "cache") == before
    assert not any(shard.made for shard in both.shards)
    assert both.table.files.tolist() == [0, len(a.table), len(both.table)]


def test_files_of_one_content_share_a_shard_and_all_count(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        write_text(tmp_path / name, texts(9))
    both = prepared("a.txt + b.txt", tmp_path, workers=2)
    assert len(made(tmp_path / "cache")) == 1
    once = sequences(prepared("a.txt", tmp_path))
    assert sequences(both) == once * 2


def test_another_length_layout_tokenizer_or_column_is_another_corpus(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", texts(9))
    keys = {prepared("a.txt", tmp_path).table.key for _ in range(2)}
    keys |= {prepared("a.txt", tmp_path, length=12).table.key, prepared("a.txt", tmp_path, layout="pack").table.key}
    keys.add(prepared("a.txt", tmp_path, min_tokens=4).table.key)
    lines = (tmp_path / "vocab.txt").read_text().splitlines()
    (tmp_path / "other.txt").write_text("\n".join([*lines, "zzz"]) + "\n")
    keys.add(prepared("a.txt", tmp_path, tokenizer=load_tokenizer(str(tmp_path / "other.txt"), None)).table.key)
    assert len(keys) == 5


def test_a_preparation_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    for number in range(40):  # many more than are taken up before the first of them is done
        write_text(tmp_path / f"in/{number:02d}.txt", texts(30, seed=number))
    asked = iter(range(1000))

    def stop() -> None:
        if next(asked) > 6:
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        prepared("in", tmp_path, workers=1, progress=Stoppable(Progress(), stop))
    before = made(tmp_path / "cache")
    assert 0 < len(before) < 40
    done = prepared("in", tmp_path)
    assert {name: when for name, when in made(tmp_path / "cache").items() if name in before} == before
    assert sequences(done) == sequences(prepared("in", tmp_path, cache=tmp_path / "other"))


SCRIPT = """
import sys
from pathlib import Path
from tests.corpora import prepared
from potstill.corpus import shards, sources
sources.PART, shards._CHARACTERS = 4000, 200
prepared("a.txt", Path(sys.argv[1]), workers=2)
"""


def test_a_killed_preparation_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PART", 4000)
    monkeypatch.setattr(shards, "_CHARACTERS", 200)
    write_text(tmp_path / "a.txt", texts(2500))
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=Path(__file__).parents[1])
    while len(made(tmp_path / "cache")) < 4 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {name: when for name, when in made(tmp_path / "cache").items() if not name.startswith(".")}
    assert len(before) < len(list(range(0, (tmp_path / "a.txt").stat().st_size, 4000))), "it was faster than the kill"
    done = prepared("a.txt", tmp_path)
    assert {name: when for name, when in made(tmp_path / "cache").items() if name in before} == before
    assert sequences(done) == sequences(prepared("a.txt", tmp_path, cache=tmp_path / "other"))
    assert left_over(tmp_path / "cache") == []


def test_nothing_left_is_an_error_that_says_what_became_of_it(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", ["", "  ", "wave", "zzz zzz zzz"])
    with pytest.raises(DataError) as nothing:
        prepared("a.txt", tmp_path, min_tokens=4, max_unknown=0.5)
    assert str(nothing.value) == (
        "data.train = 'a.txt' leaves no sequence: 4 documents → 0 sequences, 0 tokens, 2 empty documents dropped, "
        "1 short ones dropped, 1 mostly unknown ones dropped."
    )


def test_a_tokenizer_written_in_python_prepares_what_the_fast_one_does(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", texts(20))
    write_data(tmp_path)
    fast = load_tokenizer(str(tmp_path / "vocab.txt"), None)

    class Slow:
        """The same words without a backend."""

        def __init__(self, inner: PreTrainedTokenizerFast) -> None:
            self._inner = inner
            self.init_kwargs: dict[str, object] = {}

        def __getattr__(self, name: str) -> object:
            if name == "backend_tokenizer":
                raise AttributeError(name)
            return getattr(self._inner, name)

        def __call__(self, *given: object, **more: object) -> object:
            return self._inner(*given, **more)

    slow = Slow(fast)
    assert words_of(slow).backend is None
    one, other = prepared("a.txt", tmp_path), prepared("a.txt", tmp_path, tokenizer=slow)
    assert sequences(one) == sequences(other)
    assert one.table.key != other.table.key


def test_a_stream_of_files_is_read_without_a_copy(tmp_path: Path) -> None:
    given = {number: texts(7, seed=number) for number in range(3)}
    (tmp_path / "in").mkdir()
    for number, rows in given.items():
        lines = "".join(json.dumps({"body": row}) + "\n" for row in rows)
        (tmp_path / f"in/train-{number}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    remote = Remote(str(tmp_path / "in"), None, "train", None)
    assert (remote.files, remote.columns) == (3, ["body"])
    for number, rows in given.items():
        unit = Unit("data.train = 'some/where'", "stream", number, number + 1, "", None, remote)
        assert list(shards.documents(unit, "body")) == rows
    missing = Unit("data.train = 'some/where'", "stream", 0, 1, "", None, remote)
    assert str(next(shards.documents(missing, "text"))) == (
        "data.train = 'some/where', file 1, row 1: the text 'text' is missing."
    )


def test_rows_are_read_right_where_few_shards_are_mapped_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        write_text(tmp_path / f"in/{number}.txt", texts(5, seed=number))
    done = prepared("in", tmp_path)
    whole = sequences(done)
    monkeypatch.setattr(table, "_MAPS", 2)
    order = np.random.default_rng(0).permutation(len(whole))
    again = prepared("in", tmp_path).table
    assert [row.tolist() for row in again.rows(order)["input_ids"]] == [whole[number] for number in order]
    assert len(again._mapped) == 2


def test_rows_of_a_data_set_are_known_by_themselves_and_not_by_their_file(tmp_path: Path) -> None:
    rows = [f"wave tide {word} sail" for word in ("oak", "pine", "moss", "fern")]
    more = {"body": rows[::-1], "text": rows}
    Dataset.from_dict(more).save_to_disk(str(tmp_path / "saved"))
    saved = load_from_disk(str(tmp_path / "saved"))
    halves = [sequences(prepared(saved.select(range(*ends)), tmp_path)) for ends in ((0, 2), (2, 4))]
    assert halves[0] + halves[1] == sequences(prepared("saved", tmp_path))
    assert halves[0] != halves[1]
    other = saved.remove_columns("text").rename_column("body", "text")
    assert sequences(prepared(other, tmp_path)) == (halves[0] + halves[1])[::-1]
    longer = [
        concatenate_datasets([saved, Dataset.from_dict({"body": [""], "text": [word]})]) for word in ("a b c", "a")
    ]
    assert len({prepared(one, tmp_path, min_tokens=1).table.key for one in longer}) == 2
    with pytest.raises(DataError, match="a second time"):
        prepared("saved + saved", tmp_path)


def test_the_first_rows_are_the_same_whatever_the_number_of_workers(tmp_path: Path) -> None:
    for number in range(6):
        write_text(tmp_path / f"in/{number}.txt", texts(20, seed=number, words=12))
    (tmp_path / "in/3.txt").write_bytes(b"\xff")
    found = {
        workers: prepared("in", tmp_path, rows=10, workers=workers, cache=tmp_path / f"cache-{workers}")
        for workers in (1, 2, 8)
    }
    assert len({(one.told, one.table.key) for one in found.values()}) == 1
    assert found[8].total("documents") == 20


def test_two_threads_of_one_process_prepare_one_after_the_other(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", texts(400))
    write_data(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path / "vocab.txt"), None)
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: sequences(prepared("a.txt", tmp_path, tokenizer=tokenizer)), range(2)))
    assert both[0] == both[1]
    assert os.environ.get("TOKENIZERS_PARALLELISM") == before


def test_a_document_that_is_too_long_is_a_damaged_row_of_every_kind_of_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "LONGEST", 1 << 20)
    long = "wave " * 300_000
    write_text(tmp_path / "in/a.txt", ["wave tide sail", long])
    write_text(tmp_path / "in/b.jsonl", [json.dumps({"text": long}), json.dumps({"text": "reef storm deck"})])
    write_text(tmp_path / "in/c.json", [json.dumps([{"text": long}, {"text": "oak pine moss"}])])
    pq.write_table(pa.table({"text": [long, "bark trail owl"]}), tmp_path / "in/d.parquet")
    done = prepared("in", tmp_path, bad_rows="skip")
    assert (done.total("documents"), done.total("bad")) == (4, 4)
    assert all("is longer than 1 MB; break it up." in told for told in done.bad)


def test_headers_are_parsed_by_one_thread_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PART", 300)
    write_text(tmp_path / "a.txt", texts(80))
    prepared("a.txt", tmp_path)
    folders = [path.parent for path in (tmp_path / "cache").rglob("manifest.json")]
    load, inside, most = np.load, [], []

    def slowly(*words: Any, **more: Any) -> Any:
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.01)
        found = load(*words, **more)
        inside.pop()
        return found

    monkeypatch.setattr(np, "load", slowly)
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(shards.read_shard, folders))
    assert len(folders) > 4
    assert max(most) == 1
