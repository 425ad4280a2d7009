"""The plugin `tinybert`: a student learns the teacher's inner layers, then its predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from potstill.batch import PAIR, POSITION, POSITION_PAIR, TARGET, TOKEN
from potstill.errors import ModelError
from potstill.features import LOGITS, Hidden, Scores
from potstill.layers import Layers, layer_pairs
from potstill.plugin import LossTerm, Plugin, hookimpl
from potstill_tinybert import losses
from potstill_tinybert.augmentation import augmenting
from potstill_tinybert.config import TinyBERTConfig
from potstill_tinybert.optimizer import BertAdam, clip_each
from potstill_tinybert.phases import parts_of
from potstill_tinybert.projection import Projection

if TYPE_CHECKING:
    from torch import Tensor, nn

    from potstill.optimizer import Groups
    from potstill.recipe import StagePlan
    from potstill.stage import Stage
    from potstill.step import Step
    from potstill.tasks import Prediction


class TinyBERT(Plugin):
    """Embedding outputs, hidden states, attention scores, then predictions (Jiao et al. 2020, arXiv 1909.10351)."""

    name = "tinybert"
    provides = frozenset({"objective"})
    requires = frozenset({"teacher", "same-tokenizer"})

    Config = TinyBERTConfig

    config: TinyBERTConfig

    def __init__(self, config: TinyBERTConfig) -> None:
        super().__init__(config)
        self._pairs: tuple[tuple[int, int], ...] = ()
        self._projection: Projection | None = None
        # What the losses of states and of scores are means of.
        self._units = (TOKEN, PAIR) if config.padding == "excluded" else (POSITION, POSITION_PAIR)

    @hookimpl
    def expand_stage(self, plan: StagePlan) -> list[StagePlan] | None:
        return None if self.config.phase else parts_of(plan, self.name, self.config)

    @hookimpl
    def setup(self, stage: Stage) -> None:
        if self.config.phase == "prediction":
            stage.observe(teacher=[LOGITS])
        else:
            self._observe_layers(stage)
        if self.config.augmentation is not None and self.config.phase != "general":
            stage.add_transform(augmenting(self.config.augmentation, stage))
        if self.config.optimizer == "bertadam":
            stage.claim("optimizer", _bertadam)
            stage.claim("clip", clip_each(stage.plan.clip))

    @hookimpl
    def compute_loss(self, step: Step) -> list[LossTerm]:
        return self._predictions(step) if self.config.phase == "prediction" else self._inner(step)

    # between inner layers

    def _observe_layers(self, stage: Stage) -> None:
        student, teacher = stage.student.module, stage.teacher.module
        self._pairs = self._map(student, teacher)
        stage.explain("layers", [f"student {own} ← teacher {known}" for own, known in self._pairs])
        if self.config.embedding:
            stage.observe(student=[Hidden(0)], teacher=[Hidden(0)])
        if self.config.hidden:
            _observe_pairs(stage, Hidden, self._pairs)
        if self.config.attention:
            _check_heads(student, teacher)
            _observe_pairs(stage, Scores, self._pairs)
        self._add_projection(stage, _width(student), _width(teacher))
        for unit in self._units:
            stage.add_unit(unit)

    def _map(self, student: nn.Module, teacher: nn.Module) -> tuple[tuple[int, int], ...]:
        """Pairs (student layer, teacher layer), from 1."""
        own, known = Layers.of(student), Layers.of(teacher)
        given = self.config.layers
        if isinstance(given, str):
            return layer_pairs(given, own.count, known.count)
        if len(given) != own.count:
            raise ModelError(
                f"tinybert.layers = {list(given)} is for a student of {len(given)} layers, and this one has "
                f"{own.count}; give the teacher's layer for each of them, 0 where one learns from none."
            )
        exact = [known.exact(layer, first=1, side="teacher") if layer else 0 for layer in given]
        return tuple((layer, taught) for layer, taught in enumerate(exact, start=1) if taught)

    def _add_projection(self, stage: Stage, student: int, teacher: int) -> None:
        layers = [0] * bool(self.config.embedding) + [own for own, _ in self._pairs if self.config.hidden]
        sharing = self.config.projection
        if not layers or (student == teacher and sharing in ("auto", "none")):
            return
        if sharing == "none":
            raise ModelError(
                f"tinybert.projection = 'none', but the student is {student} wide and the teacher {teacher}; "
                "leave it out, or give both the same hidden_size."
            )
        sharing = "shared" if sharing == "auto" else sharing
        stage.explain("projection", f"{sharing}, {student} → {teacher}")
        self._projection = Projection(sharing, student, teacher, layers)
        stage.add_module("tinybert_projection", self._projection)

    def _inner(self, step: Step) -> list[LossTerm]:
        per_state, per_score = self._units
        terms = []
        if self.config.embedding:
            terms.append(LossTerm("embedding", self._hidden(step, 0, 0), self.config.embedding, per_state))
        if self.config.hidden and self._pairs:
            values = [self._hidden(step, own, known) for own, known in self._pairs]
            terms.append(LossTerm("hidden", _sum(values), self.config.hidden, per_state))
        if self.config.attention and self._pairs:
            values = [self._attention(step, own, known) for own, known in self._pairs]
            terms.append(LossTerm("attention", _sum(values), self.config.attention, per_score))
        return terms

    def _hidden(self, step: Step, own: int, known: int) -> Tensor:
        student, teacher = step.student(), step.teacher()
        hidden = student[Hidden(own)]
        if self._projection is not None:
            hidden = self._projection(hidden, own)
        return losses.hidden_mse(hidden, teacher[Hidden(known)], student.mask, padding=self.config.padding)

    def _attention(self, step: Step, own: int, known: int) -> Tensor:
        student, teacher = step.student(), step.teacher()
        scores = student[Scores(own)], teacher[Scores(known)]
        return losses.attention_mse(*scores, student.mask, padding=self.config.padding)

    # predictions

    def _predictions(self, step: Step) -> list[LossTerm]:
        """One term a prediction of the task (a span has two: start and end); together they weigh `prediction`."""
        task = step.stage.task
        student = task.predictions(step.student().logits, step.batch)
        teacher = task.predictions(step.teacher().logits, step.batch)
        weight = self.config.prediction / len(student)
        named = ["prediction" if len(student) == 1 else f"prediction_{learnt.name}" for learnt in student]
        return [
            self._prediction(step, name, weight, learnt, known.logits)
            for name, learnt, known in zip(named, student, teacher, strict=True)
        ]

    def _prediction(self, step: Step, name: str, weight: float, student: Prediction, teacher: Tensor) -> LossTerm:
        config = self.config
        if student.kind != "value":
            value = losses.soft_ce(
                student.logits,
                teacher,
                config.temperature,
                reduction=config.reduction,
                kind=student.kind,
                choices=student.choices,
            )
            return LossTerm(name, value, weight, student.per)
        if config.reduction == "reference":
            return LossTerm(name, step.supervised().value, weight, TARGET)
        return LossTerm(name, losses.value_mse(student.logits, teacher), weight, student.per)


def _observe_pairs(stage: Stage, feature: type[Hidden] | type[Scores], pairs: tuple[tuple[int, int], ...]) -> None:
    own, known = ([feature(pair[side]) for pair in pairs] for side in (0, 1))
    stage.observe(student=own, teacher=known)


def _check_heads(student: nn.Module, teacher: nn.Module) -> None:
    own, known = (getattr(module.config, "num_attention_heads", None) for module in (student, teacher))
    if own != known:
        raise ModelError(
            f"The teacher has {known} attention heads and the student {own}, and tinybert compares attention scores "
            f"head by head; give the student num_attention_heads = {known}, or set tinybert.attention = 0."
        )


def _width(module: nn.Module) -> int:
    return int(module.config.hidden_size)  # type: ignore[union-attr, arg-type]


def _sum(values: list[Tensor]) -> Tensor:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


def _bertadam(groups: Groups, plan: StagePlan) -> BertAdam:
    return BertAdam(groups, lr=plan.learning_rate, betas=plan.betas, eps=plan.epsilon)
