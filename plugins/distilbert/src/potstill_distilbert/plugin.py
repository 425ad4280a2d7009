"""The plugins `distilbert`, which distils a language model, and `distilbert_student`, which makes its student."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from potstill.batch import TARGET, TOKEN
from potstill.errors import ModelError, RecipeError
from potstill.features import LOGITS, Hidden
from potstill.plugin import LossTerm, Plugin, PluginConfig, hookimpl

if TYPE_CHECKING:
    import numpy as np

    from potstill.models import Model
    from potstill.stage import Stage
    from potstill.step import Step

Weight = Annotated[float, Field(ge=0)]
TASKS = {"masked-lm": "mlm", "causal-lm": "clm"}
"""The tasks, and the language model's own term in each."""
PRESETS = {
    "released": {"ce": 5.0, "mlm": 2.0, "clm": 2.0, "mse": 0.0, "cos": 1.0},
    "defaults": {"ce": 0.5, "mlm": 0.0, "clm": 0.5, "mse": 0.0, "cos": 0.0},
    "readme": {"ce": 0.33, "mlm": 0.33, "clm": 0.33, "mse": 0.0, "cos": 0.33},
}
"""Weights: of the released model, of the authors' command without options, and of the command in their README."""
LAST = Hidden(-1)


class DistilBERT(Plugin):
    """Language models from language models (Sanh et al. 2019, arXiv 1910.01108)."""

    name = "distilbert"
    provides = frozenset({"objective"})
    requires = frozenset({"teacher", "same-tokenizer"})

    class Config(PluginConfig):
        preset: Literal["released", "defaults", "readme"] = "released"
        """Weights: of the released model (5, 2, 1), of the authors' command without options, or of their README."""
        ce: Weight | None = None
        """Weight of the teacher's softened probabilities; the preset's where it is left out, as the next four."""
        mlm: Weight | None = None
        """Weight of the hidden words, in the task masked-lm."""
        clm: Weight | None = None
        """Weight of the next words, in the task causal-lm."""
        mse: Weight | None = None
        """Weight of the squared distance of the logits."""
        cos: Weight | None = None
        """Weight of 1 - cosine of the last hidden states, at all tokens."""
        temperature: float = Field(2.0, gt=0)
        """Of the softened probabilities."""
        restrict_ce_to_mask: bool = False
        """Compare logits at the positions with a label alone, instead of all tokens."""
        mask_share: float = Field(0.15, gt=0, le=1)
        """Share of a micro-batch's tokens that are hidden, the exact number without replacement."""
        keep: float = Field(0.1, ge=0, le=1)
        """Share of the hidden tokens that stay as they are."""
        random: float = Field(0.1, ge=0, le=1)
        """Share of the hidden tokens that become any word."""
        smoothing: float = Field(0.7, ge=0)
        """Rare words are hidden more often, by count^-smoothing; 0: all alike."""
        group_by_length: bool = False
        """Batches by groups of lengths in steps of 4, as the authors', instead of the core's buckets."""

    config: Config

    @hookimpl
    def setup(self, stage: Stage) -> None:
        self.weights = self._weights(stage)
        self.unit = TARGET if self.config.restrict_ce_to_mask else TOKEN
        features = [LOGITS, LAST] if "cos" in self.weights else [LOGITS]
        stage.observe(teacher=features, student=features)
        if "cos" in self.weights:
            _require_same_width(stage)
        if stage.task.name == "masked-lm":
            self._check_shares()
            # The words are counted in the rows, which are there when all plugins are set up.
            stage.after_setup(partial(self._claim_masking, stage))
        if self.config.group_by_length:
            if stage.data.corpus is not None and stage.data.corpus.order == "files":
                raise RecipeError(
                    f"distilbert.group_by_length and data.corpus.order = 'files' both order the rows of the stage "
                    f"'{stage.plan.name}'; give one of them."
                )
            stage.claim("sampler", _sampler(stage.seed, stage.data.max_length))
        stage.explain("weights", self.weights)
        stage.explain("temperature", self.config.temperature)

    @hookimpl
    def compute_loss(self, step: Step) -> list[LossTerm]:
        from potstill_distilbert.losses import cosine, logit_mse, soft_ce

        student, teacher, batch, weights = step.student(), step.teacher(), step.batch, self.weights
        chosen = batch.labelled if self.config.restrict_ce_to_mask else batch.attended
        terms = []
        if "ce" in weights:
            value = soft_ce(student.logits, teacher.logits, chosen, self.config.temperature)
            terms.append(LossTerm("ce", value, weights["ce"], self.unit))
        if "mse" in weights:
            value = logit_mse(student.logits, teacher.logits, chosen)
            terms.append(LossTerm("mse", value, weights["mse"], self.unit))
        if "cos" in weights:
            value = cosine(student[LAST], teacher[LAST], batch.attended)
            terms.append(LossTerm("cos", value, weights["cos"], TOKEN))
        own = TASKS[step.stage.task.name]
        if own in weights:
            terms.append(LossTerm(own, step.supervised().value, weights[own], TARGET))
        return terms

    def _weights(self, stage: Stage) -> dict[str, float]:
        """The terms of this task that have a weight.

        Raises: RecipeError for another task, the other task's term, or no weight at all.
        """
        kind = stage.task.name
        if kind not in TASKS:
            raise RecipeError(
                f"The plugin 'distilbert' distils language models, and task.kind is '{kind}'; it goes with "
                f"{' and '.join(TASKS)}."
            )
        for other, term in TASKS.items():
            if other != kind and getattr(self.config, term):
                raise RecipeError(f"distilbert.{term} belongs to the task '{other}', and task.kind is '{kind}'.")
        preset = PRESETS[self.config.preset]
        terms = ("ce", TASKS[kind], "mse", "cos")
        given = {term: getattr(self.config, term) for term in terms}
        weights = {term: preset[term] if weight is None else weight for term, weight in given.items()}
        if not any(weights.values()):
            raise RecipeError(
                f"No loss of the plugin 'distilbert' has a weight above 0; give one of {', '.join(terms)}."
            )
        return {term: weight for term, weight in weights.items() if weight}

    def _check_shares(self) -> None:
        if self.config.keep + self.config.random > 1:
            raise RecipeError(
                f"distilbert.keep = {self.config.keep:g} and distilbert.random = {self.config.random:g} are more than "
                "1 together."
            )

    def _claim_masking(self, stage: Stage) -> None:
        import torch

        from potstill_distilbert.masking import SmoothedMasking, token_weights

        tokenizer = stage.student.tokenizer
        rows = stage.examples("train")
        assert rows is not None, "a stage that trains has training rows"
        counts = torch.from_numpy(rows.student.counts(len(tokenizer)))
        weights = token_weights(counts, self.config.smoothing, tokenizer.all_special_ids)
        shares = (self.config.mask_share, self.config.keep, self.config.random)
        stage.claim("masking", SmoothedMasking(tokenizer, weights, *shares))


