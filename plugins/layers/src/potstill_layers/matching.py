"""From the options to what is matched in a stage: exact layers, features, projections."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from potstill.errors import ModelError, RecipeError
from potstill.features import POOLED, Attention, Feature, Hidden, Scores
from potstill.layers import Layers, layer_pairs
from potstill_layers.losses import LOSSES, Loss
from potstill_layers.options import LayerNumbers, Match, Options
from potstill_layers.projection import Projection

if TYPE_CHECKING:
    from potstill.batch import Unit
    from potstill.observe import Outputs
    from potstill.stage import Stage

_FEATURES: dict[str, type[Hidden | Scores | Attention]] = {"hidden": Hidden, "scores": Scores, "attention": Attention}


@dataclass(frozen=True)
class Matched:
    """A match with its layers counted from the front.

    Attributes:
        match: as the options have it, with exact layers.
        of: the teacher's name; None for the only one.
        projection: of the student's side, or None.
    """

    match: Match
    of: str | None
    projection: Projection | None
    options: Options

    @property
    def loss(self) -> Loss:
        return LOSSES[self.match.loss]

    @property
    def name(self) -> str:
        """Of the loss term, such as "hidden_mse_t4_s2": the teacher's layer 4 and the student's layer 2."""
        match, of = self.match, "" if self.of is None else f"_of_{self.of}"
        if match.what == "pooled":
            return f"{match.loss}_pooled{of}"
        feature = "_attention" if match.what == "attention" else ""
        return f"{match.loss}{feature}_t{_told(match.teacher)}_s{_told(match.student)}{of}"

    @property
    def told(self) -> dict[str, Any]:
        """What the plan and the stage's result say of the match."""
        match = self.match
        facts: dict[str, Any] = {} if self.of is None else {"of": self.of}
        if match.what != "pooled":
            facts |= {"teacher": _told(match.teacher), "student": _told(match.student)}
        facts |= {"loss": match.loss, "feature": match.what, "weight": match.weight}
        return facts if self.projection is None else {**facts, "projection": self.projection.told}

    @property
    def per(self) -> Unit:
        """What the loss is a mean of."""
        return self.loss.unit(self.match.what, self.options.padding)

    @property
    def aligned(self) -> bool:
        """Whether it compares position by position; pooled vectors and [CLS] stand for whatever tokens there are."""
        return self.match.what != "pooled" and self.match.loss != "pkd"

    @property
    def teacher(self) -> tuple[Feature, ...]:
        return _features(self.match, self.match.teacher)

    @property
    def student(self) -> tuple[Feature, ...]:
        return _features(self.match, self.match.student)

    def value(self, student: Outputs, teacher: Outputs) -> Tensor:
        """The loss of a batch, a mean per `per`."""
        ours = {feature: self._projected(student[feature]) for feature in self.student}
        known = [teacher[feature] for feature in self.teacher]
        learnt = [ours[feature] for feature in self.student]
        mask = None if self.options.padding or self.match.what == "pooled" else student.mask
        more = {"reference": self.options.reference} if self.loss.differs else {}
        if self.loss.pairs:
            return self.loss.function(tuple(learnt), tuple(known), mask, **more)
        return self.loss.function(learnt[0], known[0], mask, **more)

    def _projected(self, states: Tensor) -> Tensor:
        if self.projection is None:
            return states
        projected: Tensor = self.projection(states)
        return projected


def matched(options: Options, stage: Stage) -> list[Matched]:
    """Everything that the options match in a stage.

    Raises: ModelError for a layer or teacher that is not there, RecipeError for what does not fit together.
    """
    found = [_matched(match, options, stage) for match in (*(options.matches or ()), *_mapped(options, stage))]
    names = [one.name for one in found]
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(f"stage '{stage.plan.name}': '{name}' is matched twice; leave one of the two out.")
    return found


def _mapped(options: Options, stage: Stage) -> Iterator[Match]:
    """The losses of the map, layer by layer."""
    if not options.on_map:
        return
    own = Layers.of(stage.student.module).count
    pairs = _map(options, own, Layers.of(_teacher(stage, options.of)).count, stage.plan.name)
    for name, weight in options.on_map.items():
        embeddings = (name != "pkd") if options.embeddings is None else options.embeddings
        first = ((0, 0),) if embeddings and LOSSES[name].features[0] == "hidden" else ()
        for student, teacher in (*first, *pairs):
            layers = [(layer, layer) if LOSSES[name].pairs else layer for layer in (teacher, student)]
            yield Match.model_validate({"loss": name, "weight": weight, "teacher": layers[0], "student": layers[1]})


