"""The plugin `assistant`: the teacher teaches an assistant, which teaches the student, in any number of hops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from potstill.errors import RecipeError
from potstill.plugin import Plugin, PluginConfig, hookimpl

if TYPE_CHECKING:
    from potstill.recipe import StagePlan

MODEL = frozenset({"model", "config", "layers", "tokenizer", "plugin", "trust_remote_code"})
"""The keys of a hop that say what its assistant is; all others are keys of its stage."""


class Assistant(Plugin):
    """Distils through assistants of a size between teacher and student (arXiv 1902.03393; MiniLM, section 3.4)."""

    name = "assistant"
    requires = frozenset({"teacher"})

    class Config(PluginConfig):
        hops: tuple[dict[str, Any], ...] = Field(min_length=1)
        """The assistants, largest first: what each is, as in [student], and keys of its stage that differ."""

        @field_validator("hops")
        @classmethod
        def _hops_say_what_they_are(cls, value: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
            for number, hop in enumerate(value, start=1):
                if not MODEL & hop.keys() - {"tokenizer", "trust_remote_code"}:
                    raise ValueError(
                        f"hop {number} says nothing of its assistant; give model, config, layers or plugin, as in "
                        "[student]"
                    )
                wrong = {"teacher", "student", "trains"} & hop.keys()
                if wrong:
                    raise ValueError(f"hop {number} gives '{min(wrong)}', which follows from its place in the chain")
            return value

    config: Config

    @hookimpl(tryfirst=True)  # before what expands a training: the hops are whole trainings, wherever it is listed
    def expand_stage(self, plan: StagePlan) -> list[StagePlan]:
        """A stage a hop, each taught by the one before, and the stage itself, taught by the last; all without this
        plugin, so that whatever else expands them does it hop by hop."""
        if plan.trains != "student":
            raise RecipeError(f"stage '{plan.name}': an assistant stands between teacher and student.")
        others = tuple(name for name in plan.plugins if name != self.name)
        own = plan.with_(plugins=others)
        parts: list[StagePlan] = []
        taught: dict[str, Any] = {}  # the first as the stage says
        for number, hop in enumerate(self.config.hops, start=1):
            keys = {key: value for key, value in hop.items() if key not in MODEL}
            model = {key: value for key, value in hop.items() if key in MODEL}
            name = keys.pop("name", f"{plan.name}-assistant{number if len(self.config.hops) > 1 else ''}")
            parts.append(own.with_(name=name, student=model, **taught, **keys))
            taught = {"teacher": f"stage:{name}", "teachers": {}}
        return [*parts, own.with_(**taught)]
