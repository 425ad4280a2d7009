"""Wrong rows, columns and options of the tasks on words and answers: a sentence and exit code 2, or a counted skip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from potstill.testing.tiny import student_only, write_data
from potstill.testing.words import asking, tagging, write_questions, write_tags
from tests.wrong import Run, caller, told

WORDS, ASKED = {"words": ["oak", "tide"], "tags": ["B-wood", "O"]}, "the old oak"
QUESTION = {"question": "wave", "context": ASKED, "answers": ["oak"], "answer_start": [8]}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = write_data(tmp_path_factory.mktemp("wrong"))
    write_tags(place)
    write_questions(place)
    return place


@pytest.fixture
def run(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return caller(place, tmp_path, monkeypatch, capsys)


def words_of(tables: dict[str, Any], rows: Any, tmp_path: Path, *changes: str, name: str = "") -> list[str]:
    """A command line that trains on `rows`: objects, or the text of a file called `name`."""
    name = name or "rows.jsonl"
    (tmp_path / name).write_text(rows if isinstance(rows, str) else "\n".join(map(json.dumps, rows)), encoding="utf-8")
    plain = student_only()
    made = {**plain, "task": tables["task"], "data": {**tables["data"], "train": str(tmp_path / name)}}
    (tmp_path / "r.toml").write_text(tomli_w.dumps(made), encoding="utf-8")
    said = ["run", "{tmp}/r.toml", "--folder", "{tmp}/run", "--data-root", "."]
    return [*said, *(word for change in changes for word in ("--set", change))]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"tags": ["O"]}, "row 2: there are 2 words and 1 tags; each word has one tag."),
        ({"tags": []}, "row 2: there are 2 words and 0 tags"),
        ({"tags": ["O", "B-wod"]}, "the tag 'B-wod' of word 2 is none of the 7 tags O, B-sea"),
        ({"tags": [0, 7]}, "the tag '7' of word 2 is none of the 7 tags"),
        ({"tags": [0, -2]}, "the tag '-2' of word 2 is none of the 7 tags"),
        ({"tags": [0, "O"]}, "'tags' holds both names and numbers"),
        ({"tags": [None, "O"]}, "'tags' holds None as tag 1"),
        ({"tags": [0.5, 1]}, "'tags' holds 0.5 as tag 1"),
        ({"tags": [True, False]}, "'tags' holds True as tag 1"),
        ({"tags": {"O": 1}}, "'tags' is {'O': 1}, neither a list of tags"),
        ({"words": None}, "'words' is missing."),
        ({"words": 5}, "'words' is 5, neither a list of words"),
        ({"words": ["oak", None]}, "'words' holds None as word 2"),
        ({"words": [["oak"], ["tide"]]}, "'words' holds ['oak'] as word 1"),
        ({"words": ["oak", 5]}, "'words' holds 5 as word 2"),
    ],
    ids=str,
)
def test_a_wrong_row_of_words_is_a_sentence(run: Run, tmp_path: Path, row: dict[str, Any], sentence: str) -> None:
    said = told(run, *words_of(tagging(), [WORDS, {**WORDS, **row}], tmp_path))
    assert sentence in said
    assert "2" in said.partition(sentence)[0] or "row 2" in sentence  # which row it is


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"question": " "}, "row 2: the question is empty."),
        ({"question": None}, "'question' is null, not text."),
        ({"question": ["wave"]}, "'question' is [\"wave\"], not text."),
        ({"context": "\n\t"}, "row 2: the context is empty."),
        ({"context": None}, "'context' is null, not text."),
        ({"answers": 5}, "'answers' holds 5, which is not the text of an answer."),
        (
            {"answers": ["oak", None], "answer_start": [8, 0]},
            "'answers' holds None, which is not the text of an answer.",
        ),
        ({"answer_start": [8, 9]}, "'answers' has 1 texts and 2 places (answer_start)"),
        ({"answer_start": ["x"]}, "has the place (answer_start) 'x', which is not a whole number."),
        ({"answer_start": [True]}, "has the place (answer_start) True, which is not a whole number."),
        ({"answers": {"text": ["oak"], "answer_start": []}}, "'answers' has 1 texts and 0 places (answer_start)"),
        ({"answers": [{"answer_start": 8}]}, "which has no 'text'."),
        ({"answers": [], "answer_start": []}, "row 2: the question has no answer; where that is meant"),
        ({"answers": [""], "answer_start": [-1]}, "row 2: the question has no answer; where that is meant"),
    ],
    ids=str,
)
def test_a_wrong_row_of_questions_is_a_sentence(run: Run, tmp_path: Path, row: dict[str, Any], sentence: str) -> None:
    words = words_of(asking(), [QUESTION, {**QUESTION, **row}], tmp_path, "task.unanswerable=false")
    assert sentence in told(run, *words)


TAGGED = "oak\tB-wood\ntide\tB-sea\n"


@pytest.mark.parametrize(
    ("kind", "name", "rows", "changes", "sentence"),
    [
        (tagging, "", [WORDS], ["task.labels=nowhere.txt"], "nowhere.txt' is no file; give a list of names or a file"),
        (tagging, "", [{**WORDS, "tags": [1, 0]}], ["task.labels=none.txt"], "none.txt' is no file"),
        (tagging, "", [WORDS], ["task.labels=[]"], "at least 2 tags, and there are []; name them in task.labels"),
        (tagging, "", [WORDS], ['task.labels=["O","O"]'], "task.labels names 'O' more than once"),
        (tagging, "", [WORDS], ['task.labels=["1","2"]'], "none of the tags 1, 2 begins one, as B-person does"),
        (tagging, "", [WORDS], ["task.metric=macro_f1"], "has no metric 'macro_f1'; it has f1, precision, recall"),
        (
            tagging,
            "",
            [WORDS],
            ["task.schema=IOB2"],
            "unknown key 'schema' for the task 'token-classification'. Did you",
        ),
        (tagging, "", [WORDS], ["task.scheme=IOB"], "'scheme' = 'IOB' should be 'IOB1', 'IOB2'"),
        (tagging, "", [WORDS], ["data.max_length=2"], "max_length = 2 leaves no room for words"),
        (tagging, "", [WORDS], ["data.text=tokens"], "has no column 'tokens' (data.text)"),
        (tagging, "", [WORDS], ["data.label=words"], "the column 'words' is named for two roles"),
        (tagging, "b.conll", TAGGED, ["data.text_pair=b"], "so it has no column 'b' (data.text_pair)"),
        (tagging, "b.conll", "oak\n", [], "line 1: the word 'oak' has no tag in a column behind it"),
        (tagging, "b.conll", "\n\n", [], "holds no rows"),
        (tagging, "b.txt", "oak\tB-wood\ntide\t\n", [], "line 2: the word 'tide' has no tag"),
        (
            tagging,
            "b.conll",
            TAGGED,
            ["task.kind=text-classification"],
            "holds a word a line, with its tag, which only",
        ),
        (asking, "", [QUESTION], ["data.text_pair="], "and there is no context; name its column"),
        (asking, "", [QUESTION], ["data.label=answer"], "has no column 'answer' (data.label)"),
        (asking, "", [QUESTION], ["task.stride=9"], "task.stride = 9 leaves no step from one window to the next"),
        (asking, "", [QUESTION], ["task.n_best=0"], "'n_best' = 0 should be greater than or equal to 1"),
        (asking, "", [QUESTION], ["task.language=de"], "'language' = 'de' should be 'auto', 'en' or 'zh'"),
        (asking, "", [QUESTION], ["task.max_answer_token=9"], "Did you mean 'max_answer_tokens'?"),
        (asking, "", [QUESTION], ["data.max_length=4"], "max_length = 4 leaves no room for a question and its context"),
        (asking, "b.json", '{"data": [{"paragraphs": [{"context": "a', [], "is not valid JSON"),
        (
            asking,
            "b.json",
            '{"data": [{"paragraphs": [{"qas": []}]}]}',
            [],
            "article 1, paragraph 1: there is no 'context'",
        ),
    ],
    ids=lambda value: value.__name__ if callable(value) else str(value),
)
def test_a_wrong_option_or_file_is_a_sentence(
    run: Run, tmp_path: Path, kind: Any, name: str, rows: Any, changes: list[str], sentence: str
) -> None:
    assert sentence in told(run, *words_of(kind(), rows, tmp_path, *changes, name=name))


def test_rows_that_teach_nothing_are_counted_and_the_others_train(run: Run, tmp_path: Path) -> None:
    rows = [
        QUESTION,
        {**QUESTION, "answer_start": [9]},  # off by one
        {**QUESTION, "answers": ["elm"], "answer_start": [4]},  # not there
        {**QUESTION, "answers": None, "answer_start": None},  # not known
        {**QUESTION, "id": "1"},
        {**QUESTION, "id": "1"},  # ids are not looked at
        {**QUESTION, "context": "the " * 250_000 + "oak", "answer_start": [1_000_000]},
    ]
    code, said = run(*words_of(asking(), rows, tmp_path))
    assert code == 0, said
    assert "1 answers stand elsewhere than answer_start says; the nearest place is taken." in said
    assert "1 of 7 questions have no answer that stands in the context; they teach nothing." in said


def test_odd_words_are_ordinary_input(run: Run, tmp_path: Path) -> None:
    rows = [
        {"words": ["oak", "tide"], "tags": ["I-wood", "I-sea"]},  # no B- before them
        {"words": [], "tags": []},
        {"words": ["", "\u200b", "a b", "\U0001f600"], "tags": ["O", "B-sea", "O", "O"]},
        {"words": ["oak"] * 20_000, "tags": ["B-wood"] * 20_000},
        {"words": ["oak"], "tags": None},
        {"words": "oak tide", "tags": "B-wood O"},
        {"words": ["oak"], "tags": [-100]},
    ]
    code, said = run(*words_of(tagging(), rows, tmp_path))
    assert code == 0, said
    code, said = run("evaluate", "{tmp}/run", "{tmp}/rows.jsonl", "--quiet")
    assert code == 0, said
    code, said = run("predict", "{tmp}/run", "oak tide", "", "  ")
    assert code == 0, said
    assert "leave it out" in told(run, "predict", "{tmp}/run", "oak", "--text-pair", "tide")
    assert "the file has a column for it" in told(
        run, "predict", "{tmp}/run", "--file", "{tmp}/rows.jsonl", "--text-pair", "x"
    )


def test_a_model_that_answers_questions_asks_for_their_context(run: Run, tmp_path: Path) -> None:
    code, said = run(*words_of(asking(), [QUESTION], tmp_path))
    assert code == 0, said
    assert "give the second one too (--text-pair)" in told(run, "predict", "{tmp}/run", "wave")
    code, said = run("predict", "{tmp}/run", "wave", "--text-pair", ASKED)
    assert code == 0, said
    unlabelled = {**QUESTION, "answers": None, "answer_start": None}
    (tmp_path / "unlabelled.jsonl").write_text(json.dumps(unlabelled), encoding="utf-8")
    assert "has a label, so there is nothing to measure" in told(run, "evaluate", "{tmp}/run", "{tmp}/unlabelled.jsonl")
