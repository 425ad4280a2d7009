"""A tag for every word: named entities, parts of speech."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from potstill import details
from potstill.batch import IGNORED, PREDICTED
from potstill.data.encode import Encoded, called
from potstill.data.shapes import TAGS, WORDS
from potstill.errors import DataError, ModelError, RecipeError, did_you_mean
from potstill.settings import Settings
from potstill.tasks import Prediction, Task, full_precision

if TYPE_CHECKING:
    from potstill.batch import Batch
    from potstill.data.examples import Examples
    from potstill.data.source import Source
    from potstill.data.table import Tokens
    from potstill.recipe import TaskConfig

Tags = npt.NDArray[np.int32]
"""[words] tags of a row by number, or [tokens]."""
_PREFIXES = ("B-", "I-", "E-", "S-", "L-", "U-", "M-")
_NO_TAG = ("-1", "-100")
"""Numbers that say that a word has no tag."""
_FEW = 14  # so many tags an error lists


class TokenClassification(Task):
    """Every word of a row into one class, by cross-entropy at the word's first token."""

    name = "token-classification"
    auto_class = "AutoModelForTokenClassification"
    architectures = ("ForTokenClassification",)
    named = True
    default_metric = "f1"
    metrics: ClassVar[tuple[str, ...]] = ("f1", "precision", "recall", "accuracy")
    columns: ClassVar = {"text": "words", "label": "tags"}
    shapes: ClassVar = {"text": WORDS, "label": TAGS}
    marks: ClassVar[tuple[str, ...]] = ("word",)
    """At the first token of each word the word's number; with `label_all` at all of its tokens."""
    units: ClassVar = (PREDICTED,)
    axes: ClassVar[tuple[str, ...]] = ("batch", "seq", "tags")

    class Options(Settings):
        """Keys of `[task]` in this task."""

        label_all: bool = False
        """Whether every token of a word learns its tag, not only the first one."""
        scheme: Literal["IOB1", "IOB2", "IOE1", "IOE2", "IOBES", "BILOU"] | None = None
        """How strictly entities are read from tags, by seqeval; left out: as conlleval does, an I- may begin one."""

    options: Options

    def __init__(self, config: TaskConfig, names: list[str] | None) -> None:
        given = names if names is not None else config.labels if isinstance(config.labels, list) else []
        if len(given) < 2:
            raise DataError(
                f"Words are told apart by at least 2 tags, and there are {given}; name them in task.labels (a list, or "
                "a file with one tag a line), or check the training data's label column."
            )
        self.names: list[str] = list(given)
        super().__init__(config, self.names)
        if self.options.scheme is not None:
            _check_scheme(self.options.scheme, self.names)

    def checked_metric(self, metric: str) -> str:
        if metric in ("f1", "precision", "recall") and not self._entities:
            told = ", ".join(self.names[:_FEW])
            raise RecipeError(
                f"The metric '{metric}' is that of entities, and none of the tags {told} begins one, as B-person does; "
                "name the tags in task.labels where the data has their numbers, or take metric = 'accuracy'."
            )
        return super().checked_metric(metric)

    @property
    def _entities(self) -> bool:
        return any(name.startswith(_PREFIXES) for name in self.names)

    @property
    def tokens_key(self) -> str:
        return f"label_all {self.options.label_all}"

    def head(self) -> dict[str, Any]:
        return {
            "num_labels": len(self.names),
            "id2label": dict(enumerate(self.names)),
            "label2id": {name: number for number, name in enumerate(self.names)},
        }

    def encode(self, columns: dict[str, list[Any]], tokenizer: Any, max_length: int) -> Encoded:
        """The words of a row with spaces between them, cut at `max_length`; a word of no token has no mark.

        Raises: DataError where rows are pairs or there is no room; ModelError for a tokenizer that tells no places.
        """
        if "text_pair" in columns:
            raise DataError(f"The task '{self.name}' reads one list of words a row, so leave data.text_pair out.")
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(f"A {type(tokenizer).__name__} does not tell which word a token is of; take a fast one.")
        special = tokenizer.num_special_tokens_to_add(pair=False)
        if max_length <= special:
            raise DataError(
                f"max_length = {max_length} leaves no room for words: {special} tokens of a row are special ones."
            )
        texts = [" ".join(words) for words in columns["text"]]
        if not texts:
            return {"input_ids": [], "word": []}
        inputs, encoded = called(
            tokenizer, texts, None, truncation=True, max_length=max_length, return_offsets_mapping=True
        )
        inputs["word"] = [
            self._marks(words, text, encoded.encodings[row])
            for row, (words, text) in enumerate(zip(columns["text"], texts, strict=True))
        ]
        for row, ids in enumerate(inputs["input_ids"]):
            if not ids:  # a tokenizer without special tokens, a row without words: no model reads it
                for name in inputs:
                    empty = -1 if name == "word" else tokenizer.unk_token_id or 0 if name == "input_ids" else 0
                    inputs[name][row] = [empty]
        return inputs

    def _marks(self, words: Sequence[str], text: str, encoding: Any) -> list[int]:
        """The number of the word at its first token (or all of them), -1 elsewhere."""
        starts = np.cumsum([0, *(len(word) + 1 for word in words)])
        marks, before = [], -1
        for (start, end), special in zip(encoding.offsets, encoding.special_tokens_mask, strict=True):
            # Some tokenizers count the space before a word as its token's.
            start += len(text[start:end]) - len(text[start:end].lstrip())
            if special or start >= end:
                marks.append(-1)
                continue
            word = int(np.searchsorted(starts, start, side="right")) - 1
            marks.append(word if word != before or self.options.label_all else -1)
            before = word
        return marks

    def targets(self, values: list[Any], where: str) -> list[Tags]:
        """For each row [words] tags: a value is a tag's name, or else its number; a missing row has none."""
        by_name = {name: number for number, name in enumerate(self.names)}
        return [self._row(tags, by_name, f"{where}, row {row}") for row, tags in enumerate(values, 1)]

    def _row(self, tags: Sequence[str] | None, by_name: Mapping[str, int], where: str) -> Tags:
        found = np.empty(len(tags or ()), dtype=np.int32)
        for word, tag in enumerate(tags or ()):
            number = by_name.get(tag)
            if number is None and tag.isdecimal() and int(tag) < len(by_name):
                number = int(tag)
            if number is None and tag in _NO_TAG:
                number = IGNORED
            if number is None:
                listed = ", ".join(self.names[:_FEW]) + (", …" if len(self.names) > _FEW else "")
                raise DataError(
                    f"{where}: the tag '{tag}' of word {word + 1} is none of the {len(self.names)} tags {listed}."
                    f"{did_you_mean(tag, self.names)} Correct the row or name all tags in task.labels."
                )
            found[word] = number
        return found

    def read_labels(self, source: Source, note: Callable[[str], None]) -> list[Tags]:
        """As `targets`; a row that has no tags at all has `IGNORED` for every word.

        Raises: DataError where a row has other tags than words.
        """
        words = [len(row) for row in source.dataset["text"]]
        values = source.labels()
        for row, (count, tags) in enumerate(zip(words, values, strict=True), 1):
            if tags is not None and len(tags) != count:
                raise DataError(
                    f"{source.path}, row {row}: there are {count} words and {len(tags)} tags; each word has one tag."
                )
        found = self.targets(values, source.path)
        return [
            np.full(count, IGNORED, dtype=np.int32) if tags is None else row
            for count, tags, row in zip(words, values, found, strict=True)
        ]

    def align(self, labels: Any, table: Tokens) -> list[Tags]:
        """[tokens] of each row: the tag where a word is marked, `IGNORED` elsewhere."""
        [marks] = table.marks(np.arange(len(table)), "word")
        return [_tags_at(words, tags) for words, tags in zip(marks, labels, strict=True)]

    def collate_labels(self, labels: Any, width: int) -> Tensor:
        """[batch, width] int64."""
        padded = torch.full((len(labels), width), IGNORED)
        for row, tags in zip(padded, labels, strict=True):
            row[: len(tags)] = torch.from_numpy(tags)
        return padded

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy of [batch, seq, tags] in nats, over the tokens that have a tag."""
        kept = batch.labelled
        chosen, labels = logits.flatten(0, 1)[kept], batch.labels.flatten()[kept]
        return F.cross_entropy(full_precision(chosen), labels, reduction="sum") / max(1, len(labels))

    def predictions(self, logits: Tensor, batch: Batch) -> list[Prediction]:
        """One over the marked tokens, [tokens, tags]."""
        chosen, labels = logits.flatten(0, 1)[batch.predicted], batch.labels.flatten()[batch.predicted]
        return [Prediction("tag", chosen, "categorical", PREDICTED, labels)]

    def outcome(self, logits: Tensor, batch: Batch) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """[batch, seq] int16, the tag of each token; [batch], the numbers of the rows."""
        return logits.argmax(-1).to(torch.int16).cpu().numpy(), batch.index.cpu().numpy()

    def score(
        self, logits: npt.NDArray[Any] | list[npt.NDArray[Any]], labels: Any, rows: Examples | None = None
    ) -> dict[str, float]:
        """Precision, recall and F1 of whole entities (seqeval), and the share of words with the right tag.

        A word that the model did not see, since `max_length` cut it off or it has no token, counts as tagged "O" (the
        first tag where none is called so), so that a short `max_length` costs recall.
        """
        assert rows is not None
        return self.rescore(*self.kept(logits, labels, rows))

    def details(
        self, outcomes: Any, labels: Any, lengths: npt.NDArray[Any], rows: Examples | None = None
    ) -> details.Details:
        """By kind of entity, by length, and a bootstrap interval of F1; nothing where no tag begins an entity."""
        numbers, known, found = self._told(outcomes, labels, rows)
        if not (known and self._entities):
            return {}
        both = [(self._found(truth), self._found(told)) for truth, told in zip(known, found, strict=True)]
        kinds = sorted({one[0] for pair in both for entities in pair for one in entities})
        # [rows, kinds, 3]: how many are there, are told, and are both.
        counts = np.zeros((len(both), len(kinds), 3), dtype=np.int64)
        for row, (truth, told) in enumerate(both):
            for place, entities in enumerate((truth, told, truth & told)):
                for kind, *_ in entities:
                    counts[row, kinds.index(kind), place] += 1
        sums = counts.sum(1)

        def f1(some: npt.NDArray[Any]) -> float:
            there, told, right = sums[some].sum(0)
            return float(2 * right / (there + told)) if there + told else math.nan

        ends, (there, told, right) = details.bootstrap(f1, len(sums)), counts.sum(0).T
        return {
            "classes": details.by_count(there, told, right, kinds),
            "lengths": details.by_length(lengths[numbers], lambda some: {"f1": f1(some)}),
            "intervals": details.interval("f1", f1(np.arange(len(sums))), ends, len(sums), "bootstrap over rows, 95 %"),
        }

    def kept(self, outcomes: Any, labels: Any, rows: Examples) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Of each row with tags, [rows, 5] entities that are there, that are told and that are both, words, and words
        with the right tag; and [rows, 3] its number, entities and words."""
        numbers, known, found = self._told(outcomes, labels, rows)
        counted = [self._counts(*both) for both in zip(known, found, strict=True)]
        counts = np.array(counted, dtype=np.int64).reshape(-1, 5)
        return counts, np.column_stack([numbers, counts[:, [0, 3]]])

    def _counts(self, known: list[str], found: list[str]) -> tuple[int, ...]:
        there, told = self._found(known), self._found(found)
        right = sum(one == other for one, other in zip(known, found, strict=True))
        return len(there), len(told), len(there & told), len(known), right

    def rescore(self, kept: Any, labels: Any) -> dict[str, float]:
        if not len(kept):
            return {}
        there, told, both, words, right = np.asarray(kept).sum(0).tolist()
        scores = {"accuracy": right / words}
        if self._entities:
            scores |= {"precision": both / told if told else 0.0, "recall": both / there if there else 0.0}
            scores["f1"] = 2 * both / (there + told) if there + told else 0.0
        return scores

    def _told(
        self, logits: npt.NDArray[Any] | list[npt.NDArray[Any]], labels: Any, rows: Examples | None
    ) -> tuple[list[int], list[list[str]], list[list[str]]]:
        """Of the rows with tags their numbers, the tags of their words, and those that the model gives them."""
        assert rows is not None, "words are counted with a look at the rows"
        numbers = np.asarray(labels)
        [every] = rows.student.marks(numbers, "word")
        having, known, found = [], [], []
        for number, marks, tokens in zip(numbers.tolist(), every, _rows(logits), strict=True):
            kept = rows.targets[number] != IGNORED
            if kept.any():
                having.append(number)
                known.append([self.names[tag] for tag in rows.targets[number][kept]])
                found.append([self.names[tag] for tag in self._words(marks, tokens, len(kept))[kept]])
        return having, known, found

    def _found(self, tags: list[str]) -> set[tuple[str, int, int]]:
        """The entities of a row: kind, first and last word."""
        from seqeval.metrics.sequence_labeling import get_entities
        from seqeval.scheme import Entities

        if self.options.scheme is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # tags that are none
                return {(str(kind), int(first), int(last)) for kind, first, last in get_entities(tags)}
        [entities] = Entities([tags], _scheme(self.options.scheme)).entities
        return {(str(one.tag), int(one.start), int(one.end) - 1) for one in entities}

    def _words(self, marks: npt.NDArray[Any], tokens: npt.NDArray[Any], words: int) -> npt.NDArray[Any]:
        """[words] the tag at the first token of each."""
        tags = np.full(words, self.names.index("O") if "O" in self.names else 0)
        places = np.flatnonzero(marks >= 0)[::-1]  # backwards, so that a word's first token has the last say
        tags[marks[places]] = tokens[places]
        return tags

    def decode(
        self,
        logits: npt.NDArray[np.floating[Any]],
        inputs: Mapping[str, Tensor],
        tokenizer: Any,
        rows: Examples | None = None,
    ) -> list[dict[str, Any]]:
        """{"tags": a tag a word, "entities": what, its text, and the numbers of its first and last word} of each."""
        assert rows is not None
        assert rows.source is not None
        [marks] = rows.student.marks(np.arange(len(rows)), "word")
        told = []
        for words, row, best in zip(rows.source.dataset["text"], marks, logits.argmax(-1), strict=True):
            tags = [self.names[tag] for tag in self._words(row, best, len(words))]
            told.append({"tags": tags, "entities": [*self._entities_of(words, tags)]})
        return told

    def _entities_of(self, words: Sequence[str], tags: list[str]) -> Iterator[dict[str, Any]]:
        for kind, first, last in sorted(self._found(tags), key=lambda one: one[1:]) if self._entities else ():
            yield {"entity": kind, "text": " ".join(words[first : last + 1]), "first": first, "last": last}

    @staticmethod
    def names_from(values: Iterable[Any], options: Any = None) -> list[str]:
        """Every tag that occurs: "O" first, then by the alphabet, kinds together; numbers in their order.

        Raises: DataError, naming the rows, where the tags of some are all numbers and those of the others all names.
        """
        rows = [{*(row or ())} - {*_NO_TAG, ""} for row in values]
        found = {tag for row in rows for tag in row}
        _check_one_kind(rows)
        if found and all(tag.isdecimal() for tag in found):
            return [str(number) for number in range(max(int(tag) for tag in found) + 1)]
        return sorted(found, key=lambda tag: (tag != "O", tag.partition("-")[2], tag))


