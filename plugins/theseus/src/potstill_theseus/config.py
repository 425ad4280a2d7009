"""The options of the plugin `theseus`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from potstill.plugin import PluginConfig
from potstill.schedule import warmup_updates
from potstill_theseus.replacing import constant_rate, linear_rate, rising_rate

Phase = Literal["replace", "tune"]
"""What a stage is about: replacing modules, or the successor alone."""
Start = Literal["bottom", "spread", "random"]
"""What the successor's layers start as."""

LINEAR_START, CONSTANT_RATE, FULL_AFTER = 0.3, 0.5, 0.7


class TheseusConfig(PluginConfig):
    """The options of `theseus`."""

    layers: int | None = Field(None, ge=1)
    """Layers of the successor. Left out: half of the predecessor's (its largest divisor where the number is odd)."""
    start: Start = "bottom"
    """The successor's layers start as the predecessor's "bottom" ones, "spread" over it evenly, or "random"."""
    schedule: Literal["linear", "constant"] = "linear"
    """How the replacing rate goes on from `rate`: in a line to 1, or not at all."""
    rate: float | None = Field(None, gt=0, le=1)
    """The replacing rate at the beginning. Left out: 0.3 where it rises, 0.5 where it is constant."""
    full_after: int | float | None = Field(None, gt=0)
    """The rate is 1 after this number, or share, of updates. Left out: 0.7 where it rises, never where constant."""
    slope: float | None = Field(None, ge=0)
    """k: what the rate rises by an update, instead of `full_after`."""
    draw: Literal["batch", "example"] = "batch"
    """Modules are drawn once for all rows of a micro-batch, or for each row."""
    trains: Literal["layers", "all"] = "layers"
    """The successor's layers alone learn, or the embeddings and the head as well; the predecessor's layers never do."""
    clip: Literal["trained", "all"] = "trained"
    """Whose gradients count when they are clipped: what learns, or the whole predecessor too, as the authors'."""
    unsampled: Literal["skip", "move"] = "skip"
    """A successor layer that no draw of an update took stays as it is, or moves on by momentum and decay."""
    predecessor: dict[str, Any] | None = None
    """Fine-tunes the predecessor in a stage before; the table's keys are a stage's."""
    tune: dict[str, Any] | bool | None = None
    """Fine-tunes the successor in a stage after, keys of a stage. Left out: only where the rate never becomes 1."""
    phase: Phase | None = None
    """What this stage is about. Left out: the stage becomes several."""

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> TheseusConfig:
        if self.slope is not None and self.schedule == "constant":
            raise ValueError(f"slope = {self.slope:g} is for schedule = 'linear', and the schedule is 'constant'")
        if self.slope is not None and self.full_after is not None:
            raise ValueError(f"slope = {self.slope:g} and full_after = {self.full_after} are both given; give one")
        if isinstance(self.full_after, float) and self.full_after > 1:
            raise ValueError(
                f"full_after = {self.full_after:g} is neither a whole number of updates nor a share of them up to 1"
            )
        return self

    @property
    def begin(self) -> float:
        """The rate of the first update."""
        return self.rate or (LINEAR_START if self.schedule == "linear" else CONSTANT_RATE)

    def rate_after(self, applied: int, total: int) -> float:
        """The replacing rate of the next update, after `applied` ones of `total`."""
        if self.slope is not None:
            return linear_rate(applied, self.begin, self.slope)
        if self.schedule == "constant":
            until = None if self.full_after is None else _number(self.full_after, total)
            return constant_rate(applied, self.begin, until)
        return rising_rate(applied, self.begin, _number(self.full_after or FULL_AFTER, total))

    @property
    def tuned(self) -> dict[str, Any] | None:
        """The keys of the stage after; None where there is none."""
        if self.tune is None:
            return {} if self.schedule == "constant" and self.full_after is None else None
        if isinstance(self.tune, bool):
            return {} if self.tune else None
        return self.tune

    def told(self) -> str:
        """The schedule in words."""
        if self.slope is not None:
            return f"from {self.begin:g}, rising by {self.slope:g} an update up to 1"
        if self.schedule == "constant" and self.full_after is None:
            return f"{self.begin:g}"
        until = self.full_after or FULL_AFTER
        when = f"after {until} updates" if isinstance(until, int) else f"after {until:.0%} of the updates"
        return f"{'rising from ' if self.schedule == 'linear' else ''}{self.begin:g}, 1 {when}"


def _number(until: int | float, total: int) -> int:
    return max(1, warmup_updates(until, total))