class DistilBERTStudent(Plugin):
    """A student of some of the teacher's layers: of a BERT a DistilBERT, else of the teacher's own kind."""

    name = "distilbert_student"

    class Config(PluginConfig):
        layers: (
            tuple[Annotated[int, Field(ge=1)], ...]
            | Literal["published", "table", "supervised", "even", "first", "last"]
            | None
        ) = None
        """The teacher's layers, from 1, or a rule. Left out: the published list of a teacher of 12, else evenly."""
        depth: int = Field(6, ge=1)
        """How many layers a rule chooses."""
        vocab_transform: bool = True
        """Copy the transform before the vocabulary too; the authors do with --vocab_transform."""
        token_types: Literal["drop", "words", "positions"] = "drop"
        """DistilBERT has no token types: drop them as the authors do, or add the first to the words or positions."""

    config: Config

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._taken: list[int] = []

    @hookimpl
    def build_student(self, stage: Stage) -> Model | None:
        table = stage.table
        if table is None or table.plugin != self.name:
            return None
        from transformers import BertForMaskedLM

        from potstill.layers import Layers
        from potstill.models import Model, student_from_layers
        from potstill_distilbert.extraction import student_of

        teacher = stage.teacher
        found = Layers.of(teacher.module)
        self._taken = numbers = [found.exact(layer, first=1, side="teacher") for layer in self._layers(found.count)]
        if not isinstance(teacher.module, BertForMaskedLM):
            return student_from_layers(teacher, numbers, stage.task, {})
        options = {"vocab_transform": self.config.vocab_transform, "token_types": self.config.token_types}
        return Model(student_of(teacher.module, numbers, **options), teacher.tokenizer)

    @hookimpl
    def setup(self, stage: Stage) -> None:
        if self._taken:
            stage.explain("layers", self._taken)

    def _layers(self, count: int) -> tuple[int, ...]:
        from potstill_distilbert.tables import chosen_layers

        layers = self.config.layers
        if isinstance(layers, tuple):
            return layers
        return chosen_layers(layers or ("published" if count == 12 else "even"), self.config.depth, count)


def _sampler(seed: int, longest: int) -> Any:
    from potstill.data.random import permutation
    from potstill_distilbert.grouping import grouped, groups

    def sampler(lengths: np.ndarray, batch_size: int, epoch: int) -> list[np.ndarray]:
        return grouped(permutation(seed, epoch, len(lengths)), groups(lengths, longest), batch_size)

    return sampler


def _require_same_width(stage: Stage) -> None:
    own, known = (getattr(model.module.config, "hidden_size", None) for model in (stage.student, stage.teacher))
    if own != known:
        raise ModelError(
            f"The cosine of the last hidden states needs models of one width, and the teacher has {known} and the "
            f"student {own}; set distilbert.cos = 0, or give the student {known}."
        )
