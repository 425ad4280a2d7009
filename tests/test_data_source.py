"""Data files, folders and data sets as rows with roles."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, DatasetInfo, Features, Value

from potstill.data.source import Source, open_source
from potstill.errors import DataError

TEXT_LABEL = {"text": "text", "label": "label"}


@pytest.fixture
def opened(tmp_path: Path) -> Any:
    """Writes a file and opens it."""

    def make(name: str, content: str | bytes, columns: dict[str, str | None] | None = None, **options: Any) -> Source:
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(data)
        return open_source(
            name, columns or TEXT_LABEL, tmp_path, where="data.train", cache=tmp_path / "cache", **options
        )

    return make


def rows(source: Source) -> list[dict[str, Any]]:
    return source.dataset.to_list()


def test_csv_keeps_digits_as_text_and_quotes_have_a_meaning(opened: Any) -> None:
    source = opened("a.csv", 'label,id,text\n1,x,007\n0,y,"a, ""b""\nc"\nNA,z,NA\n')
    assert rows(source) == [
        {"text": "007", "label": "1"},
        {"text": 'a, "b"\nc', "label": "0"},
        {"text": "NA", "label": "NA"},
    ]
    assert source.path == "data.train = 'a.csv'"


def test_tsv_keeps_quotes_as_they_are(opened: Any) -> None:
    source = opened("a.tsv", 'text\tlabel\n"open quote\t1\r\nit\'s "so"\t0\n')
    assert rows(source) == [{"text": '"open quote', "label": "1"}, {"text": 'it\'s "so"', "label": "0"}]


def test_a_byte_order_mark_is_not_part_of_the_first_column(opened: Any) -> None:
    for name, content in (
        ("a.csv", "text,label\nü,1\n"),
        ("a.tsv", "text\tlabel\nü\t1\n"),
        ("a.jsonl", '{"text": "ü", "label": "1"}\n'),
        ("a.json", '[{"text": "ü", "label": "1"}]'),
    ):
        assert rows(opened(name, b"\xef\xbb\xbf" + content.encode())) == [{"text": "ü", "label": "1"}]
    assert rows(opened("a.txt", b"\xef\xbb\xbf\xc3\xbc\n")) == [{"text": "ü"}]


def test_labels_of_json_keep_their_type(opened: Any) -> None:
    def labels(*values: Any) -> list[Any]:
        lines = "\n".join(json.dumps({"text": "a", "label": value}) for value in values)
        found: list[Any] = opened("a.jsonl", lines).labels()
        return found

    assert labels(1, None, 0) == [1, None, 0]
    assert labels("x", None, "1") == ["x", None, "1"]
    assert labels(True, False) == [True, False]
    assert labels(1, 2.5) == [1.0, 2.5]
    assert labels("x", 1) == ["x", "1"]


def test_json_arrays_and_json_lines_are_told_apart_by_content(opened: Any) -> None:
    expected = [{"text": "007", "label": 1}, {"text": "2024-01-01", "label": 0}]
    objects = [json.dumps(row) for row in expected]
    assert rows(opened("lines.json", "\n".join(objects))) == expected
    assert rows(opened("array.json", f"[{','.join(objects)}]")) == expected


def test_a_text_file_holds_one_text_a_line_and_no_label(opened: Any) -> None:
    source = opened("a.txt", "one\n\n  two\u2028still two  \n")
    assert rows(source) == [{"text": "one"}, {"text": "  two\u2028still two  "}]
    assert source.labels() == [None, None]


def test_parquet_is_read_by_column_and_swapped_names_do_not_collide(tmp_path: Path) -> None:
    table = pa.table({"text": ["b"], "text_pair": ["a"], "other": [[1]], "score": pa.array([2.5], pa.float32())})
    pq.write_table(table, tmp_path / "a.parquet")
    columns = {"text": "text_pair", "text_pair": "text", "label": "score"}
    source = open_source("a.parquet", columns, tmp_path, cache=tmp_path / "cache")
    assert rows(source) == [{"text": "a", "text_pair": "b", "label": 2.5}]


def test_a_changed_file_with_the_old_time_is_read_anew(tmp_path: Path) -> None:
    for name, write in (
        ("a.csv", lambda text: (tmp_path / "a.csv").write_text(f"text\n{text}\n")),
        ("a.parquet", lambda text: pq.write_table(pa.table({"text": [text]}), tmp_path / "a.parquet")),
    ):
        found = []
        for text in ("one", "two"):
            write(text)
            os.utime(tmp_path / name, ns=(10**18, 10**18))
            found.append(open_source(name, {"text": "text"}, tmp_path, cache=tmp_path / "cache"))
        assert [rows(source) for source in found] == [[{"text": "one"}], [{"text": "two"}]]
        assert found[0].fingerprint != found[1].fingerprint


def test_the_fingerprint_follows_rows_and_roles_and_not_the_format(opened: Any) -> None:
    csv = opened("a.csv", "text,label,b\nx,1,x\n")
    same = opened("a.tsv", "label\ttext\tb\n1\tx\tx\n")
    assert csv.fingerprint == same.fingerprint
    assert opened("a.csv", "text,label\nx,2\n").fingerprint != csv.fingerprint
    assert opened("b.csv", "text,label\nx,1\n", {"text": "text", "text_pair": "label"}).fingerprint != csv.fingerprint


def test_only_the_first_rows_are_taken(opened: Any) -> None:
    assert [row["text"] for row in rows(opened("a.csv", "text,label\na,1\nb,0\nc,1\n", rows=2))] == ["a", "b"]
    assert len(opened("b.csv", "text,label\na,1\n", rows=5)) == 1


def test_class_labels_become_their_names_and_minus_one_none() -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["world", "sports"])})
    data = Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=features)
    source = open_source(data, TEXT_LABEL, Path())
    assert source.labels() == ["sports", "world", None]
    assert source.label_names == ("world", "sports")


def test_a_number_without_a_name_is_named_with_its_row() -> None:
    plain = Dataset.from_dict({"text": ["a", "b"], "label": [1, 2]})
    info = DatasetInfo(features=Features({"text": Value("string"), "label": ClassLabel(names=["world", "sports"])}))
    data = Dataset(plain.data.table.replace_schema_metadata(None), info)
    with pytest.raises(DataError, match=r", row 2: 'label' holds 2, and its ClassLabel names 2 classes, 0 to 1\."):
        open_source(data, TEXT_LABEL, Path())


def test_a_saved_data_set_needs_a_split_only_where_there_are_several(tmp_path: Path) -> None:
    data = Dataset.from_dict({"text": ["a"], "label": ["x"]})
    data.save_to_disk(str(tmp_path / "one"))
    DatasetDict(train=data, test=data).save_to_disk(str(tmp_path / "two"))
    assert len(open_source("one", TEXT_LABEL, tmp_path)) == 1
    assert len(open_source("two::test", TEXT_LABEL, tmp_path)) == 1
    with pytest.raises(DataError, match=r"'two' does not say which split; append one of ::train, ::test\."):
        open_source("two", TEXT_LABEL, tmp_path)
    with pytest.raises(DataError, match=r"has no split 'dev'; append one of ::train, ::test\."):
        open_source("two::dev", TEXT_LABEL, tmp_path)


def test_a_folder_of_files_is_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name, text in (("part-2.csv", "b"), ("part-1.csv", "a")):
        (tmp_path / name).write_text(f"text\n{text}\n")
    source = open_source(str(tmp_path), {"text": "text"}, Path(), cache=tmp_path / "cache")
    assert [row["text"] for row in rows(source)] == ["a", "b"]


def test_a_folder_of_splits_is_not_mixed(tmp_path: Path) -> None:
    for name in ("train.csv", "test.csv"):
        (tmp_path / name).write_text(f"text\n{name}\n")
    with pytest.raises(DataError, match=r"holds test\.csv, train\.csv, which are not parts of one data set"):
        open_source(str(tmp_path), {"text": "text"}, Path(), cache=tmp_path / "cache")
    source = open_source(f"{tmp_path}::train", {"text": "text"}, Path(), cache=tmp_path / "cache")
    assert rows(source) == [{"text": "train.csv"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            "txt,label\na,1\n",
            r"has no column 'text' \(data.text\); its columns are 'txt', 'label'\. Did you mean 'txt'\?",
        ),
        ("a.csv", "text,label\na,1\nb,1,2\n", r"a\.csv, line 3: there are 3 columns and the header names 2\."),
        ("a.csv", 'text,label\n"a,1\n', r"a\.csv, line 2: this is not valid CSV"),
        ("a.csv", "", r"a\.csv is empty\."),
        ("a.csv", "text,label\n", r"a\.csv holds no rows\."),
        ("a.csv", b"text,label\nok,1\nna\xefve,1\n", r"a\.csv, line 3: byte 18 \(0xef\) is not UTF-8"),
        ("a.csv", b"text,label\nna\xc3", r"a\.csv, line 2: byte 13 \(0xc3\) is not UTF-8"),
        ("a.csv", "text,label\na,1\n".encode("utf-16"), r"a\.csv, line 1: byte 0 \(0xff\) is not UTF-8"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b"\n', r"a\.jsonl, line 2: this is not valid JSON"),
        ("a.jsonl", '{"text": "a", "label": 1}\n\n[1]\n', r"a\.jsonl, line 3: \[1\] is not an object"),
        (
            "a.jsonl",
            '{"text": "a", "label": 1}\n{"text": 5, "label": 1}',
            r"line 2: 'text' is 5, not text as in line 1\.",
        ),
        (
            "a.jsonl",
            '{"text": 5, "label": 1}\n{"text": "a", "label": 1}',
            r"line 1: 'text' is 5, not text as in line 2\.",
        ),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": null}', r"line 2: 'text' is null, not text\."),
        ("a.jsonl", '{"text": "a", "label": {"b": 1}}', r"line 1: the label \{'b': 1\} is no text, number or list"),
        ("a.jsonl", '{"text": "a", "lable": 1}', r"has no column 'label'.*Did you mean 'lable'\?"),
        ("a.jsonl", '{"txt": "a", "label": 1}', r"line 1, has no column 'text'"),
        ("a.parquet", b"no parquet at all", r"a\.parquet is not a readable Parquet file"),
        ("a.xlsx", b"x", r"'a\.xlsx' ends in '\.xlsx'; files may end in \.csv, \.tsv"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(opened: Any, name: str, content: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        opened(name, content)


def test_a_column_of_numbers_alone_is_text_too(opened: Any, tmp_path: Path) -> None:
    assert rows(opened("a.jsonl", '{"text": 5}\n{"text": 6.5}', {"text": "text"})) == [{"text": "5"}, {"text": "6.5"}]
    pq.write_table(pa.table({"text": [5, 6]}), tmp_path / "a.parquet")
    source = open_source("a.parquet", {"text": "text"}, tmp_path, cache=tmp_path / "cache")
    assert rows(source) == [{"text": "5"}, {"text": "6"}]


def test_a_text_that_is_missing_or_no_text_is_named_by_its_row() -> None:
    columns = {"text": "words"}
    with pytest.raises(DataError, match=r"row 2: the text 'words' is missing\."):
        open_source(Dataset.from_dict({"words": ["a", None]}), columns, Path())
    with pytest.raises(DataError, match=r"row 1: the text 'words' is \['a'\], not text\."):
        open_source(Dataset.from_dict({"words": [["a"]]}), columns, Path())


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text\na\n")
    with pytest.raises(DataError, match=r"there is no file or folder .*trian\.csv\. Did you mean 'train\.csv'\?"):
        open_source("trian.csv", {"text": "text"}, tmp_path)


def test_data_without_rows_is_an_error(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet holds no rows\."):
        open_source("a.parquet", {"text": "text"}, tmp_path, cache=tmp_path / "cache")
    with pytest.raises(DataError, match=r"data \(a data set in memory\) holds no rows\."):
        open_source(Dataset.from_dict({"text": []}), {"text": "text"}, tmp_path)


def test_one_column_cannot_have_two_roles(opened: Any) -> None:
    with pytest.raises(DataError, match=r"the column 'text' is named for two roles"):
        opened("a.csv", "text\na\n", {"text": "text", "text_pair": "text"})


def test_a_hub_id_without_a_network_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no network here")

    monkeypatch.setattr("potstill.data.source.is_offline_mode", lambda: False)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", unreachable)
    with pytest.raises(DataError) as raised:
        open_source("somebody/something::train", {"text": "text"}, tmp_path, where="data.train")
    assert "data.train = 'somebody/something::train' is neither a file or folder below" in str(raised.value)
    assert "could it be read from the hub: no network here." in str(raised.value)
