"""What was measured of one model at one batch size and length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Timing:
    """The latency of one model for one shape of input, and the conditions it was taken under.

    Attributes:
        name: as given.
        path: the file or folder that ran.
        runtime: with its version, such as "onnxruntime 1.32.0".
        batch: rows of a call.
        length: tokens of a row, all of them attended to.
        p50_ms, p90_ms, p95_ms, p99_ms: percentiles of a call's wall time over all runs.
        rows_per_second: rows of all runs over their wall time.
        cpu_ms_per_row: CPU time of the whole process, all threads, per row.
        peak_bytes: the most memory the process had resident so far, runtime and earlier shapes included.
        runs: calls that were measured, in all rounds together.
        rounds: turns this model had, the other models' turns in between.
        warmup: calls before each turn's measured ones that do not count.
        threads: of the runtime, and of the libraries beneath it.
        load: the machine's load average over a minute before the first model was started; None where the
            system has none.
        load_after: the same when this shape's last round was over; the measuring itself makes up about `threads` of it.
        round_p50_ms: the median of each round, whose spread tells how quiet the machine was.
    """

    name: str
    path: str
    runtime: str
    batch: int
    length: int
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    rows_per_second: float
    cpu_ms_per_row: float
    peak_bytes: int
    runs: int
    rounds: int
    warmup: int
    threads: int
    load: float | None
    load_after: float | None
    round_p50_ms: tuple[float, ...]

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Timing:
        """What `as_dict` gave, read back; None for what an older version did not note."""
        values: dict[str, Any] = {field.name: record.get(field.name) for field in fields(cls)}
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "round_p50_ms": list(self.round_p50_ms)}


def conditions(timings: Sequence[Timing]) -> str:
    """What timings of one measurement have in common, in a line: runtimes, threads, runs, warm-up, load."""
    first, last = timings[0], timings[-1]
    runtimes = ", ".join(dict.fromkeys(timing.runtime for timing in timings))
    parts = [
        runtimes,
        "1 thread" if first.threads == 1 else f"{first.threads} threads",
        f"{first.rounds} rounds of {first.runs // first.rounds} calls after {first.warmup} to warm up",
    ]
    if first.load is not None and last.load_after is not None:
        parts.append(f"load {first.load:.2f} before and {last.load_after:.2f} after")
    return ", ".join(parts)


def percentiles(milliseconds: Sequence[float]) -> dict[str, float]:
    """p50_ms, p90_ms, p95_ms and p99_ms, between two runs interpolated linearly."""
    values = np.percentile(milliseconds, [50, 90, 95, 99])
    return dict(zip(("p50_ms", "p90_ms", "p95_ms", "p99_ms"), map(float, values), strict=True))
