"""Language models: the tokens of a text itself are what is predicted, hidden ones or each next one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from potstill import details
from potstill.batch import IGNORED, TOKEN
from potstill.data.masking import Masking, mask_id_of
from potstill.errors import DataError, ModelError
from potstill.tasks import Prediction, Task, full_precision

if TYPE_CHECKING:
    from potstill.batch import Batch
    from potstill.collate import Masked
    from potstill.data.examples import Examples
    from potstill.data.random import RowRandom
    from potstill.models import Model

_TOP = 5
"""So many words are told of each place."""


class LanguageModel(Task):
    """What both kinds share: logits [batch, seq, vocabulary], and labels [batch, seq] made of the text."""

    label_column = False
    axes: ClassVar[tuple[str, ...]] = ("batch", "seq", "vocabulary")
    default_metric = "perplexity"
    metrics: ClassVar[tuple[str, ...]] = ("perplexity", "accuracy")

    def head(self) -> dict[str, Any]:
        return {}

    def targets(self, values: list[Any], where: str) -> npt.NDArray[np.int64]:
        """[rows] zeros: every row has labels, which are made when it is in a batch."""
        return np.zeros(len(values), dtype=np.int64)

    def collate_labels(self, labels: Any, width: int) -> Tensor:
        """[batch, width], none yet."""
        return torch.full((len(labels), width), IGNORED)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy in nats over the tokens that have a label."""
        chosen, labels = _at(logits, batch.labelled), batch.labels.flatten()[batch.labelled]
        return F.cross_entropy(full_precision(chosen), labels, reduction="sum") / max(1, len(labels))

    def predictions(self, logits: Tensor, batch: Batch) -> list[Prediction]:
        """One over all attended tokens, [tokens, vocabulary]."""
        return [Prediction("token", _at(logits, batch.attended), "categorical", TOKEN)]

    def outcome(self, logits: Tensor, batch: Batch) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """[batch, 2]: the sum of the losses of a row's labels, and how many are predicted right; [batch]: how many."""
        places = batch.labelled
        chosen, labels = full_precision(_at(logits, places)), batch.labels.flatten()[places]
        found = torch.stack([F.cross_entropy(chosen, labels, reduction="none"), (chosen.argmax(-1) == labels).float()])
        rows = (places // batch.labels.shape[1]).cpu()
        sums = torch.zeros(len(batch), 2, dtype=torch.float64).index_add_(0, rows, found.T.double().cpu())
        return sums.numpy(), rows.bincount(minlength=len(batch)).numpy()

    def score(
        self, logits: npt.NDArray[Any] | list[npt.NDArray[Any]], labels: Any, rows: Examples | None = None
    ) -> dict[str, float]:
        """The exponential of the mean loss, and the share of tokens predicted right, over all labels."""
        sums = _rows(logits)
        count = int(np.sum(labels))
        if not count:
            return {}
        loss, right = sums.sum(0) / count
        with np.errstate(over="ignore"):
            return {"perplexity": float(np.exp(loss)), "accuracy": float(right)}

    def details(
        self, outcomes: Any, labels: Any, lengths: npt.NDArray[Any], rows: Examples | None = None
    ) -> details.Details:
        """Perplexity and accuracy by length, and a bootstrap interval of the perplexity over the rows."""
        sums, counts = _rows(outcomes), np.asarray(labels)
        whole = self.score(sums, counts)
        if not whole:
            return {}

        def perplexity(rows: npt.NDArray[Any]) -> float:
            return self.score(sums[rows], counts[rows]).get("perplexity", math.nan)

        ends = details.bootstrap(perplexity, len(counts))
        return {
            "lengths": details.by_length(lengths, lambda rows: self.score(sums[rows], counts[rows])),
            "intervals": details.interval(
                "perplexity", whole["perplexity"], ends, len(counts), "bootstrap over rows, 95 %"
            ),
        }

    def check_logits(self, student: Model, teacher: Model) -> None:
        """Both are over one vocabulary, of one size."""
        self.check_one_tokenizer(student, teacher)
        own, known = (getattr(model.module.config, "vocab_size", None) for model in (student, teacher))
        if own != known:
            raise ModelError(
                f"The teacher's logits are over {known} tokens and the student's over {own}; set vocab_size = {known} "
                "in the student's config."
            )


class MaskedLM(LanguageModel):
    """Predicts the hidden tokens of a text."""

    name = "masked-lm"
    auto_class = "AutoModelForMaskedLM"
    architectures = ("ForMaskedLM",)

    def masking(self, tokenizer: Any) -> Masked:
        return Masking(tokenizer)

    def decode(
        self,
        logits: npt.NDArray[np.floating[Any]],
        inputs: Mapping[str, Tensor],
        tokenizer: Any,
        rows: Examples | None = None,
    ) -> list[dict[str, Any]]:
        """{"words": the most probable words at each mask token, in their order, each with its score} of each row."""
        hidden = inputs["input_ids"] == mask_id_of(tokenizer)
        without = (~hidden.any(1)).nonzero()
        if len(without):
            text = tokenizer.decode(inputs["input_ids"][without[0, 0]], skip_special_tokens=True)
            raise DataError(f"'{text}' holds no {tokenizer.mask_token}, which stands for the word to be predicted.")
        every = torch.from_numpy(logits)
        return [
            {"words": [_words(place, tokenizer) for place in row[kept]]}
            for row, kept in zip(every, hidden, strict=True)
        ]


class CausalLM(LanguageModel):
    """Predicts each next token of a text; the labels stand where the logits for them do, so the last token has none."""

    name = "causal-lm"
    auto_class = "AutoModelForCausalLM"
    architectures = ("ForCausalLM", "LMHeadModel")

    def head(self) -> dict[str, Any]:
        """Encoders that can be decoders see no later token then; for others it changes nothing."""
        return {"is_decoder": True}

    def check_model(self, model: Model) -> None:
        """By a look at two texts that differ in their last token: what is said of the first must be the same.

        Raises: ModelError for a model that sees the token it is to predict.
        """
        module, last = model.module, len(model.tokenizer) - 1
        ids = torch.tensor([[last, last], [last, max(0, last - 1)]], device=next(module.parameters()).device)
        training = module.training
        with torch.no_grad():
            one, other = self.logits(module.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)))[:, 0]
        module.train(training)
        if not torch.allclose(one, other, rtol=1e-5, atol=1e-6):
            raise ModelError(
                f"In the task '{self.name}' a model predicts each next token from those before it, and a "
                f"{type(module).__name__} sees the next one too; take a model with causal attention, such as gpt2, or "
                "is_decoder = true in the config of one that can be a decoder."
            )

    def masking(self, tokenizer: Any) -> Masked:
        return next_tokens

    def decode(
        self,
        logits: npt.NDArray[np.floating[Any]],
        inputs: Mapping[str, Tensor],
        tokenizer: Any,
        rows: Examples | None = None,
    ) -> list[dict[str, Any]]:
        """{"words": a list of one: the most probable words to go on with, each with its score} of each row."""
        last = inputs["attention_mask"].sum(1) - 1
        ends = torch.from_numpy(logits)[torch.arange(len(last)), last]
        return [{"words": [_words(end, tokenizer)]} for end in ends]


def _rows(outcomes: Any) -> npt.NDArray[Any]:
    """What is kept of every row, [rows, 2], in one array or in parts of the rows."""
    return np.concatenate(outcomes) if isinstance(outcomes, list) else np.asarray(outcomes)


def _at(logits: Tensor, places: Tensor) -> Tensor:
    """[n, vocabulary] of logits [batch, seq, vocabulary], at numbers in the flattened [batch * seq]."""
    return logits.flatten(0, 1)[places]


def next_tokens(batch: Batch, rng: RowRandom) -> None:
    """Sets each token's label to the next one's id; padding is neither predicted nor predicts."""
    ids, mask = batch.student["input_ids"], batch.student["attention_mask"].bool()
    batch.labels = torch.full_like(ids, IGNORED)
    batch.labels[:, :-1] = torch.where(mask[:, 1:], ids[:, 1:], IGNORED)


def _words(logits: Tensor, tokenizer: Any) -> list[dict[str, Any]]:
    scores, ids = logits.softmax(-1).topk(min(_TOP, len(logits)))
    return [
        {"word": tokenizer.decode([number]).strip(), "score": score}
        for number, score in zip(ids.tolist(), scores.tolist(), strict=True)
    ]
