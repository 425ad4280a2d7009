"""The lines of metrics.jsonl: sums over a few updates, written so that a resumed run goes on from the same byte."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from potstill.disk import writing


class JsonLines:
    """A file that lines are added to; `cut` takes back what was written after a checkpoint."""

    def __init__(self, path: Path, *, active: bool = True) -> None:
        self.path = path
        self._active = active
        if active:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    def add(self, record: dict[str, Any]) -> None:
        """One more line."""
        if self._active:
            with writing(self.path), self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")

    @property
    def size(self) -> int:
        """Bytes so far, made durable, so that a checkpoint may count on them."""
        if not self._active:
            return 0
        with writing(self.path), self.path.open("rb+") as file:
            os.fsync(file.fileno())
            return file.seek(0, os.SEEK_END)

    def cut(self, size: int) -> None:
        """Drops everything after byte `size`; a file that is shorter stays as it is."""
        if self._active and self.path.stat().st_size > size:
            os.truncate(self.path, size)


class Sums:
    """Loss terms summed up since the last line: of each term, the mean of its updates' means."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self.updates: dict[str, int] = {}

    def add(self, means: dict[str, float]) -> None:
        """One update's means by name."""
        for name, mean in means.items():
            self.values[name] = self.values.get(name, 0.0) + mean
            self.updates[name] = self.updates.get(name, 0) + 1

    def take(self) -> Sums:
        """What was summed up since the last call."""
        taken = Sums()
        taken.values, taken.updates = self.values, self.updates
        self.values, self.updates = {}, {}
        return taken

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"values": dict(self.values), "updates": dict(self.updates)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self.values, self.updates = dict(state["values"]), dict(state["updates"])


def means_over_ranks(parts: Sequence[Sums]) -> dict[str, float]:
    """Each term's mean over its updates; an update's mean is the sum of what the ranks have of it.

    The first rank has rows of every batch, so it knows of every update in which a term counted.
    """
    means: dict[str, float] = {}
    for name, updates in parts[0].updates.items():
        means[name] = sum(part.values.get(name, 0.0) for part in parts) / updates
    return means
