"""Documents of files of every kind: each once, and what is damaged in a sentence that says where."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from potstill.corpus import sources
from potstill.corpus.reading import Bad, documents
from potstill.corpus.sources import listing
from potstill.errors import DataError

TEXTS = ["one fish", "", "zwei Füße", "三"]


def read(spec: object, root: Path, *, skip: bool = False) -> list[str]:
    found = listing(spec, "text", root, "data.train", root / "cache", skip)
    return [text for unit in found.units for text in documents(unit, "text")]


def lines(rows: list[str]) -> str:
    return "".join(json.dumps({"text": row}, ensure_ascii=False) + "\n" for row in rows)


WRITERS: dict[str, Callable[[Path], object]] = {
    "a.txt": lambda path: path.write_text("\n".join(TEXTS) + "\n", encoding="utf-8"),
    "bom.txt": lambda path: path.write_text("\n".join(TEXTS), encoding="utf-8-sig"),
    "crlf.txt": lambda path: path.write_bytes("\r\n".join(TEXTS).encode()),
    "a.txt.gz": lambda path: path.write_bytes(gzip.compress("\n".join(TEXTS).encode())),
    "a.jsonl": lambda path: path.write_text(lines(TEXTS), encoding="utf-8"),
    "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress(lines(TEXTS).encode())),
    "a.json": lambda path: path.write_text(json.dumps([{"text": text} for text in TEXTS]), encoding="utf-8"),
    "a.parquet": lambda path: pq.write_table(pa.table({"text": TEXTS}), path, row_group_size=2),
    "saved": lambda path: datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(str(path)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_its_texts_in_order(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    assert read(name, tmp_path) == TEXTS


def test_parts_joined_by_plus_and_folders_give_every_file_once(tmp_path: Path) -> None:
    (tmp_path / "in" / "deeper").mkdir(parents=True)
    for number, name in enumerate(("in/b.txt", "in/deeper/a.txt", "in/c.csv", "in/.hidden.txt")):
        (tmp_path / name).write_text(f"text {number}")
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    (tmp_path / "z.jsonl").write_text(lines(["last"]))
    found = listing("in + z.jsonl", "text", tmp_path, "data.train", tmp_path / "cache", False)
    assert [Path(name).name for name in found.names] == ["b.txt", "a.txt", "z.jsonl"]
    assert found.ignored == 1
    assert [text for unit in found.units for text in documents(unit, "text")] == ["text 0", "text 1", "last"]


@pytest.mark.parametrize("part", [1, 7, 64, 1000])
def test_a_file_in_parts_of_any_size_gives_every_line_once(
    part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "PART", part)
    WRITERS["a.txt"](tmp_path / "a.txt")
    assert read("a.txt", tmp_path) == TEXTS


def test_a_unit_is_known_by_its_content_and_not_by_its_name(tmp_path: Path) -> None:
    def key(name: str, content: str) -> str:
        (tmp_path / name).write_text(content)
        [unit] = listing(name, "text", tmp_path, "data.train", tmp_path / "cache", False).units
        return unit.content

    assert key("a.txt", "one") == key("b.txt", "one") == key("a.txt", "one")
    assert key("a.txt", "two") != key("b.txt", "one")


DAMAGED: dict[str, tuple[str, bytes, str]] = {
    "latin-1": ("a.txt", b"fine\nF\xfc\xdfe\n", r"a.txt, line 2: byte 1 of the line \(0xfc\) is not UTF-8"),
    "a NUL byte": ("a.txt", b"fine\na\0b\n", "line 2: the line holds a NUL byte"),
    "no JSON": ("a.jsonl", b'{"text": "a"}\n{"text"\n', "line 2: this is not valid JSON"),
    "half a character": ("a.jsonl", b'{"text": "\\ud800"}\n', r"line 1: 'text' holds half a character \(U\+D800\)"),
    "a NUL in JSON": ("a.jsonl", b'{"text": "a\\u0000"}\n', "'text' holds a NUL byte"),
    "no field": (
        "a.jsonl",
        b'{"body": "a"}\n',
        r"line 1: there is no field 'text' .*; the fields are 'body'",
    ),
    "null": ("a.jsonl", b'{"text": null}\n', "line 1: the text 'text' is missing"),
    "a number": ("a.jsonl", b'{"text": 7}\n', "line 1: 'text' is 7, not text"),
    "a list": ("a.jsonl", b'{"text": ["a"]}\n', r"'text' is \['a'\], not text"),
    "no object": ("a.jsonl", b'"a"\n', "is not an object with columns"),
    "deep JSON": ("a.jsonl", b"[" * 100_000 + b"\n", "line 1: this is not valid JSON .maximum recursion depth"),
    "a cut gzip": ("a.txt.gz", gzip.compress(b"some text\n" * 999)[:-9], r"a.txt.gz after line 999 cannot be read"),
    "no gzip": ("a.txt.gz", b"plain", r"a.txt.gz cannot be read"),
    "a cut array": ("a.json", b'[{"text": "a"}, {"text"', "a.json, row 2: this is not valid JSON"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_row_is_a_sentence_that_says_where(case: str, tmp_path: Path) -> None:
    name, content, told = DAMAGED[case]
    (tmp_path / name).write_bytes(content)
    [bad] = [text for text in read(name, tmp_path) if isinstance(text, Bad)]
    assert re.search(told, bad), bad


REFUSED: dict[str, tuple[str, bytes | None, str]] = {
    "not there": ("b.txt", None, r"data.train = 'b.txt': there is no file or folder .*b.txt"),
    "unknown ending": ("a.doc", b"a", r"ends in '.doc'; running text may end in .txt"),
    "UTF-16": ("a.txt", "text".encode("utf-16"), "a.txt, byte 0: this is UTF-16 text; save the file as UTF-8"),
    "UTF-16 without a mark": (
        "a.txt",
        "text".encode("utf-16-le"),
        "holds a zero byte among its first four, as UTF-16",
    ),
    "no Parquet": ("a.parquet", b"PAR1 and no more", "a.parquet is not a readable Parquet file"),
    "a split of a file": ("a.txt::train", b"a", "a file has no splits; leave out '::train'"),
    "twice": ("a.txt + a.txt", b"a", "names .*a.txt a second time"),
    "nothing beside the plus": ("a.txt + ", b"a", r"has nothing beside a '\+'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_opened_is_refused_in_a_sentence(case: str, tmp_path: Path) -> None:
    spec, content, told = REFUSED[case]
    if content is not None:
        (tmp_path / spec.split("::")[0].split(" + ")[0]).write_bytes(content)
    with pytest.raises(DataError, match=told):
        read(spec, tmp_path)


def test_a_damaged_file_is_left_out_and_told_where_that_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("fine")
    (tmp_path / "in/b.parquet").write_bytes(b"no")
    found = listing("in", "text", tmp_path, "data.train", tmp_path / "cache", True)
    assert [Path(name).name for name in found.names] == ["a.txt"]
    assert len(found.bad) == 1
    assert (len(found.names), len(found.bad), found.ignored) == (1, 1, 0)


def test_a_column_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["a"], "text": [1]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"the column 'text' \(data.text\) holds int64, not text"):
        read("a.parquet", tmp_path)
    pq.write_table(pa.table({"body": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="'text'"):
        read("a.parquet", tmp_path)


def test_an_empty_folder_holds_no_text(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match="holds no text; running text may end in"):
        read("in", tmp_path)
