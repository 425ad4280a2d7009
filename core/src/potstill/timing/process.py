"""The measuring side of a worker process: JSON lines over its standard input and output."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any

from potstill.errors import ModelError, PotstillError
from potstill.timing.locate import Place

_POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True)
class Turn:
    """One turn of one model: the wall time of each call, and CPU time and peak memory of its process."""

    milliseconds: list[float]
    cpu_ms: float
    peak_bytes: int


class Worker:
    """A process that holds one model. A context manager; the process ends with the block.

    Args:
        name: what errors call the model.
        place: what it loads.
        threads: pinned by the environment and in the runtime's own options.

    Raises (every method):
        ModelError: the model cannot be loaded or does not run.
        PotstillError: the process died.
    """

    def __init__(self, name: str, place: Place, threads: int) -> None:
        self.name = name
        self.runtime = ""
        self._place, self._threads = place, threads
        self._complaints: IO[bytes]
        self._process: subprocess.Popen[str]

    def __enter__(self) -> Worker:
        self._complaints = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            # -P: a file torch.py in the user's folder must not be taken for the library.
            [sys.executable, "-P", "-m", "potstill.timing.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            env=_environment(self._threads),
            text=True,
            encoding="utf-8",
        )
        try:
            answer = self._ask("open", path=str(self._place.path), threads=self._threads, kind=self._place.runtime)
        except BaseException:
            self._end()
            raise
        self.runtime = str(answer["runtime"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @property
    def pid(self) -> int:
        return self._process.pid

    def prepare(self, batch: int, length: int) -> None:
        """Makes the inputs of the turns that follow, and runs them once."""
        self._ask("prepare", batch=batch, length=length)

    def run(self, calls: int, warmup: int) -> Turn:
        """`warmup` calls, then `calls` measured ones."""
        answer = self._ask("run", calls=calls, warmup=warmup)
        return Turn([float(value) for value in answer["ms"]], float(answer["cpu_ms"]), int(answer["peak_bytes"]))

    def _ask(self, what: str, **details: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": what, **details}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise PotstillError(self._obituary())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ModelError(f"'{self.name}' cannot be timed: {answer['error']}")
        return answer

    def _obituary(self) -> str:
        self._process.stdin = None  # closing it would flush into the broken pipe
        code = self._process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").strip().splitlines()
        last = f": {lines[-1].strip()}" if lines else "; it wrote nothing"
        return f"The process timing '{self.name}' died ({how}){last}"

    def _end(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None and not stream.closed:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._complaints.close()


def _environment(threads: int) -> dict[str, str]:
    """This process's environment with the libraries' thread pools pinned, and no network for the model."""
    pinned = dict.fromkeys(_POOLS, str(threads))
    return {**os.environ, **pinned, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
