"""The plugins `fgm` and `pgd`: each micro-batch gives a second gradient, at word vectors moved against the student."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from potstill.errors import RecipeError
from potstill.plugin import Plugin, PluginConfig, hookimpl
from potstill_adversarial.attack import Attack, OutputAttack, TableAttack
from potstill_adversarial.embedding import find_embedding

if TYPE_CHECKING:
    from torch import nn

    from potstill.stage import Stage
    from potstill.step import Pass, Step

Form = Literal["table", "output"]


class Adversarial(Plugin):
    """What FGM and PGD share; they differ in the number of steps and their length."""

    class Config(PluginConfig):
        epsilon: float = Field(1.0, gt=0)
        """The shift's largest L2 norm: of the whole table, or of each row's word vectors."""
        attack: Form | None = None
        """What is moved: the embedding table, or each row's embedding output. Left out: the output where micro-batches
        are accumulated or the table is frozen, else the table."""
        embedding: str | None = Field(None, min_length=1)
        """Part of the name of the embedding table's weight. Left out: the table that receives the input ids."""

    config: Config
    attack: Attack[Any]

    @property
    def steps(self) -> int:
        """Steps up the gradient."""
        return 1

    @property
    def size(self) -> float:
        """Length of a step."""
        return self.config.epsilon

    @hookimpl
    def setup(self, stage: Stage) -> None:
        stage.after_setup(lambda: self._choose(stage))

    @hookimpl(wrapper=True)
    def on_step(self, step: Step) -> Generator[None, Pass, Pass]:
        attack, epsilon = self.attack, self.config.epsilon
        # Isolated, so that earlier micro-batches have no say in the direction.
        with step.isolated() as made:
            with attack.passing() as gradients:
                clean = yield
            shift = attack.ascended(None, gradients, self.size, epsilon)
            for _ in range(self.steps - 1):
                with step.isolated(), attack.passing(shift) as gradients:
                    step.gradients("ascent")
                shift = attack.ascended(shift, gradients, self.size, epsilon)
            with attack.passing(shift):
                step.gradients("adversarial")
            made.commit()
        return clean

    def _choose(self, stage: Stage) -> None:
        student, where = stage.student.module, f"stage '{stage.plan.name}': plugin '{self.name}'"
        name, embedding = find_embedding(student, self.config.embedding, where)
        form, why = self._form(stage, name, embedding, where)
        self.attack = TableAttack(embedding.weight) if form == "table" else OutputAttack(student, embedding)
        stage.exit.callback(self.attack.close)
        stage.explain("attack", f"{form} ({why})")
        stage.explain("embedding", name)
        if form == "table" and ("batching" in stage.owners or stage.context.ranks.world > 1):
            stage.progress.note(
                f"{stage.plan.name}: {self.name} moves the table anew for every micro-batch, by its own gradient, so "
                'the update is not that of one large batch; attack = "output" is exact.'
            )

    def _form(self, stage: Stage, name: str, embedding: nn.Embedding, where: str) -> tuple[Form, str]:
        """What is moved, and why."""
        frozen = not embedding.weight.requires_grad
        if self.config.attack == "table" and frozen:
            raise RecipeError(
                f'{where}: attack = "table" needs the gradient of {name}, which is frozen here; take attack = "output".'
            )
        if self.config.attack is not None:
            return self.config.attack, "as asked for"
        if frozen:
            return "output", "the table is frozen"
        if "batching" in stage.owners:
            return "output", "micro-batches are accumulated"
        return "table", "one batch an update"


class FGM(Adversarial):
    """One step of length epsilon (fast gradient method; Miyato et al., arXiv 1605.07725)."""

    name = "fgm"
    conflicts = frozenset({"pgd"})


class PGD(Adversarial):
    """Several steps, each followed by a projection onto the ball of radius epsilon (Madry et al., arXiv 1706.06083)."""

    name = "pgd"
    conflicts = frozenset({"fgm"})

    class Config(Adversarial.Config):
        steps: int = Field(3, ge=1)
        """Steps up the gradient, K; each is a pass of its own."""
        alpha: float = Field(0.3, gt=0)
        """Length of a step."""

    config: Config

    @property
    def steps(self) -> int:
        return self.config.steps

    @property
    def size(self) -> float:
        return self.config.alpha
