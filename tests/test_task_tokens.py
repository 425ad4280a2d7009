"""Tags of words: where they stand among the tokens, the loss, and entities scored as seqeval documents it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import seqeval.metrics
import seqeval.scheme
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertTokenizer, PreTrainedTokenizerFast

from potstill.batch import IGNORED, PREDICTED, TARGET
from potstill.context import tokenized
from potstill.data.examples import Examples, forget_labels
from potstill.data.source import open_source
from potstill.errors import DataError, ModelError, RecipeError
from potstill.models import Model
from potstill.progress import Progress
from potstill.settings import TaskConfig
from potstill.tasks import load_task
from potstill.tasks.names import label_names
from potstill.tasks.tokens import TokenClassification

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-MISC", "I-MISC"]


def task_of(names: Sequence[str] = TAGS, **options: Any) -> Any:
    return load_task(TaskConfig(kind="token-classification", **options), list(names))


def pieces() -> Any:
    """[CLS] is 2, [SEP] 3; "wash", "##ing" and "##ton" are pieces, "is" is a word."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "wash", "##ing", "##ton", "is", "big", "."]
    return BertTokenizer(vocab={word: number for number, word in enumerate(words)})


def bytewise() -> Any:
    """A tokenizer of single bytes, as RoBERTa's, that counts the space before a word as its first token's."""
    tokenizer = Tokenizer(
        models.BPE(vocab={sign: i for i, sign in enumerate(["Ġ", *"abcd", "Ġa"])}, merges=[("Ġ", "a")])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=["input_ids", "attention_mask"])


def rows_of(
    task: Any, words: list[Any], tags: list[Any], folder: Path, tokenizer: Any = None, max_length: int = 16, **how: Any
) -> Examples:
    dataset = Dataset.from_dict({"text": words, "label": tags})
    source = open_source(dataset, {"text": "text", "label": "label"}, folder, cache=folder, shapes=task.shapes)
    labels = task.read_labels(source, print)
    if "keep" in how:
        labels = forget_labels(labels, how["keep"])
    return tokenized(source, task, tokenizer or pieces(), None, max_length, labels, folder, Progress())


def test_the_tag_stands_at_the_first_token_of_each_word(tmp_path: Path) -> None:
    rows = rows_of(task_of(), [["washington", "is", "big"], ["is"]], [["B-LOC", "O", "O"], ["O"]], tmp_path)
    batch = rows.batch([0, 1])
    assert batch.student["input_ids"].tolist() == [[2, 5, 6, 7, 8, 9, 3], [2, 8, 3, 0, 0, 0, 0]]
    none = IGNORED
    assert batch.labels.tolist() == [[none, 3, none, none, 0, 0, none], [none, 0, *[none] * 5]]
    assert batch.valid is not None
    assert batch.valid.tolist() == (batch.labels != none).tolist()
    assert batch.predicted.tolist() == [1, 4, 5, 8]


def test_with_label_all_every_token_of_a_word_learns_its_tag(tmp_path: Path) -> None:
    rows = rows_of(task_of(label_all=True), [["washington", "is"]], [["B-LOC", "O"]], tmp_path)
    assert rows.batch([0]).labels.tolist() == [[IGNORED, 3, 3, 3, 0, IGNORED]]


def test_a_space_that_belongs_to_a_token_is_not_part_of_the_word_before(tmp_path: Path) -> None:
    rows = rows_of(task_of(), [["ab", "a", "cd"]], [["O", "B-PER", "B-LOC"]], tmp_path, bytewise())
    batch = rows.batch([0])  # a b Ġa Ġ c d
    assert batch.student["input_ids"].tolist() == [[1, 2, 5, 0, 3, 4]]
    assert batch.labels.tolist() == [[0, IGNORED, 1, IGNORED, 3, IGNORED]]


def test_words_without_a_token_and_rows_without_words_have_no_label(tmp_path: Path) -> None:
    words = [["is", "", "\u200b", "big"], []]
    rows = rows_of(task_of(), words, [["O", "B-PER", "I-PER", "B-LOC"], []], tmp_path)
    batch = rows.batch([0, 1])
    assert batch.labels.tolist() == [[IGNORED, 0, 3, IGNORED], [IGNORED] * 4]
    assert batch.student["attention_mask"].sum(1).tolist() == [4, 2]


def test_rows_without_labels_are_still_predicted(tmp_path: Path) -> None:
    rows = rows_of(task_of(), [["is", "big"], ["big"], ["is"]], [["O", "B-LOC"], ["O"], None], tmp_path, keep=1)
    batch = rows.batch([0, 1, 2])
    assert (TARGET.count(batch), PREDICTED.count(batch)) == (2, 4)
    [prediction] = task_of().predictions(torch.zeros(3, 4, 7), batch)
    assert prediction.logits.shape == (4, 7)
    assert prediction.per == PREDICTED


