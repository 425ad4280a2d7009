"""Questions that are answered by a piece of a text, as in SQuAD and CMRC 2018, or by nothing in it (SQuAD 2.0)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from potstill import details
from potstill.batch import EXAMPLE, IGNORED
from potstill.data.encode import Encoded
from potstill.data.shapes import ANSWERS
from potstill.errors import DataError
from potstill.settings import Settings
from potstill.tasks import Prediction, Task, answers, full_precision
from potstill.tasks.windows import NOWHERE, Characters, positions, windows

if TYPE_CHECKING:
    from potstill.batch import Batch
    from potstill.data.examples import Examples
    from potstill.data.source import Source
    from potstill.data.table import Tokens

_FAR = -1e9
"""The logit of a token that cannot be chosen."""


class QuestionAnswering(Task):
    """The first and the last token of the answer in its context, each by cross-entropy over the tokens there."""

    name = "question-answering"
    auto_class = "AutoModelForQuestionAnswering"
    architectures = ("ForQuestionAnswering",)
    default_metric = "f1"
    metrics: ClassVar[tuple[str, ...]] = (
        "f1",
        "exact_match",
        "answerable_f1",
        "answerable_exact_match",
        "unanswerable_accuracy",
    )
    columns: ClassVar = {"text": "question", "text_pair": "context", "label": "answers"}
    shapes: ClassVar = {"label": ANSWERS}
    marks: ClassVar[tuple[str, ...]] = ("start", "end")
    axes: ClassVar[tuple[str, ...]] = ("batch", "seq", "ends")
    choice_axis = 1

    class Options(Settings):
        """Keys of `[task]` in this task."""

        stride: int | None = Field(default=None, ge=0)
        """Tokens of a long context that each window shares with the one before it; a third of a window if left out."""
        max_question_tokens: int = Field(default=64, ge=1)
        """Questions are cut to this number of tokens, and to half of max_length."""
        max_answer_tokens: int = Field(default=30, ge=1)
        """The longest answer that is looked for."""
        n_best: int = Field(default=20, ge=1)
        """How many answers of each window share the probability that `predict` tells."""
        unanswerable: bool = False
        """Whether a question may have no answer in its context, as in SQuAD 2.0: rows without answers say so."""
        null_threshold: float = 0.0
        """No answer is given where its logits beat the best answer's by more than this."""
        language: Literal["auto", "en", "zh"] = "auto"
        """Whose rules EM and F1 follow: SQuAD's or, by characters, CMRC 2018's; "auto" looks at each context."""

    options: Options

    @property
    def tokens_key(self) -> str:
        return f"stride {self.options.stride}, {self.options.max_question_tokens} of a question"

    def head(self) -> dict[str, Any]:
        """Two logits a token, whatever number of labels an encoder's config has of an earlier task."""
        return {"num_labels": 2}

    def encode(self, columns: dict[str, list[Any]], tokenizer: Any, max_length: int) -> Encoded:
        _check_context(columns)
        asked, stride = self.options.max_question_tokens, self.options.stride
        return windows(columns["text"], columns["text_pair"], tokenizer, max_length, asked, stride)

    def targets(self, values: list[Any], where: str) -> Characters:
        """[rows, 2]: the characters of the first answer that has a place."""
        return np.array([self._span(value, None, f"{where}, row {row}")[0] for row, value in enumerate(values, 1)])

    def read_labels(self, source: Source, note: Callable[[str], None]) -> Characters:
        """As `targets`, with a look at the contexts: what does not stand where it is said to is looked for.

        Tells how many answers were moved and how many are nowhere; these teach nothing, and count when it is measured.

        Raises: DataError, naming the row, for an empty question or context, or no answer where there must be one.
        """
        _check_context(source.dataset.column_names)
        moved = lost = 0
        spans = []
        for row, (question, context, value) in enumerate(_rows_of(source), 1):
            for text, what in ((question, "question"), (context, "context")):
                if not text.strip():
                    raise DataError(f"{source.path}, row {row}: the {what} is empty.")
            span, elsewhere = self._span(value, context, f"{source.path}, row {row}")
            moved, lost = moved + elsewhere, lost + (span[0] == IGNORED and value is not None)
            spans.append(span)
        if moved:
            note(f"{source.path}: {moved} answers stand elsewhere than answer_start says; the nearest place is taken.")
        if lost:
            told = "have no answer that stands in the context; they teach nothing."
            note(f"{source.path}: {lost} of {len(spans)} questions {told}")
        return np.array(spans)

    def _span(self, value: Mapping[str, Any] | None, context: str | None, where: str) -> tuple[tuple[int, int], bool]:
        """The characters of a row's first answer that has a place, and whether this is another than was said."""
        if value is None:
            return (IGNORED, IGNORED), False
        told = [(text, start) for text, start in zip(value["text"], value["answer_start"], strict=True) if text.strip()]
        if not told and not self.options.unanswerable:
            raise DataError(
                f"{where}: the question has no answer; where that is meant, as in SQuAD 2.0, set "
                "task.unanswerable = true (for a saved model, write "
                f'{{"task": {{"kind": "{self.name}", "unanswerable": true}}}} into its potstill.json), else correct '
                "the row."
            )
        if not told:
            return (NOWHERE, NOWHERE), False
        for text, start in told:
            place = start if context is None else _place(text, start, context)
            if place >= 0:
                return (place, place + len(text)), place != start and start >= 0
        return (IGNORED, IGNORED), False

    def align(self, labels: Any, table: Tokens) -> npt.NDArray[np.int64]:
        """[windows, 2]: the tokens where a window's answer begins and ends."""
        return positions(labels, table)

    def logits(self, output: Any) -> Tensor:
        """[batch, seq, 2]: how likely an answer begins, and ends, at each token."""
        if "logits" in output:  # an exported model
            return super().logits(output)
        return torch.stack((output["start_logits"], output["end_logits"]), dim=-1)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy in nats over the tokens of the context and the one for "no answer", a mean over both ends."""
        kept = batch.labels != IGNORED
        total = F.cross_entropy(_within(logits, batch), batch.labels, ignore_index=IGNORED, reduction="sum")
        return total / kept.sum().clamp(min=1)

    def predictions(self, logits: Tensor, batch: Batch) -> list[Prediction]:
        """Two, over the same tokens as the loss, each [batch, seq]: where the answer begins, and where it ends."""
        assert batch.valid is not None
        start, end = _within(logits, batch).unbind(-1)
        return [
            Prediction("start", start, "categorical", EXAMPLE, batch.labels[:, 0], batch.valid),
            Prediction("end", end, "categorical", EXAMPLE, batch.labels[:, 1], batch.valid),
        ]

    def outcome(self, logits: Tensor, batch: Batch) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """[batch, 2, 3]: first and last token and score of "no answer" and of the best answer; [batch], row numbers."""
        assert batch.valid is not None
        nothing, best = _candidates(logits, batch.valid, self.options.max_answer_tokens, 1)
        return torch.cat((nothing, best), 1).cpu().numpy(), batch.index.cpu().numpy()

    def score(
        self, logits: npt.NDArray[Any] | list[npt.NDArray[Any]], labels: Any, rows: Examples | None = None
    ) -> dict[str, float]:
        """Exact match and F1 over the questions that have answers, or are known to have none."""
        assert rows is not None
        return self.rescore(*self.kept(logits, labels, rows))

    def details(
        self, outcomes: Any, labels: Any, lengths: npt.NDArray[Any], rows: Examples | None = None
    ) -> details.Details:
        """By length, the tokens of all windows of a question, and a bootstrap interval of F1 over the questions."""
        assert rows is not None
        found = self._judged(outcomes, labels, rows)
        if not found:
            return {}
        table = np.array(list(found.values()), dtype=np.float64)
        whole = np.bincount(rows.origin, weights=lengths)[list(found)].astype(int)
        ends = details.bootstrap(lambda some: float(table[some, 2].mean()), len(table))
        return {
            "lengths": details.by_length(whole, lambda some: _scores(table[some])),
            "intervals": details.interval("f1", table[:, 2].mean(), ends, len(table), "bootstrap over questions, 95 %"),
        }

    def kept(self, outcomes: Any, labels: Any, rows: Examples) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """[questions, 3] whether it has an answer, exact match and F1; [questions, 2] its row, and the first again."""
        found = self._judged(outcomes, labels, rows)
        table = np.array(list(found.values()), dtype=np.float64).reshape(-1, 3)
        return table, np.column_stack([list(found), table[:, 0]]).astype(np.int64)

    def rescore(self, kept: Any, labels: Any) -> dict[str, float]:
        return _means(np.asarray(kept)) if len(kept) else {}

    def _judged(
        self, logits: npt.NDArray[Any] | list[npt.NDArray[Any]], labels: Any, rows: Examples
    ) -> dict[int, tuple[bool, float, float]]:
        """By row of the data: whether the question has an answer, exact match and F1."""
        assert rows.source is not None
        kept = np.concatenate(logits) if isinstance(logits, list) else logits
        windows_of = _by_row(kept, np.asarray(labels), rows)
        found: dict[int, tuple[bool, float, float]] = {}
        for row, (_, context, value) in enumerate(_rows_of(rows.source)):
            if value is not None and row in windows_of:
                known = [text for text in value["text"] if text.strip()]
                told = self._told(windows_of[row], context, rows)
                found[row] = (bool(known), *self._measured(told, known or [""], context))
        return found

    def _told(self, kept: list[tuple[int, npt.NDArray[Any]]], context: str, rows: Examples) -> str:
        """The answer to a question, of what was kept of its windows."""
        window, best = max(kept, key=lambda one: float(one[1][1, 2]))
        nothing = min(float(one[0, 2]) for _, one in kept)
        if self.options.unanswerable and nothing - float(best[1, 2]) > self.options.null_threshold:
            return ""
        start, end = _characters(best[1], window, rows)
        return context[start:end]

    def _measured(self, told: str, known: list[str], context: str) -> tuple[float, float]:
        language = self.options.language
        rules = answers.language_of(context) if language == "auto" else language
        return answers.exact_match(told, known, rules), answers.f1(told, known, rules)

    def decode(
        self,
        logits: npt.NDArray[np.floating[Any]],
        inputs: Mapping[str, Tensor],
        tokenizer: Any,
        rows: Examples | None = None,
    ) -> list[dict[str, Any]]:
        """{"answer": its text, "" for none, "score": its probability among the best, "start", "end": its place}."""
        assert rows is not None
        assert rows.source is not None
        valid = rows.batch(np.arange(len(rows))).valid
        assert valid is not None
        nothing, best = _candidates(
            torch.from_numpy(logits), valid, self.options.max_answer_tokens, self.options.n_best
        )
        both = torch.cat((nothing, best), 1).numpy()
        by_row = _by_row(both, np.arange(len(rows)), rows)
        return [self._answer(by_row[row], context, rows) for row, (_, context, _) in enumerate(_rows_of(rows.source))]

    def _answer(self, kept: list[tuple[int, npt.NDArray[Any]]], context: str, rows: Examples) -> dict[str, Any]:
        every = [(float(one[2]), window, one) for window, found in kept for one in found[1:]]
        score, window, best = max(every, key=lambda one: one[0])
        nothing = min(float(found[0, 2]) for _, found in kept)
        scores = [one[0] for one in every] + ([nothing] if self.options.unanswerable else [])
        total = np.exp(np.array(scores) - max(scores)).sum()
        if score <= _FAR or (self.options.unanswerable and nothing - score > self.options.null_threshold):
            return {"answer": "", "score": float(np.exp(nothing - max(scores)) / total)}
        start, end = _characters(best, window, rows)
        probability = float(np.exp(score - max(scores)) / total)
        return {"answer": context[start:end], "score": probability, "start": start, "end": end}


def _check_context(columns: Collection[str]) -> None:
    if "text_pair" not in columns:
        raise DataError(
            f"The task '{QuestionAnswering.name}' reads a question (data.text) and its context (data.text_pair), and "
            'there is no context; name its column, as in text_pair = "context".'
        )


def _rows_of(source: Source) -> Iterator[tuple[str, str, dict[str, Any] | None]]:
    """Question, context and answers of each row."""
    values = source.labels()
    yield from zip(source.dataset["text"], source.dataset["text_pair"], values, strict=True)


def _place(text: str, start: int, context: str) -> int:
    """Where an answer stands: where it is said to, else at its nearest place; -1 where it is nowhere."""
    if start >= 0 and context.startswith(text, start):
        return start
    behind, before = context.find(text, max(start, 0)), context.rfind(text, 0, max(start, 0) + len(text))
    places = [place for place in (behind, before) if place >= 0]
    return min(places, key=lambda place: abs(place - start), default=-1)


def _within(logits: Tensor, batch: Batch) -> Tensor:
    """[batch, seq, 2] logits, at tokens that cannot be chosen far below all others."""
    assert batch.valid is not None
    return full_precision(logits).masked_fill(~batch.valid[..., None], _FAR)


def _candidates(logits: Tensor, valid: Tensor, longest: int, count: int) -> tuple[Tensor, Tensor]:
    """ "No answer", [batch, 1, 3], and the best answers of each row, [batch, count, 3]: first and last token, score.

    Every pair of tokens is looked at that is in order, not too far apart, and all within the context. Where a row has
    fewer of them, or no token for "no answer", the score is `_FAR` or less.
    """
    rows, width = valid.shape
    longest = min(longest, width)  # every further place would be padding, in a table of width x longest
    starts, ends = full_precision(logits).masked_fill(~valid[..., None], _FAR).unbind(-1)
    group = (~valid).cumsum(1)  # the context in one piece has one number, the token for "no answer" another
    first = valid.float().argmax(1)
    last = width - 1 - valid.flip(1).float().argmax(1)
    every = torch.arange(rows, device=valid.device)
    apart = group[every, first] != group[every, last]
    context = valid & (group == group[every, last][:, None])
    nothing = torch.where(apart, starts[every, first] + ends[every, first], _FAR)
    far = torch.full((rows, longest), _FAR, device=valid.device)
    reach = torch.cat((ends.masked_fill(~context, _FAR), far), 1).unfold(1, longest, 1)[:, :width]
    scores = (starts.masked_fill(~context, _FAR)[..., None] + reach).clamp(min=_FAR).flatten(1)
    best, at = scores.topk(min(count, scores.shape[1]), dim=1)
    begin, length = at // longest, at % longest
    found = torch.stack((begin.to(best), (begin + length).clamp(max=width - 1).to(best), best), -1)
    return torch.stack((first.to(best), first.to(best), nothing), -1)[:, None], found


def _by_row(
    kept: npt.NDArray[Any], numbers: npt.NDArray[Any], rows: Examples
) -> dict[int, list[tuple[int, npt.NDArray[Any]]]]:
    """By row of the data, its windows' numbers and what was kept of each."""
    found: dict[int, list[tuple[int, npt.NDArray[Any]]]] = {}
    origin = rows.origin
    for number, one in zip(numbers.tolist(), kept, strict=True):
        found.setdefault(int(origin[number]), []).append((number, one))
    return found


def _characters(span: npt.NDArray[Any], window: int, rows: Examples) -> tuple[int, int]:
    """The characters of the context between a span's first and last token."""
    [[starts], [ends]] = rows.student.marks(np.array([window]), "start", "end")
    return max(int(starts[int(span[0])]), 0), max(int(ends[int(span[1])]), 0)


def _scores(table: npt.NDArray[Any]) -> dict[str, float]:
    return {"f1": float(table[:, 2].mean()), "exact_match": float(table[:, 1].mean())}


def _means(table: npt.NDArray[Any]) -> dict[str, float]:
    """Of [questions, 3]: has an answer, exact match, F1."""
    answerable = table[:, 0] == 1
    scores = {"f1": table[:, 2].mean(), "exact_match": table[:, 1].mean()}
    if not answerable.all():
        scores["unanswerable_accuracy"] = table[~answerable, 1].mean()
        if answerable.any():
            scores |= {
                "answerable_f1": table[answerable, 2].mean(),
                "answerable_exact_match": table[answerable, 1].mean(),
            }
    return {name: float(value) for name, value in scores.items()}
