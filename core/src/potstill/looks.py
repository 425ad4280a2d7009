"""What the plugins of one stage look at in its models, and the observers that deliver it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from potstill.errors import PluginError
from potstill.features import LOGITS, Feature
from potstill.observe import Observer
from potstill.references import teacher_side

if TYPE_CHECKING:
    from potstill.models import Model
    from potstill.stagemodels import StageModels


class Looks:
    """The features that are observed, side by side: "student", "teacher" or, with a name, "teacher NAME".

    Args:
        models: of the stage.
        exit: the stage's, on which the observers are closed.
    """

    def __init__(self, models: StageModels, exit: ExitStack) -> None:
        self._models, self._exit = models, exit
        self._features: dict[str, set[Feature]] = {"student": {LOGITS}}
        self._observers: dict[str, Observer] = {}

    def ask(self, teacher: Iterable[Feature], student: Iterable[Feature], of: str | None) -> None:
        """Adds features; `of` as in `Stage.observe`.

        Raises: ModelError for no such teacher, or inner features of several.
        """
        self._features["student"] |= set(student)
        wanted = set(teacher)
        for name in self._meant(of, wanted) if wanted else ():
            self._features.setdefault(teacher_side(name), set()).update(wanted)

    def _meant(self, of: str | None, wanted: set[Feature]) -> tuple[str, ...]:
        names = self._models.names
        if of is not None:
            if of not in names:
                self._models.teacher(of)
            return (of,)
        return names if wanted <= {LOGITS} and names else (self._models.only(),)

    @property
    def at_teacher(self) -> bool:
        """Whether any teacher is observed."""
        return len(self._features) > 1

    @property
    def at_teachers_logits_alone(self) -> bool:
        """Whether the one teacher is observed, and for its logits only."""
        return self._features.get("teacher") == {LOGITS}

    @property
    def observed(self) -> dict[str, list[Feature]]:
        """Every side's features, sorted."""
        return {side: sorted(features, key=str) for side, features in self._features.items()}

    @property
    def teachers(self) -> dict[str, str]:
        """The names of the observed teachers, by side; the others need not be loaded."""
        return {side: name for name in self._models.names if (side := teacher_side(name)) in self._features}

    def observer(self, side: str, student: Model) -> Observer:
        """The observer of a side, made when first used.

        Raises: PluginError where nobody observes that side.
        """
        if side not in self._observers:
            if side not in self._features:
                raise PluginError(f"A plugin uses the {side}'s outputs but observed none; call stage.observe in setup.")
            model = student if side == "student" else self._models.teacher(side.removeprefix("teacher").lstrip())
            self._observers[side] = Observer(model.module, self._features[side], side)
            self._exit.callback(self._observers[side].close)
        return self._observers[side]
