"""The plugin `diito`: the student repeats what the teacher says when activations of another text are put into both."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary

from potstill.batch import TOKEN, Batch
from potstill.errors import ModelError, RecipeError
from potstill.features import LOGITS, Feature, Hidden
from potstill.plugin import LossTerm, Plugin, hookimpl
from potstill_diito.config import DiitoConfig
from potstill_diito.mapping import BUILT_IN, Alignment, Shape
from potstill_diito.mapping_files import from_tables, read_mapping

if TYPE_CHECKING:
    from potstill.data.random import RowRandom
    from potstill.models import Model
    from potstill.observe import Outputs
    from potstill.stage import Stage
    from potstill.step import Step
    from potstill_diito.interchange import Choice

SOURCE = "diito"
"""The companion with the source rows."""
NOTES = ("diito_rows", "diito_base", "diito_source")
"""Where a batch keeps its `Swaps`."""

T = TypeVar("T")


class Diito(Plugin):
    """Distillation by interchange interventions (Wu et al. 2022, arXiv 2112.02505)."""

    name = "diito"
    requires = frozenset({"teacher", "same-tokenizer"})

    Config = DiitoConfig

    config: DiitoConfig

    def __init__(self, config: DiitoConfig) -> None:
        super().__init__(config)
        self._choices: list[Choice] = []
        self._pad = 0
        # What the teacher's side of a step needs is made once for all its passes, and goes with the step.
        self._made: WeakKeyDictionary[Step, tuple[Batch, object]] = WeakKeyDictionary()

    @hookimpl
    def setup(self, stage: Stage) -> None:
        from potstill_diito.pairing import partners

        self._check(stage)
        self._pad = stage.student.tokenizer.pad_token_id or 0
        stage.add_companion(
            SOURCE,
            lambda rows, epoch, count: partners(rows, epoch, count, seed=stage.seed, pairing=self.config.pairs),
        )
        if not self.config.data_augment:
            self._align(stage)
        outputs: list[Feature] = [LOGITS] if self.config.causal_ce else []
        outputs += [Hidden(-1)] if self.config.causal_cos else []
        stage.observe(
            teacher=[*outputs, *self._read(side=0)],
            student=[*outputs, *self._read(side=1)],
        )
        share = "" if self.config.positions == "masked" else f", {self.config.interchange_prop:g} of the shorter row"
        stage.explain("positions", f"{self.config.positions}{share}")

    @hookimpl
    def collate(self, batch: Batch, rng: RowRandom) -> None:
        from potstill_diito.interchange import swaps_of

        if SOURCE in batch.companions:  # not in the source batch itself, which comes by here too
            swaps = swaps_of(batch, batch.companions[SOURCE], self.config, rng, self._pad)
            batch.notes.update(zip(NOTES, swaps, strict=True))

    @hookimpl
    def compute_loss(self, step: Step) -> list[LossTerm]:
        from potstill_diito.losses import causal_cos

        if SOURCE not in step.batch.companions:  # another plugin's pass, over rows of its own
            return []
        student, teacher = self._counterfactual(step)
        terms = self._predictions(step, student, teacher) if self.config.causal_ce else []
        if self.config.causal_cos:
            apart = causal_cos(student[Hidden(-1)], teacher[Hidden(-1)], student.mask)
            terms.append(LossTerm("causal_cos", apart, self.config.causal_cos, TOKEN))
        return terms

    # what setup looks at

    def _check(self, stage: Stage) -> None:
        where = f"stage '{stage.plan.name}'"

        def masked() -> None:
            if self.config.positions == "masked" and stage.masking is None:
                raise RecipeError(
                    f"{where}: diito.positions = 'masked' swaps the tokens that a masked LM predicts, and the task "
                    f"'{stage.task.name}' masks none; take 'random' or 'consecutive'."
                )

        stage.after_setup(masked)  # another plugin may mask
        own, known = (_shape(side, model).width for side, model in _sides(stage))
        if self.config.causal_cos and own != known:
            raise ModelError(
                f"{where}: diito.causal_cos compares hidden states, and the student is {own} wide and the teacher "
                f"{known}; set it to 0, or give both one hidden_size."
            )

    def _align(self, stage: Stage) -> None:
        from potstill_diito.interchange import choices

        student, teacher = (_shape(side, model) for side, model in _sides(stage))
        for shape in (student, teacher):
            if not shape.layers:
                raise ModelError(
                    f"stage '{stage.plan.name}': diito swaps what layers put out, and the {shape.side} has no list of "
                    "layers; take another architecture, or data_augment = true."
                )
        mapping = self._mapping(stage, teacher, student)
        self._choices = choices(mapping, teacher, student, self.config.read)
        stage.explain("mapping", [str(entry) for entry in mapping])
        stage.explain("read", self.config.read)

    def _mapping(self, stage: Stage, teacher: Shape, student: Shape) -> list[Alignment]:
        given = self.config.mapping
        if not isinstance(given, str):
            return from_tables(given, "diito.mapping")
        if given in BUILT_IN:
            return BUILT_IN[given](teacher.layers, student.layers)
        return read_mapping(stage.path(given))

    def _read(self, side: int) -> list[Feature]:
        """The hidden states that source activations are taken from."""
        return [Hidden(site.read) for choice in self._choices for sites in choice[side] for site in sites]

    # what a step does

    def _counterfactual(self, step: Step) -> tuple[Outputs, Outputs]:
        """The student's and the teacher's outputs for the base with the source's part in it."""
        from potstill_diito.interchange import augmented, drawn, interchanged
        from potstill_diito.positions import Swaps

        batch, source = step.batch, step.batch.companions[SOURCE]
        swaps = Swaps(*(batch.notes[name] for name in NOTES))
        if self.config.data_augment:
            mixed = self._once(step, lambda: augmented(batch, source, swaps))
            return step.student(mixed), step.teacher(mixed)
        if not len(swaps.rows):  # rows too short for a swap
            return step.student(), step.teacher()
        key = step.micro if self.config.draw == "micro_batch" else 0
        known, own = drawn(self._choices, step.stage.seed, step.update, key)
        patches = self._once(
            step, lambda: interchanged(step.teacher(source, until=max(site.read for site in known)), known, swaps)
        )
        learnt = step.student(source, until=max(site.read for site in own))
        return step.student(patches=interchanged(learnt, own, swaps)), step.teacher(patches=patches)

    def _once(self, step: Step, make: Callable[[], T]) -> T:
        """What `make` gives, made once for a batch over all passes of a step, so that the teacher runs once too."""
        batch, made = self._made.get(step, (None, None))
        if batch is not step.batch:
            made = make()
            self._made[step] = step.batch, made
        return made  # type: ignore[return-value]

    def _predictions(self, step: Step, student: Outputs, teacher: Outputs) -> list[LossTerm]:
        """One term a prediction of the task; together they weigh `causal_ce`."""
        from potstill_diito.losses import causal_ce

        config = self.config
        learnt = step.stage.task.predictions(student.logits, step.batch)
        known = step.stage.task.predictions(teacher.logits, step.batch)
        return [
            LossTerm(
                "causal_ce" if len(learnt) == 1 else f"causal_ce_{own.name}",
                causal_ce(
                    own.logits,
                    other.logits,
                    config.temperature,
                    reduction=config.reduction,
                    kind=own.kind,
                    choices=own.choices,
                ),
                config.causal_ce / len(learnt),
                own.per,
            )
            for own, other in zip(learnt, known, strict=True)
        ]


def _sides(stage: Stage) -> tuple[tuple[str, Model], tuple[str, Model]]:
    return ("student", stage.student), ("teacher", stage.teacher)


def _shape(side: str, model: Model) -> Shape:
    from potstill.layers import Layers

    config = model.module.config
    return Shape(
        side, Layers.of(model.module).count, int(config.hidden_size), int(getattr(config, "num_attention_heads", 1))
    )
