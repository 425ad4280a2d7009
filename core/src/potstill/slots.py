"""What at most one plugin may decide in a stage."""

from __future__ import annotations

from typing import Any

from potstill.errors import PluginError

SLOTS = ("sampler", "batching", "masking", "precision", "optimizer", "scheduler", "clip")
"""What there is to decide, by `stage.claim`."""


class Slots:
    """Who decided what in one stage.

    Args:
        stage: its name, for errors.
    """

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._claims: dict[str, tuple[Any, str]] = {}

    def claim(self, slot: str, value: Any, by: str) -> None:
        """Gives a slot to the plugin `by`.

        Raises:
            PluginError: no such slot, or another plugin has it.
        """
        if slot not in SLOTS:
            raise PluginError(f"There is no slot '{slot}'; the slots are {', '.join(SLOTS)}.")
        if slot in self._claims:
            raise PluginError(
                f"The plugins '{self._claims[slot][1]}' and '{by}' both want the slot '{slot}' in the "
                f"stage '{self._stage}'; only one may have it."
            )
        self._claims[slot] = (value, by)

    def get(self, slot: str, default: Any) -> Any:
        """What was decided, else the core's own way."""
        return self._claims[slot][0] if slot in self._claims else default

    @property
    def owners(self) -> dict[str, str]:
        """The slots that plugins claimed, and by which plugin."""
        return {slot: name for slot, (_, name) in self._claims.items()}
