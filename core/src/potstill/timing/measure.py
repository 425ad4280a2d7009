"""Timing several models side by side: one process each, rounds interleaved, one process at work at a time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from potstill.errors import UserError
from potstill.progress import Bar, Progress
from potstill.timing.locate import Place, locate
from potstill.timing.process import Turn, Worker
from potstill.timing.result import Timing, percentiles


@dataclass(frozen=True)
class Entry:
    """A model to be timed: what to call it, and an ONNX file, an exported folder or a model folder."""

    name: str
    path: Path


@dataclass
class _Tally:
    """The turns that one model had at one shape."""

    turns: list[Turn] = field(default_factory=list)

    @property
    def milliseconds(self) -> list[float]:
        return [value for turn in self.turns for value in turn.milliseconds]


@dataclass(frozen=True)
class _Plan:
    rounds: int
    calls: int
    warmup: int
    threads: int
    load: float | None


def measure(
    entries: Iterable[Entry | tuple[str, str | Path]],
    lengths: Sequence[int],
    batches: Sequence[int] = (1,),
    rounds: int = 10,
    threads: int = 1,
    warmup: int = 3,
    progress: Progress | None = None,
    *,
    calls: int = 20,
) -> list[Timing]:
    """Times models against each other.

    For every batch size and length, each round gives every model a turn: `warmup` calls that do not count,
    then `calls` that do. Token ids are random below the model's vocabulary, every position is attended to.

    Args:
        entries: models by name; names differ.
        lengths: tokens of a row.
        batches: rows of a call.
        rounds: turns of each model at each shape.
        threads: of each runtime.
        warmup: calls before each turn; the other models' turns have emptied the caches.
        progress: told of every turn.
        calls: measured calls a turn, so that a shape's percentiles come from `rounds * calls` runs.

    Returns: shape by shape (batch sizes outside, lengths inside), the models in the order given.

    Raises:
        UserError: nothing to time, two of one name, or a count below 1.
        ModelError: a path that is no model, or a model that cannot be loaded or does not take the shape.
        PotstillError: a process that died, with the last line it wrote.
    """
    named = [(entry.name, entry.path) if isinstance(entry, Entry) else entry for entry in entries]
    _check([name for name, _ in named], lengths, batches, rounds, threads, warmup, calls)
    places = {name: locate(path) for name, path in named}
    plan = _Plan(rounds, calls, warmup, threads, _load())
    progress = progress or Progress()
    total = len(places) * len(lengths) * len(batches) * rounds
    results: list[Timing] = []
    with ExitStack() as stack, progress.bar("timing", total) as bar:
        workers = {name: stack.enter_context(Worker(name, place, threads)) for name, place in places.items()}
        for batch in batches:
            for length in lengths:
                results += _shape(workers, places, batch, length, plan, bar)
    return results


def _shape(
    workers: dict[str, Worker], places: dict[str, Place], batch: int, length: int, plan: _Plan, bar: Bar
) -> list[Timing]:
    tallies = {name: _Tally() for name in workers}
    for worker in workers.values():
        worker.prepare(batch, length)
    for _ in range(plan.rounds):
        for name, worker in workers.items():
            tallies[name].turns.append(worker.run(plan.calls, plan.warmup))
            bar.advance()
    after = _load()
    return [_timing(workers[name], places[name], tally, batch, length, plan, after) for name, tally in tallies.items()]


def _timing(
    worker: Worker, place: Place, tally: _Tally, batch: int, length: int, plan: _Plan, after: float | None
) -> Timing:
    milliseconds = tally.milliseconds
    rows = batch * len(milliseconds)
    return Timing(
        name=worker.name,
        path=str(place.path),
        runtime=worker.runtime,
        batch=batch,
        length=length,
        **percentiles(milliseconds),
        rows_per_second=1000 * rows / sum(milliseconds),
        cpu_ms_per_row=sum(turn.cpu_ms for turn in tally.turns) / rows,
        peak_bytes=max(turn.peak_bytes for turn in tally.turns),
        runs=len(milliseconds),
        rounds=plan.rounds,
        warmup=plan.warmup,
        threads=plan.threads,
        load=plan.load,
        load_after=after,
        round_p50_ms=tuple(percentiles(turn.milliseconds)["p50_ms"] for turn in tally.turns),
    )


def _check(
    names: Sequence[str],
    lengths: Sequence[int],
    batches: Sequence[int],
    rounds: int,
    threads: int,
    warmup: int,
    calls: int,
) -> None:
    if not names or not lengths or not batches:
        raise UserError("Timing needs at least one model, one length and one batch size.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"Two models to be timed are both called '{twice[0]}'; give each a name of its own: NAME=PATH.")
    counts = {
        "length": (min(lengths), 1),
        "batch size": (min(batches), 1),
        "number of rounds": (rounds, 1),
        "number of calls": (calls, 1),
        "number of threads": (threads, 1),
        "number of warm-up calls": (warmup, 0),
    }
    for what, (value, least) in counts.items():
        if value < least:
            raise UserError(f"Timing needs a {what} of at least {least}, not {value}.")


def _load() -> float | None:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None