def _map(options: Options, student: int, teacher: int, stage: str) -> tuple[tuple[int, int], ...]:
    for side, count in (("student", student), ("teacher", teacher)):
        if not count:
            raise ModelError(f"stage '{stage}': the {side} has no list of layers that a map could be laid on.")
    if isinstance(options.map, tuple):
        if len(options.map) != student:
            raise RecipeError(
                f"stage '{stage}': map = {list(options.map)} names {len(options.map)} layers of the teacher, and the "
                f"student has {student} layers that each need one."
            )
        return tuple(enumerate(options.map, start=1))
    pairs = layer_pairs(options.map, student, teacher)
    if not pairs:
        raise RecipeError(f"stage '{stage}': map = '{options.map}' leaves the student's only layer out.")
    return pairs


def _matched(match: Match, options: Options, stage: Stage) -> Matched:
    """Exact layers, checked sizes and, where it is needed or asked for, a projection."""
    of = options.of if match.of is None else match.of
    modules = {"teacher": _teacher(stage, of), "student": stage.student.module}
    exact = {side: _exact(getattr(match, side), match, module, side) for side, module in modules.items()}
    match = match.model_copy(update=exact)
    if LOSSES[match.loss].equal == "heads":
        _check_heads(match, modules)
    return Matched(match, of, _projection(match, options, modules), options)


def _teacher(stage: Stage, of: str | None) -> nn.Module:
    if of is None:
        return stage.teacher.module
    if of not in stage.teacher_names:
        known = ", ".join(filter(None, stage.teacher_names)) or "none with a name"
        raise ModelError(f"of = '{of}' is no teacher of the stage '{stage.plan.name}'; its teachers: {known}.")
    return stage.teachers[of].module


def _exact(layers: LayerNumbers | None, match: Match, module: nn.Module, side: str) -> LayerNumbers | None:
    first = 0 if match.what == "hidden" else 1
    if layers is None:
        return None
    if isinstance(layers, int):
        return Layers.of(module).exact(layers, first=first, side=side)
    one, other = (Layers.of(module).exact(layer, first=first, side=side) for layer in layers)
    return one, other


def _projection(match: Match, options: Options, modules: dict[str, nn.Module]) -> Projection | None:
    if match.what not in ("hidden", "pooled"):
        return None
    student, teacher = (_size(modules[side], "hidden_size", side) for side in ("student", "teacher"))
    minds = LOSSES[match.loss].equal == "width"
    kind = match.projection or (options.projection if minds else None)
    if kind == "none" and minds and student != teacher:
        raise RecipeError(
            f"'{match.loss}' compares vectors of one width, and the student is {student} wide and the teacher "
            f"{teacher}; leave projection = 'none' out, or take 'nst'."
        )
    if kind is None and minds and student != teacher:
        kind = "linear"
    return None if kind is None or kind == "none" else Projection(kind, student, teacher)


def _check_heads(match: Match, modules: dict[str, nn.Module]) -> None:
    student, teacher = (_size(modules[side], "num_attention_heads", side) for side in ("student", "teacher"))
    if student != teacher:
        instead = {"attention_mse": "attention_mse_sum", "attention_ce": "attention_ce_mean"}[match.loss]
        raise RecipeError(
            f"'{match.loss}' compares head by head, and the student has {student} heads and the teacher {teacher}; "
            f"take '{instead}'."
        )


def _size(module: nn.Module, key: str, side: str) -> int:
    size = getattr(getattr(module, "config", None), key, None)
    if not isinstance(size, int):
        raise ModelError(f"The {side}, a {type(module).__name__}, has no {key} in its config, so it cannot be matched.")
    return size


def _features(match: Match, layers: LayerNumbers | None) -> tuple[Feature, ...]:
    if layers is None:
        return (POOLED,)
    numbers = (layers,) if isinstance(layers, int) else layers
    return tuple(_FEATURES[match.what](number) for number in numbers)


def _told(layers: LayerNumbers | None) -> str:
    """A layer, or two; a layer with itself is one."""
    numbers = layers if isinstance(layers, tuple) else (layers,)
    return "-".join(map(str, dict.fromkeys(numbers)))
