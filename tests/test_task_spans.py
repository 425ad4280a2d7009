"""Answers to questions: windows, where an answer stands in them, the loss, and the search for the best answer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, BertTokenizer, PreTrainedTokenizerFast

from potstill.batch import IGNORED
from potstill.context import tokenized
from potstill.data.encode import called
from potstill.data.examples import Examples, forget_labels
from potstill.data.source import open_source
from potstill.errors import DataError, RecipeError
from potstill.models import load_model
from potstill.progress import Progress
from potstill.settings import TaskConfig
from potstill.tasks import load_task
from potstill.testing.tiny import bert, write_data
from potstill.tokenizers import load_tokenizer

LETTERS = "abcdefghijklmnop"
QUESTION = "who ?"


def task_of(**options: Any) -> Any:
    return load_task(TaskConfig(kind="question-answering", **options))


def words() -> Any:
    """[CLS] is 2, [SEP] 3, "who" 5, "?" 6; the letters are words from 7 on."""
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "who", "?", *LETTERS]
    return BertTokenizer(vocab={word: number for number, word in enumerate(known)})


def without_marks() -> Any:
    """A tokenizer of words without special tokens."""
    vocabulary = {word: number for number, word in enumerate(["[UNK]", "who", "?", *LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=["input_ids", "attention_mask"])


def rows_of(
    task: Any, rows: list[tuple[str, str, Any]], folder: Path, max_length: int = 11, tokenizer: Any = None, **how: Any
) -> Examples:
    """Rows of (question, context, answers); max_length 11 leaves 6 tokens of a context."""
    answers = [value if value is None or isinstance(value, dict) else _answers(value) for _, _, value in rows]
    table = {"q": [row[0] for row in rows], "c": [row[1] for row in rows], "answers": answers}
    columns = {"text": "q", "text_pair": "c", "label": "answers"}
    source = open_source(Dataset.from_dict(table), columns, folder, cache=folder, shapes=task.shapes)
    labels = task.read_labels(source, how.get("note", print))
    if "keep" in how:
        labels = forget_labels(labels, how["keep"])
    return tokenized(source, task, tokenizer or words(), None, max_length, labels, folder, Progress())


def _answers(told: tuple[str, int]) -> dict[str, list[Any]]:
    return {"text": [told[0]], "answer_start": [told[1]]}


CONTEXT = " ".join("abcdefghij")  # a letter every second character
NONE: dict[str, list[Any]] = {"text": [], "answer_start": []}


def test_a_long_context_becomes_windows_that_overlap_by_the_stride(tmp_path: Path) -> None:
    rows = rows_of(task_of(stride=2), [(QUESTION, CONTEXT, ("e f", 8)), (QUESTION, "a b", ("b", 2))], tmp_path)
    ids = rows.student.rows(np.arange(len(rows)))["input_ids"]
    shown = ["".join(LETTERS[number - 7] for number in row[4:-1]) for row in ids]
    assert shown == ["abcdef", "efghij", "ab"]
    assert rows.origin.tolist() == [0, 0, 1]
    assert rows.labels.tolist() == [[8, 9], [4, 5], [5, 5]]  # [CLS] who ? [SEP] a …
    batch = rows.batch([0, 2])
    assert batch.valid is not None
    assert batch.valid.int().tolist() == [[1, 0, 0, 0, 1, 1, 1, 1, 1, 1, 0], [1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]]


def test_an_answer_that_is_not_whole_in_a_window_is_no_answer_there(tmp_path: Path) -> None:
    rows = rows_of(task_of(stride=2), [(QUESTION, CONTEXT, ("d e f g", 6))], tmp_path)
    assert rows.labels.tolist() == [[0, 0], [0, 0]]
    rows = rows_of(task_of(stride=0), [(QUESTION, CONTEXT, ("a", 0))], tmp_path)
    assert rows.labels.tolist() == [[4, 4], [0, 0]]


def test_without_a_token_for_no_answer_there_is_no_label_in_other_windows(tmp_path: Path) -> None:
    rows = rows_of(task_of(stride=0), [(QUESTION, CONTEXT, ("h", 14))], tmp_path, 7, without_marks())
    assert rows.labels.tolist() == [[IGNORED, IGNORED], [4, 4]]  # who ? f g h
    assert rows.origin.tolist() == [0, 0]


def test_an_answer_begins_and_ends_within_words_too(tmp_path: Path) -> None:
    tokenizer = BertTokenizer(
        vocab={w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "who", "ab", "##cd", "##e"])}
    )
    rows = rows_of(task_of(), [("who", "abcde ab", ("bc", 1))], tmp_path, 12, tokenizer)
    assert rows.labels.tolist() == [[3, 4]]  # [CLS] who [SEP] ab ##cd ##e ab


def test_unanswerable_questions_point_at_the_token_in_front(tmp_path: Path) -> None:
    rows = rows_of(task_of(unanswerable=True), [(QUESTION, "a b", NONE), (QUESTION, "a b", None)], tmp_path)
    assert rows.labels.tolist() == [[0, 0], [IGNORED, IGNORED]]


def test_answers_that_stand_elsewhere_are_moved_to_the_nearest_place_and_lost_ones_counted(tmp_path: Path) -> None:
    notes: list[str] = []
    context = "a b a c a d"
    asked = [
        (QUESTION, context, ("a", 9)),  # stands at 8
        (QUESTION, context, ("a", 1)),  # at 0 and at 4
        (QUESTION, context, ("d", -1)),  # said nowhere
        (QUESTION, context, ("k", 0)),  # is nowhere
        (QUESTION, context, {"text": ["k", "c"], "answer_start": [-1, 6]}),
    ]
    rows = rows_of(task_of(), asked, tmp_path, note=notes.append)
    assert rows.targets.tolist() == [[8, 9], [0, 1], [10, 11], [IGNORED, IGNORED], [6, 7]]
    assert notes == [
        "data (a data set in memory): 2 answers stand elsewhere than answer_start says; the nearest place is taken.",
        "data (a data set in memory): 1 of 5 questions have no answer that stands in the context; they teach nothing.",
    ]


def test_only_the_first_labels_are_kept_by_question(tmp_path: Path) -> None:
    asked = [(QUESTION, CONTEXT, ("a", 0)), (QUESTION, CONTEXT, ("b", 2)), (QUESTION, "c", NONE)]
    rows = rows_of(task_of(stride=2, unanswerable=True), asked, tmp_path, keep=1)
    assert rows.labels.tolist() == [[4, 4], [0, 0], *[[IGNORED, IGNORED]] * 3]


def test_a_long_question_is_cut_and_an_empty_place_of_text_is_skipped(tmp_path: Path) -> None:
    rows = rows_of(task_of(max_question_tokens=2), [("who " * 9, "a \u200b b", ("b", 4))], tmp_path)
    assert rows.student.rows(np.arange(1))["input_ids"][0].tolist() == [2, 5, 5, 3, 7, 8, 3]
    assert rows.labels.tolist() == [[5, 5]]
    rows = rows_of(task_of(), [("who " * 9, "a b", ("b", 2))], tmp_path)
    assert rows.student.rows(np.arange(1))["input_ids"][0].tolist() == [2, 5, 5, 5, 5, 3, 7, 8, 3]


def bytewise() -> Any:
    """A tokenizer of single bytes, of which a Chinese character is three."""
    signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={sign: number for number, sign in enumerate(signs)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=["input_ids", "attention_mask"])


@pytest.mark.parametrize(("tokens", "kept"), [(5, 3), (6, 6), (2, 0)])
def test_a_question_is_not_cut_through_a_character(tokens: int, kept: int) -> None:
    task = task_of(max_question_tokens=tokens, stride=15)
    asked = {"text": ["哪一个公司"], "text_pair": ["wave tide oak pine " * 3]}
    rows = task.encode(asked, bytewise(), 22)  # windows of 16 to 20 tokens of the context, so that 15 leaves a step
    assert [starts.tolist().count(-1) for starts in rows["start"]] == [kept] * len(rows["start"])


def test_a_question_whose_beginning_is_more_tokens_by_itself_is_cut_again() -> None:
    # "ab" before a "c" is one token, by itself two
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "ab": 1, "c": 2, "a": 3, "b": 4}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("ab(?=c)|."), "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=["input_ids", "attention_mask"])
    rows = task_of(max_question_tokens=1).encode({"text": ["abc"], "text_pair": ["c"]}, fast, 8)
    assert rows["input_ids"] == [[3, 2]]


def test_the_loss_is_over_the_tokens_that_may_be_chosen_and_a_mean_of_both_ends(tmp_path: Path) -> None:
    rows = rows_of(task_of(), [(QUESTION, "a b c", ("b c", 2)), (QUESTION, "a b c d", None)], tmp_path)
    batch = rows.batch([0, 1])
    logits = torch.zeros(2, 9, 2, requires_grad=True)
    with torch.no_grad():
        logits[0, 5, 0] = math.log(3)  # 3 of 6 for the start
        logits[0, [1, 2, 3, 7, 8]] = 9  # question, separators and padding are no places
    loss = task_of().loss(logits, batch)
    assert loss.item() == pytest.approx((math.log(2) + math.log(4)) / 2)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[0].abs().sum(-1).nonzero().flatten().tolist() == [0, 4, 5, 6]
    assert not logits.grad[1].any()


def best_of(task: Any, rows: Examples, *marked: tuple[int, int, int, float, float]) -> dict[str, Any]:
    """Scores of logits 0 but at (window, start token, end token, start logit, end logit)."""
    outcomes, numbers = [], []
    for window in range(len(rows)):
        batch = rows.batch([window])
        logits = torch.zeros(1, batch.student["input_ids"].shape[1], 2)
        for at, start, end, begins, stops in marked:
            if at == window:
                logits[0, start, 0], logits[0, end, 1] = begins, stops
        kept, number = task.outcome(logits, batch)
        outcomes.append(kept)
        numbers.append(number)
    order = list(range(len(rows)))[::-1]  # batches come in any order
    answers = [outcomes[row] for row in order], np.concatenate([numbers[row] for row in order])
    found: dict[str, Any] = task.score(*answers, rows)
    assert task.rescore(*task.kept(*answers, rows)) == pytest.approx(found)
    return found


def test_the_best_answer_of_all_windows_is_in_order_and_not_too_long(tmp_path: Path) -> None:
    rows = rows_of(task_of(stride=2), [(QUESTION, CONTEXT, ("g h", 12))], tmp_path)
    task = task_of(max_answer_tokens=2)
    # the ends alone would be i … g in the second window; in order they are g h, which beats a … b of the first
    marked = [(1, 6, 7, 3.0, 3.0), (0, 4, 5, 2.0, 2.0)]
    assert best_of(task, rows, *marked) == {"f1": 1, "exact_match": 1}
    assert best_of(task, rows, *marked, (0, 8, 6, 9.0, 9.0))["f1"] == 0  # one token of the pair stands alone: e or c
    assert best_of(task, rows, (0, 4, 9, 5.0, 5.0), (1, 6, 7, 3.0, 3.0))["f1"] == 1  # a … f is too long: 5 < 6


def test_every_pair_is_looked_at(tmp_path: Path) -> None:
    """Against a search written out, on random logits."""
    torch.manual_seed(0)
    task = task_of(max_answer_tokens=3)
    rows = rows_of(task, [(QUESTION, " ".join(LETTERS[:n]), None) for n in (1, 2, 5, 6)], tmp_path)
    batch = rows.batch(np.arange(4))
    assert batch.valid is not None
    logits = torch.randn(4, batch.student["input_ids"].shape[1], 2)
    kept, _ = task.outcome(logits, batch)
    for row in range(4):
        places = [place for place in range(4, 11) if batch.valid[row, place]]
        pairs = [(s, e, float(logits[row, s, 0] + logits[row, e, 1])) for s in places for e in places if 0 <= e - s < 3]
        assert kept[row, 1].tolist() == pytest.approx(max(pairs, key=lambda pair: pair[2]))
        assert kept[row, 0].tolist() == pytest.approx([0, 0, float(logits[row, 0].sum())])


def test_an_answer_may_be_as_long_as_its_window_and_the_search_is_no_longer_for_a_larger_number(tmp_path: Path) -> None:
    rows = rows_of(task_of(), [(QUESTION, "a b c", None)] * 8, tmp_path)
    batch = rows.batch(np.arange(8))
    logits = torch.randn(8, batch.student["input_ids"].shape[1], 2, generator=torch.Generator().manual_seed(0))
    exact, _ = task_of(max_answer_tokens=8).outcome(logits, batch)
    largest, _ = task_of(max_answer_tokens=10**12).outcome(logits, batch)  # of which no table would fit the memory
    np.testing.assert_array_equal(exact, largest)


def test_no_answer_is_given_where_it_beats_the_best_one_by_the_threshold(tmp_path: Path) -> None:
    asked = [(QUESTION, "a b", ("b", 2)), (QUESTION, "a b", NONE)]
    rows = rows_of(task_of(unanswerable=True), asked, tmp_path)
    marked = [(0, 5, 5, 2.0, 2.0), (0, 0, 0, 1.0, 1.0), (1, 5, 5, 1.0, 1.0), (1, 0, 0, 2.0, 2.0)]
    scores = best_of(task_of(unanswerable=True), rows, *marked)
    assert scores == dict.fromkeys(
        ("f1", "exact_match", "unanswerable_accuracy", "answerable_f1", "answerable_exact_match"), 1.0
    )
    careless = best_of(task_of(unanswerable=True, null_threshold=2.5), rows, *marked)
    assert (careless["unanswerable_accuracy"], careless["answerable_f1"], careless["f1"]) == (0, 1, 0.5)
    careful = best_of(task_of(unanswerable=True, null_threshold=-2.5), rows, *marked)
    assert (careful["unanswerable_accuracy"], careful["answerable_f1"], careful["f1"]) == (1, 0, 0.5)


def test_questions_whose_answer_is_not_known_do_not_count_and_lost_answers_do(tmp_path: Path) -> None:
    rows = rows_of(
        task_of(), [(QUESTION, "a b", None), (QUESTION, "a b", ("k", 0)), (QUESTION, "a b", ("b", 2))], tmp_path
    )
    assert best_of(task_of(), rows, (2, 5, 5, 2.0, 2.0)) == {"f1": 0.5, "exact_match": 0.5}
    rows = rows_of(task_of(), [(QUESTION, "a b", None)], tmp_path)
    assert best_of(task_of(), rows) == {}


def test_decoding_tells_text_place_and_probability(tmp_path: Path) -> None:
    task = task_of(max_answer_tokens=1)
    rows = rows_of(task, [(QUESTION, "a  b", None)], tmp_path)
    logits = np.zeros((1, 7, 2), dtype=np.float32)
    logits[0, 5] = math.log(3) / 2
    assert task.decode(logits, {}, words(), rows) == [
        {"answer": "b", "score": pytest.approx(0.75), "start": 3, "end": 4}
    ]
    free = task_of(max_answer_tokens=1, unanswerable=True)
    logits[0, 0] = math.log(12) / 2
    assert free.decode(logits, {}, words(), rows) == [{"answer": "", "score": pytest.approx(12 / 16)}]


def test_a_context_of_a_million_characters_is_many_windows(tmp_path: Path) -> None:
    context = "a " * 499_999 + "b a"
    task = task_of(stride=16)
    rows = rows_of(task, [(QUESTION, context, ("b", 999_998))], tmp_path, 128)
    assert len(rows) == math.ceil((500_001 - 16) / (123 - 16))
    assert (rows.labels > 0).any(1).nonzero()[0].tolist() == [len(rows) - 1]
    spot = rows.labels[-1, 0]
    assert best_of(task, rows, (len(rows) - 1, spot, spot, 1.0, 1.0))["exact_match"] == 1


@pytest.mark.parametrize(
    ("question", "context", "answers", "told"),
    [
        (" ", "a", ("a", 0), "row 1: the question is empty."),
        (QUESTION, "\n", ("a", 0), "row 1: the context is empty."),
        (QUESTION, "a", NONE, "row 1: the question has no answer; where that is meant, as in SQuAD 2.0, set "),
        (QUESTION, "a", {"text": [""], "answer_start": [-1]}, "task.unanswerable = true (for a saved model, "),
    ],
)
def test_wrong_rows_are_named(question: str, context: str, answers: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        rows_of(task_of(), [(question, context, answers)], tmp_path)
    assert told in str(raised.value)


def test_what_cannot_be_is_told_before_it_trains(tmp_path: Path) -> None:
    row = [(QUESTION, CONTEXT, ("a", 0))]
    with pytest.raises(RecipeError, match=r"\[task\]: unknown key 'strid' for the task .*Did you mean 'stride'\?"):
        task_of(strid=3)
    with pytest.raises(RecipeError, match=r"\[task\]: 'stride' = -1 should be greater than or equal to 0"):
        task_of(stride=-1)
    with pytest.raises(RecipeError, match=r"has no metric 'em'"):
        task_of(metric="em")
    with pytest.raises(DataError, match=r"task\.stride = 4 leaves no step .* a window holds 4 tokens of its context"):
        rows_of(task_of(stride=4), row, tmp_path)
    with pytest.raises(DataError, match=r"max_length = 4 leaves no room for a question and its context: 3 tokens"):
        rows_of(task_of(), row, tmp_path, 4)
    with pytest.raises(
        DataError, match=r"reads a question \(data\.text\) and its context \(data\.text_pair\), and there"
    ):
        task_of().encode({"text": ["who"]}, words(), 8)


def test_encoding_leaves_the_tokenizer_as_it_was() -> None:
    tokenizer = words()
    before = tokenizer.backend_tokenizer.to_str()
    task_of().encode({"text": [QUESTION], "text_pair": [CONTEXT]}, tokenizer, 11)
    called(tokenizer, ["a"], None, truncation=True, max_length=4)
    assert tokenizer.backend_tokenizer.to_str() == before


def test_an_encoder_of_another_task_gets_a_head_of_two_logits(tmp_path: Path) -> None:
    tokenizer = load_tokenizer("vocab.txt", write_data(tmp_path))
    config = {key: value for key, value in bert(1, 16).items() if key != "model_type"}
    BertModel(BertConfig(vocab_size=len(tokenizer), num_labels=13, **config)).save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    model = load_model(tmp_path / "encoder", load_task(TaskConfig(kind="question-answering")))
    output = model.module(input_ids=torch.ones(1, 4, dtype=torch.long))
    assert load_task(TaskConfig(kind="question-answering")).logits(output).shape == (1, 4, 2)
