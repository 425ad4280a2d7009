"""What a plugin's author imports: `Plugin`, `PluginConfig`, `hookimpl`, `LossTerm`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pluggy
from pydantic import BaseModel, ConfigDict

from potstill.batch import EXAMPLE, Unit

if TYPE_CHECKING:
    from torch import Tensor

API = 1
"""The version of the hooks. A plugin states the one it was written for as `Plugin.api`."""

hookimpl = pluggy.HookimplMarker("potstill")


class PluginConfig(BaseModel):
    """Base of a plugin's options: frozen; an unknown option and a number that is not finite are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


@dataclass(frozen=True)
class LossTerm:
    """One addend of the loss.

    Attributes:
        name: unique within the plugin; shown as "plugin.name".
        value: scalar, a mean per `per` over this micro-batch. Anything, NaN included, where the count is 0.
        weight: factor in the sum.
        per: the unit that `value` is a mean of.
    """

    name: str
    value: Tensor
    weight: float = 1.0
    per: Unit = EXAMPLE


class Plugin:
    """Base of every plugin: a class that an entry point in the group `potstill.plugins` names.

    Subclass it, describe the options in a nested `Config`, and mark hooks with `@hookimpl`:

        class LastLayer(Plugin):
            name = "last_layer"
            provides = frozenset({"objective"})
            requires = frozenset({"teacher", "same-tokenizer"})

            class Config(PluginConfig):
                weight: float = 1.0
                \"\"\"Weight of the hidden-state loss.\"\"\"

            @hookimpl
            def setup(self, stage):
                stage.observe(teacher=[Hidden(-1)], student=[Hidden(-1)])

            @hookimpl
            def compute_loss(self, step):
                distance = mse(step.student()[Hidden(-1)], step.teacher()[Hidden(-1)], step.student().mask)
                return [LossTerm("hidden", distance, weight=self.config.weight, per=TOKEN)]
    """

    name: ClassVar[str]
    """As in the recipe; equal to the entry point's name."""
    api: ClassVar[int] = API
    provides: ClassVar[frozenset[str]] = frozenset()
    """Capabilities. "objective": this plugin brings a loss of its own, so the supervised one is off."""
    conflicts: ClassVar[frozenset[str]] = frozenset()
    """Plugins or capabilities that may not be active in the same stage."""
    requires: ClassVar[frozenset[str]] = frozenset()
    """Plugins or capabilities that must be active too, or of the core: "teacher", "same-tokenizer"."""

    Config: ClassVar[type[PluginConfig]] = PluginConfig

    def __init__(self, config: Any) -> None:
        self.config = config

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold of this plugin: tensors, numbers, strings, lists and dicts."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