def test_the_loss_is_a_mean_over_words(tmp_path: Path) -> None:
    rows = rows_of(task_of(["O", "B-X"]), [["washington", "is"], ["big"]], [["B-X", "O"], ["O"]], tmp_path)
    batch = rows.batch([0, 1])
    logits = torch.zeros(2, 6, 2, requires_grad=True)
    with torch.no_grad():
        logits[0, 1, 1] = math.log(3)
    loss = task_of(["O", "B-X"]).loss(logits, batch)
    assert loss.item() == pytest.approx((math.log(4 / 3) + 2 * math.log(2)) / 3)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum(-1).nonzero().tolist() == [[0, 1], [0, 4], [1, 1]]


def scores_of(known: list[list[str]], found: list[list[str]], folder: Path, **options: Any) -> dict[str, float]:
    """What the task makes of predictions that are these tags, a token a word, in two batches."""
    task = task_of(**options)
    rows = rows_of(task, [["is"] * len(tags) for tags in known], known, folder)
    outcomes, numbers = [], []
    for row, tags in enumerate(found):
        batch = rows.batch([row])
        logits = torch.zeros(1, batch.student["input_ids"].shape[1], len(TAGS))
        for place, tag in zip(batch.predicted.tolist(), tags, strict=False):
            logits[0, place, TAGS.index(tag)] = 1
        kept, number = task.outcome(logits, batch)
        outcomes.append(kept)
        numbers.append(number)
    order = np.arange(len(known))[::-1]  # batches come in any order
    answers = [outcomes[row] for row in order], np.concatenate(numbers)[order]
    scores = task.score(*answers, rows)
    assert scores == pytest.approx(by_seqeval(known, found, **options))
    return dict(scores)


def by_seqeval(known: list[list[str]], found: list[list[str]], scheme: str | None = None, **_: Any) -> dict[str, float]:
    """What seqeval's own functions say; a word that was told no tag counts as "O"."""
    whole = [[*told, *["O"] * (len(tags) - len(told))] for tags, told in zip(known, found, strict=True)]
    strict: dict[str, Any] = {"mode": "strict", "scheme": getattr(seqeval.scheme, scheme)} if scheme else {}
    names = ("precision", "recall", "f1")
    scores = {
        name: getattr(seqeval.metrics, f"{name}_score")(known, whole, zero_division=0, **strict) for name in names
    }
    return {"accuracy": seqeval.metrics.accuracy_score(known, whole), **scores}


