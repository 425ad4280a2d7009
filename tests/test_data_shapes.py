"""Words, tags and answers in every form of file that may hold them, and what of them cannot be read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetInfo, Features, List, Value

from potstill.data.shapes import ANSWERS, TAGS, WORDS
from potstill.data.source import Source, open_source
from potstill.errors import DataError

ROWS = [{"words": ["New", "York", "!"], "tags": ["B-loc", "I-loc", "O"]}, {"words": ["hm"], "tags": ["O"]}]
TAGGED = {"text": "words", "label": "tags"}
ASKED = {"text": "question", "text_pair": "context", "label": "answers"}
QUESTION = {"question": "Who?", "context": "It was Ada.", "answers": {"text": ["Ada"], "answer_start": [7]}}


def tagged(spec: Any, root: Path, columns: dict[str, str] | None = None) -> Source:
    return open_source(spec, columns or TAGGED, root, cache=root / "cache", shapes={"text": WORDS, "label": TAGS})


def asked(spec: Any, root: Path) -> Source:
    return open_source(spec, ASKED, root, cache=root / "cache", shapes={"label": ANSWERS})


def write_tagged(root: Path, form: str) -> Any:
    if form == "data set":
        return Dataset.from_list(ROWS)
    if form == "saved":
        Dataset.from_list(ROWS).save_to_disk(root / "saved")
        return "saved"
    name = f"rows.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), root / name)
        return name
    texts = {
        "jsonl": "\n".join(json.dumps(row) for row in ROWS),
        "json": json.dumps(ROWS),
        "csv": "words,tags\nNew York !,B-loc I-loc O\nhm,O\n",
        "tsv": "words\ttags\nNew York !\tB-loc I-loc O\nhm\tO\n",
        "conll": "-DOCSTART- -X- O\n\nNew NNP B-loc\nYork NNP I-loc\n! . O\n\n\nhm UH O\n",
        "txt": "New\tB-loc\nYork\tI-loc\n!\tO\n\nhm\tO",
    }
    (root / name).write_text(texts[form], encoding="utf-8")
    return name


@pytest.mark.parametrize("form", ["data set", "saved", "parquet", "jsonl", "json", "csv", "tsv", "conll", "txt"])
def test_words_and_tags_are_the_same_from_every_form_of_file(form: str, tmp_path: Path) -> None:
    source = tagged(write_tagged(tmp_path, form), tmp_path)
    assert source.dataset["text"][:] == [row["words"] for row in ROWS]
    assert source.labels() == [row["tags"] for row in ROWS]


def test_named_classes_in_lists_are_read_as_their_names_and_numbers_as_text(tmp_path: Path) -> None:
    features = Features({"words": List(Value("string")), "tags": List(ClassLabel(names=["O", "B-loc"]))})
    source = tagged(Dataset.from_dict({"words": [["a", "b"]], "tags": [[1, 0]]}, features=features), tmp_path)
    assert source.labels() == [["B-loc", "O"]]
    assert source.label_names == ("O", "B-loc")
    pq.write_table(
        pa.table({"words": [["a", "b"]], "tags": pa.array([[1, 0]], pa.list_(pa.int8()))}), tmp_path / "n.parquet"
    )
    assert tagged("n.parquet", tmp_path).labels() == [["1", "0"]]


def test_numbers_of_named_classes_that_are_no_class_are_left_to_the_task_or_named_with_their_row(
    tmp_path: Path,
) -> None:
    features = Features({"words": List(Value("string")), "tags": List(ClassLabel(names=["O", "B-loc"]))})

    def saved(name: str, tags: list[Any]) -> str:
        plain = Dataset.from_dict({"words": [["a"], ["a", "b"]], "tags": [[0], tags]}).cast_column(
            "tags", List(Value("int64"))
        )
        Dataset(plain.data.table.replace_schema_metadata(None), DatasetInfo(features=features)).save_to_disk(
            tmp_path / name
        )
        return name

    assert tagged(saved("ignored", [-1, 1]), tmp_path).labels() == [["O"], ["-1", "B-loc"]]
    assert tagged(saved("padded", [-100, 1]), tmp_path).labels()[1] == ["-100", "B-loc"]
    with pytest.raises(
        DataError, match=r"'many'.*, row 2: 'tags' holds 2, and its ClassLabel names 2 classes, 0 to 1\."
    ):
        tagged(saved("many", [0, 2]), tmp_path)
    with pytest.raises(DataError, match=r"'none'.*, row 2: 'tags' holds None as tag 2, which is neither a name nor"):
        tagged(saved("none", [0, None]), tmp_path)


def test_columns_of_words_stand_between_spaces_and_tabs_alone(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("A\u00a0b O\nNew\u3000York \t B-loc\n", encoding="utf-8")
    assert tagged("a.conll", tmp_path).dataset["text"][:] == [["A\u00a0b", "New\u3000York"]]
    (tmp_path / "b.conll").write_text("New York\tB-loc\n-DOCSTART- -X- O\n\n !\tO\n", encoding="utf-8")
    assert tagged("b.conll", tmp_path).dataset["text"][:] == [["New York"], ["!"]]


def test_comments_before_a_sentence_are_no_words(tmp_path: Path) -> None:
    lines = "# sent_id = 3\n# text = one\none . O\n# = O\n\n# sent_id = 4\n# . O\n"  # within a sentence "#" is a word
    (tmp_path / "a.conll").write_text(lines, encoding="utf-8")
    assert tagged("a.conll", tmp_path).dataset["text"][:] == [["one", "#"], ["#"]]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("wave NN B-sea\ntide NN\n", "line 2: there are 2 columns and in line 1 3; each word has as many, its tag in"),
        ("# id = 1\nwave O\n\nti\tde O\n", "line 4: there are 3 columns and in line 2 2; each word has as many"),
        ("wave\tO\ntide O\n", "line 2: the word 'tide O' has no tag in a column behind it."),
    ],
)
def test_a_word_with_other_columns_than_the_first_one_is_named(content: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as raised:
        tagged("a.conll", tmp_path)
    assert f"{tmp_path / 'a.conll'}, {told}" in str(raised.value)


def test_a_text_file_without_tags_is_one_text_a_line(tmp_path: Path) -> None:
    (tmp_path / "new.txt").write_text("New York\nhm\n", encoding="utf-8")
    source = tagged("new.txt", tmp_path, {"text": "words"})
    assert source.dataset["text"][:] == [["New", "York"], ["hm"]]


SQUAD = {
    "version": "1.1",
    "data": [
        {
            "title": "t",
            "paragraphs": [
                {
                    "context": "It was Ada.",
                    "qas": [{"id": "1", "question": "Who?", "answers": [{"text": "Ada", "answer_start": 7}]}],
                }
            ],
        }
    ],
}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("hub.jsonl", json.dumps(QUESTION)),
        ("lists.jsonl", json.dumps({**QUESTION, "answers": ["Ada"], "answer_start": [7]})),
        ("single.jsonl", json.dumps({**QUESTION, "answers": "Ada", "answer_start": 7})),
        ("objects.json", json.dumps([{**QUESTION, "answers": [{"text": "Ada", "answer_start": 7}]}])),
        ("table.csv", "question,context,answers,answer_start\nWho?,It was Ada.,Ada,7\n"),
        ("squad.json", json.dumps(SQUAD)),
        ("indented.json", json.dumps(SQUAD, indent=2)),
        ("id.json", json.dumps({"data": [{"id": 1, "note": "", **SQUAD["data"][0]}]})),
        ("rows.jsonl", json.dumps({"data": [{"title": "t"}], **QUESTION}) + "\n" + json.dumps(QUESTION)),
    ],
)
def test_answers_are_the_same_from_every_form_of_file(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    source = asked(name, tmp_path)
    assert source.labels()[0] == {"text": ["Ada"], "answer_start": [7]}
    assert len(source) == content.count("Who?")
    assert source.dataset[0]["text_pair"] == "It was Ada."
    assert set(source.dataset.column_names) == set(ASKED)


def test_answers_of_parquet_stand_in_one_column_or_beside_their_places(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([QUESTION]), tmp_path / "hub.parquet")
    rows = [
        {**QUESTION, "answers": ["Ada", "Ada"], "answer_start": [7, -1]},
        {**QUESTION, "answers": [], "answer_start": []},
        {**QUESTION, "answers": None, "answer_start": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "lists.parquet")
    assert asked("hub.parquet", tmp_path).labels() == [QUESTION["answers"]]
    assert asked("lists.parquet", tmp_path).labels() == [
        {"text": ["Ada", "Ada"], "answer_start": [7, -1]},
        {"text": [], "answer_start": []},
        None,
    ]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"words": 5, "tags": ["O"]}, "'words' is 5, neither a list of words nor a text with spaces between them."),
        ({"words": None, "tags": ["O"]}, "'words' is missing."),
        ({"words": ["a", None], "tags": ["O", "O"]}, "'words' holds None as word 2, which is not text."),
        ({"words": [["a"]], "tags": ["O"]}, "'words' holds ['a'] as word 1, which is not text."),
        ({"words": ["a"], "tags": 1}, "'tags' is 1, neither a list of tags nor a text with spaces between them."),
        ({"words": ["a"], "tags": [None]}, "'tags' holds None as tag 1, which is neither a name nor a whole number."),
        ({"words": ["a"], "tags": [0.5]}, "'tags' holds 0.5 as tag 1, which is neither a name nor a whole number."),
        (
            {"words": ["a", "b"], "tags": [1, "O"]},
            "'tags' holds both names and numbers; tags are all the one or all the",
        ),
        ({"tags": ["O"]}, "has no column 'words' (data.text); its columns are 'tags'."),
    ],
)
def test_a_row_whose_words_or_tags_cannot_be_read_is_named(row: dict[str, Any], told: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(f"{json.dumps(ROWS[0])}\n{json.dumps(row)}\n", encoding="utf-8")
    with pytest.raises(DataError) as raised:
        tagged("rows.jsonl", tmp_path)
    assert f"{tmp_path / 'rows.jsonl'}, line 2" in str(raised.value)
    assert told in str(raised.value)


@pytest.mark.parametrize(
    ("answers", "start", "told"),
    [
        (5, 1, "'answers' holds 5, which is not the text of an answer."),
        (["a", 3], [0, 1], "'answers' holds 3, which is not the text of an answer."),
        (["a"], [0, 1], "'answers' has 1 texts and 2 places (answer_start); each answer has one place."),
        (["a"], ["x"], "'answers' has the place (answer_start) 'x', which is not a whole number."),
        (["a"], [1.5], "'answers' has the place (answer_start) 1.5, which is not a whole number."),
        (["a"], [math.inf], "'answers' has the place (answer_start) inf, which is not a whole number."),
        ({"texts": ["a"]}, None, "'answers' holds {'texts': ['a']}, which has no 'text'."),
        ([{"text": "a"}], None, "'answers' holds {'text': 'a'}, which has no 'answer_start'."),
    ],
)
def test_a_row_whose_answers_cannot_be_read_is_named(answers: Any, start: Any, told: str, tmp_path: Path) -> None:
    row = {**QUESTION, "answers": answers, "answer_start": start}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row), encoding="utf-8")
    with pytest.raises(DataError) as raised:
        asked("rows.jsonl", tmp_path)
    assert str(raised.value) == f"{tmp_path / 'rows.jsonl'}, line 1: {told}"


def test_files_of_words_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "short.conll").write_text("New B-loc\nYork\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"short\.conll, line 2: the word 'York' has no tag in a column behind it\."):
        tagged("short.conll", tmp_path)
    with pytest.raises(DataError, match=r"short\.conll holds a word a line, with its tag, which only a task on words"):
        open_source("short.conll", TAGGED, tmp_path, cache=tmp_path / "cache")
    with pytest.raises(DataError, match=r"holds words and tags, so it has no column 'b' \(data\.text_pair\)"):
        tagged("short.conll", tmp_path, {**TAGGED, "text_pair": "b"})
    (tmp_path / "cut.json").write_text(json.dumps(SQUAD)[:-20], encoding="utf-8")
    with pytest.raises(DataError, match=r"cut\.json is not valid JSON"):
        asked("cut.json", tmp_path)
    (tmp_path / "bare.json").write_text('{"data": [{"paragraphs": [{"qas": []}]}]}', encoding="utf-8")
    with pytest.raises(DataError, match=r"article 1, paragraph 1: there is no 'context', and the file is in the form"):
        asked("bare.json", tmp_path)
    (tmp_path / "null.json").write_text('{"data": [{"paragraphs": [{"context": "a", "qas": null}]}]}', encoding="utf-8")
    with pytest.raises(DataError, match=r"article 1, paragraph 1: 'qas' is null, not a list as in SQuAD\."):
        asked("null.json", tmp_path)
    (tmp_path / "five.json").write_text('{"data": [{"title": "a", "paragraphs": 5}]}', encoding="utf-8")
    with pytest.raises(DataError, match=r"article 1: 'paragraphs' is 5, not a list as in SQuAD\."):
        asked("five.json", tmp_path)
    (tmp_path / "empty.json").write_text('{"version": "1.1", "data": []}', encoding="utf-8")
    with pytest.raises(DataError, match=r"empty\.json holds no rows\."):
        asked("empty.json", tmp_path)