def _tags_at(words: npt.NDArray[Any], tags: Tags) -> Tags:
    if not len(tags):
        return np.full(len(words), IGNORED, dtype=np.int32)
    return np.where(words >= 0, tags[words.clip(0)], IGNORED).astype(np.int32)


def _rows(parts: npt.NDArray[Any] | list[npt.NDArray[Any]]) -> Iterator[npt.NDArray[Any]]:
    """The rows of one array, or of a list of arrays one after the other."""
    for part in parts if isinstance(parts, list) else [parts]:
        yield from part


def _scheme(name: str) -> Any:
    from seqeval import scheme

    return getattr(scheme, name)


def _check_scheme(name: str, tags: Sequence[str]) -> None:
    """Raises: RecipeError where seqeval could not read one of the tags by the scheme."""
    from seqeval.scheme import Prefixes

    allowed = [letter for letter, one in Prefixes.items() if letter != "ANY" and one in _scheme(name).allowed_prefix]
    wrong = next((tag for tag in tags if tag.partition("-")[0] not in allowed), None)
    if wrong is not None:
        prefixes = ", ".join(f"{letter}-" for letter in sorted(allowed) if letter != "O")
        raise RecipeError(
            f"task.scheme = '{name}' reads the tag O and tags that begin with {prefixes}, and '{wrong}' is neither; "
            "name the scheme that the tags follow, or leave it out."
        )


def _check_one_kind(rows: Sequence[Collection[str]]) -> None:
    # Where names and numbers stand in one row, as texts, a number is a name like the others.
    numbers = [{tag.isdecimal() for tag in row} for row in rows]
    if {True} in numbers and {False} in numbers and {True, False} not in numbers:
        one, other = numbers.index({True}), numbers.index({False})
        raise DataError(
            f"The tags of the training data's row {one + 1} are numbers, such as {min(rows[one])}, and those of row "
            f"{other + 1} names, such as {min(rows[other])}; write names in all rows, or name the tags in task.labels, "
            "in the order of their numbers."
        )
