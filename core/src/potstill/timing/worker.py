"""The process that times one model: `python -m potstill.timing.worker`, requests and answers as JSON lines.

Requests are {"do": "open", "path", "kind", "threads"}, {"do": "prepare", "batch", "length"} and
{"do": "run", "calls", "warmup"}; the answer to one that fails is {"error": sentence}.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from potstill.errors import ModelError, PotstillError
from potstill.timing.locate import Place, positions
from potstill.timing.runtimes import Runtime, open_runtime


class Session:
    """One model, and the inputs of the turns under way."""

    def __init__(self) -> None:
        self.model: Runtime | None = None
        self.folder = Path()
        self.inputs: dict[str, Any] = {}

    def open(self, path: str, kind: Any, threads: int) -> dict[str, Any]:
        place = Place(kind, Path(path))
        self.model = open_runtime(place, threads)
        self.folder = place.folder
        return {"runtime": self.model.version}

    def prepare(self, batch: int, length: int) -> dict[str, Any]:
        assert self.model is not None
        self.inputs = self.model.inputs(batch, length)
        try:
            self.model.run(self.inputs)
        except Exception as error:
            most = positions(self.folder)
            short = most is not None and length > most
            why = f"its config.json has max_position_embeddings = {most}" if short else _line(error)
            raise ModelError(f"batch {batch} × length {length} does not run: {why}") from error
        return {}

    def run(self, calls: int, warmup: int) -> dict[str, Any]:
        assert self.model is not None
        run, inputs, clock = self.model.run, self.inputs, time.perf_counter_ns
        for _ in range(warmup):
            run(inputs)
        elapsed: list[float] = []
        processor = time.process_time_ns()
        for _ in range(calls):
            start = clock()
            run(inputs)
            elapsed.append((clock() - start) / 1e6)
        processor = time.process_time_ns() - processor
        return {"ms": elapsed, "cpu_ms": processor / 1e6, "peak_bytes": peak_bytes()}


def peak_bytes() -> int:
    """The most memory this process ever had resident.

    Linux's `ru_maxrss` is carried over from the process that started this one, so there the kernel's own
    high-water mark is read.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    memory = import_module("psutil").Process().memory_info()
    return int(getattr(memory, "peak_wset", memory.rss))


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip()


def _answer(session: Session, request: dict[str, Any]) -> dict[str, Any]:
    what = request.pop("do")
    try:
        answer: dict[str, Any] = getattr(session, what)(**request)
        return answer
    except PotstillError as error:
        return {"error": str(error)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {_line(error)}"}


def main() -> None:
    """Answers requests until the standard input ends."""
    # What a library prints must not get between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    session = Session()
    for line in sys.stdin:
        answers.write(json.dumps(_answer(session, json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