def test_the_scores_are_those_of_the_example_that_seqeval_documents(tmp_path: Path) -> None:
    known = [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    found = [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    scores = scores_of(known, found, tmp_path)
    assert scores == {"accuracy": 0.8, **dict.fromkeys(("precision", "recall", "f1"), 0.5)}  # 8 of 10 words are right


def test_strict_schemes_refuse_what_conlleval_takes_for_an_entity(tmp_path: Path) -> None:
    known, found = [["B-PER", "I-PER", "O", "B-LOC"]], [["I-PER", "I-PER", "O", "B-LOC"]]
    assert scores_of(known, found, tmp_path)["f1"] == 1
    strict = scores_of(known, found, tmp_path, scheme="IOB2")
    assert (strict["precision"], strict["recall"]) == (1, 0.5)


def test_what_was_cut_off_counts_as_no_entity(tmp_path: Path) -> None:
    task = task_of()
    words, tags = [["is"] * 8], [["B-PER", "O", "O", "O", "B-LOC", "I-LOC", "O", "B-PER"]]
    rows = rows_of(task, words, tags, tmp_path, max_length=7)  # five words
    batch = rows.batch([0])
    logits = torch.nn.functional.one_hot(batch.labels.clamp(min=0), len(TAGS)).float()
    scores = task.score(*task.outcome(logits, batch), rows)
    # found: PER at 0 and LOC at 4 alone, of three entities: PER 0, LOC 4-5, PER 7; wrong are words 5 and 7
    assert scores == {"accuracy": 0.75, "precision": 0.5, "recall": pytest.approx(1 / 3), "f1": pytest.approx(0.4)}


def test_words_whose_tag_is_not_known_do_not_count(tmp_path: Path) -> None:
    task = task_of()
    rows = rows_of(task, [["is", "big"], ["big"]], [["-100", "B-PER"], None], tmp_path)
    batch = rows.batch([0, 1])
    logits = torch.zeros(2, 4, 7)
    logits[0, 2, 1] = 1
    scores = task.score(*task.outcome(logits, batch), rows)
    assert scores["accuracy"] == scores["f1"] == 1
    assert task.score(*task.outcome(logits[1:], rows.batch([1])), rows) == {}


def test_decoding_names_tags_and_entities(tmp_path: Path) -> None:
    task = task_of()
    rows = rows_of(task, [["washington", "is", "big"]], [None], tmp_path)
    logits = np.zeros((1, 7, 7))
    logits[0, 1, 3] = logits[0, 4, 4] = logits[0, 5, 0] = 1
    [told] = task.decode(logits, {}, None, rows)
    assert told == {
        "tags": ["B-LOC", "I-LOC", "O"],
        "entities": [{"entity": "LOC", "text": "washington is", "first": 0, "last": 1}],
    }


def test_decoding_reads_entities_by_the_scheme(tmp_path: Path) -> None:
    names = ["O", "B-a", "L-a", "U-a"]
    task = task_of(names, scheme="BILOU")
    rows = rows_of(task, [["is"] * 5], [None], tmp_path)
    logits = np.zeros((1, 7, 4))
    for place, tag in enumerate(["U-a", "U-a", "O", "B-a", "L-a"], 1):
        logits[0, place, names.index(tag)] = 1
    [told] = task.decode(logits, {}, None, rows)
    assert [(one["first"], one["last"]) for one in told["entities"]] == [(0, 0), (1, 1), (3, 4)]


def test_names_come_from_the_data_in_a_sensible_order() -> None:
    rows = [["I-b", "O"], None, ["B-b", "B-a"]]
    assert TokenClassification.names_from(rows) == ["O", "B-a", "B-b", "I-b"]
    assert TokenClassification.names_from([["3", "0"], ["-100"]]) == ["0", "1", "2", "3"]
    config = TaskConfig(kind="token-classification")
    assert label_names(config, Path(), rows) == ["O", "B-a", "B-b", "I-b"]


def test_what_is_no_tag_gives_no_name() -> None:
    assert TokenClassification.names_from([["O", "B-a", "-1"], ["-100", "I-a", ""]]) == ["O", "B-a", "I-a"]
    assert TokenClassification.names_from([["0", "-1"], ["1"]]) == ["0", "1"]


def test_rows_of_names_and_rows_of_numbers_are_not_one_set_of_tags() -> None:
    told = r"row 3 are numbers, such as 0, and those of row 1 names, such as B-a; .* in the order of their numbers\."
    with pytest.raises(DataError, match=told):
        TokenClassification.names_from([["O", "B-a"], None, ["0", "1", "-100"]])
    assert TokenClassification.names_from([["0", "B-a"], ["0"]]) == ["0", "B-a"]  # "0" is a name beside others


def test_numbers_are_tags_by_their_place() -> None:
    assert [row.tolist() for row in task_of().targets([["0", "6"], ["-100"], None], "x")] == [[0, 6], [IGNORED], []]


def test_tags_that_mark_no_entity_have_accuracy_alone(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"'f1' is that of entities, and none of the tags NOUN, VERB begins one"):
        task_of(["NOUN", "VERB"])
    task = task_of(["NOUN", "VERB"], metric="accuracy")
    rows = rows_of(task, [["is", "big"]], [["VERB", "NOUN"]], tmp_path)
    logits = torch.zeros(1, 4, 2)
    logits[0, 1, 1] = 1
    assert task.score(*task.outcome(logits, rows.batch([0])), rows) == {"accuracy": 1.0}
    assert task.decode(logits.numpy(), {}, None, rows)[0]["entities"] == []


@pytest.mark.parametrize(
    ("words", "tags", "told"),
    [
        ([["a", "b"]], [["O"]], "row 1: there are 2 words and 1 tags; each word has one tag."),
        ([["a"], ["b"]], [["O"], ["B-PRE"]], "row 2: the tag 'B-PRE' of word 1 is none of the 7 tags O, B-PER"),
        ([["a"]], [["B-PRE"]], "Did you mean 'B-PER'?"),
        ([["a"]], [["7"]], "row 1: the tag '7' of word 1 is none of the 7 tags"),
    ],
)
def test_wrong_tags_name_the_row(words: list[Any], tags: list[Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        rows_of(task_of(), words, tags, tmp_path)
    assert told in str(raised.value)


def test_what_cannot_be_is_told_before_it_trains(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"at least 2 tags, and there are \[\]; name them in task\.labels"):
        task_of([])
    with pytest.raises(RecipeError, match=r"\[task\]: unknown key 'lable_all' for .*Did you mean 'label_all'\?"):
        task_of(lable_all=True)
    with pytest.raises(
        RecipeError, match=r"\[task\]: unknown key 'metrc' for the task 'regression'\. Did you mean 'metric'"
    ):
        load_task(TaskConfig(kind="regression", metrc="mse"))
    with pytest.raises(RecipeError, match=r"\[task\]: 'scheme' = 'IOB' should be 'IOB1', 'IOB2'"):
        task_of(scheme="IOB")
    with pytest.raises(
        RecipeError, match=r"'IOB2' reads the tag O and tags that begin with B-, I-, and 'U-x' is neither"
    ):
        task_of(["O", "B-x", "U-x"], scheme="IOB2")
    with pytest.raises(RecipeError, match=r"'BILOU' reads .* begin with B-, I-, L-, U-, and 'X' is neither; name the"):
        task_of(["O", "B-x", "X"], scheme="BILOU")
    with pytest.raises(DataError, match="max_length = 2 leaves no room for words: 2 tokens of a row are special ones"):
        rows_of(task_of(), [["a"]], [["O"]], tmp_path, max_length=2)
    with pytest.raises(DataError, match=r"reads one list of words a row, so leave data\.text_pair out"):
        task_of().encode({"text": [["a"]], "text_pair": ["b"]}, pieces(), 8)
    with pytest.raises(
        ModelError, match="the logits are about the tokens of the tokenizer, so teacher and student must"
    ):
        task_of().check_logits(Model(torch.nn.Identity(), pieces()), Model(torch.nn.Identity(), bytewise()))
