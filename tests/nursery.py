"""Real processes of one run, quickly: a process that has imported everything and forks every rank.

A start of Python with torch and transformers takes longer than all that a tiny run does. The process that forks
(`python -m tests.nursery`) only imports, so that its forks are as good as processes begun anew.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

IMPORTS = [
    "onnx",
    "onnxruntime.quantization",
    "onnxscript",
    "plotly.graph_objects",
    "plotly.io",
    "potstill.builtin",
    "potstill.cli.run",
    "potstill.exporting",
    "potstill.report.figures",
    "potstill.report.html",
    "potstill.report.quality",
    "potstill.runner",
    "potstill.tasks.classification",
    "potstill_accumulate.plugin",
    "potstill_adversarial.plugin",
    "potstill_amp.precision",
    "potstill_bilstm.modeling",
    "potstill_diito.interchange",
    "potstill_diito.plugin",
    "potstill_distilbert.extraction",
    "potstill_distilbert.masking",
    "potstill_distilbert.plugin",
    "potstill_hinton.plugin",
    "potstill_layers.plugin",
    "potstill_onnx.convert",
    "potstill_onnx.plugin",
    "potstill_pp_minilm.losses",
    "potstill_pp_minilm.plugin",
    "potstill_theseus.hybrid",
    "potstill_theseus.plugin",
    "scipy.io",
    "sklearn.metrics",
    "torch._dynamo",
    "torch.onnx._internal.exporter._core",
    "transformers.models.bert.tokenization_bert",
]


@dataclass
class Launch:
    """The processes of one command, rank by rank."""

    nursery: Nursery
    pids: list[int]
    logs: list[Path]

    def kill(self, rank: int, number: int = signal.SIGKILL) -> None:
        """Sends a signal to one rank."""
        os.kill(self.pids[rank], number)

    def wait(self, seconds: float = 60) -> list[int]:
        """Every rank's exit code, negative for a signal. AssertionError where one still runs after so many seconds."""
        codes = self.nursery.ask(wait=self.pids, seconds=seconds)
        assert isinstance(codes, list), f"still running after {seconds} s; standard error: {self.errors!r}"
        return codes

    @property
    def errors(self) -> str:
        """What all ranks wrote to standard error."""
        return "".join(log.with_suffix(".err").read_text() for log in self.logs)

    @property
    def output(self) -> str:
        """What all ranks wrote to standard output."""
        return "".join(log.with_suffix(".out").read_text() for log in self.logs)


class Nursery:
    """The forking process. A context manager; it and its children end with the block."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._launches = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
            start_new_session=True,
        )

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def launch(self, *words: str | Path, ranks: int, limits: dict[int, int] | None = None) -> Launch:
        """Starts `potstill WORDS` in so many processes.

        Args:
            ranks: 1 is a process by itself.
            limits: rank → how many bytes a file that it writes may have.
        """
        self._launches += 1
        logs = [self._logs / f"{self._launches}-{rank}" for rank in range(ranks)]
        told = {str(rank): limit for rank, limit in (limits or {}).items()}
        pids = self.ask(
            words=[str(word) for word in words], logs=[str(log) for log in logs], port=free_port(), limits=told
        )
        return Launch(self, pids, logs)

    def ask(self, **question: Any) -> Any:
        """One exchange with the forking process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


# in the forking process


def import_all() -> None:
    """Imports what a run needs, so that a fork need not."""
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # as the command line sets it, before torch is loaded
    for module in IMPORTS:
        import_module(module)
    import_module("transformers").BertForSequenceClassification  # noqa: B018 - imports what it names
    # The first model that is saved compiles a thousand patterns, which stay.
    import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("bert")


def serve() -> None:
    """Answers questions on standard input until it ends."""
    import_all()
    for line in sys.stdin:
        question = json.loads(line)
        answer = _wait(question["wait"], question["seconds"]) if "wait" in question else _forks(**question)
        print(json.dumps(answer), flush=True)


def _forks(words: list[str], logs: list[str], port: int, limits: dict[str, int]) -> list[int]:
    pids = []
    for rank, log in enumerate(logs):
        pid = os.fork()
        if pid == 0:
            _be_rank(rank, len(logs), port, log, limits.get(str(rank)))
            from potstill.cli import main

            code = main(words)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        pids.append(pid)
    return pids


def _be_rank(rank: int, world: int, port: int, log: str, limit: int | None) -> None:
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{log}.{name}", os.O_WRONLY | os.O_CREAT), stream)
    if world > 1:
        facts = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in facts.items()})
        if import_module("torch").accelerator.is_available():  # where there are only CPUs, nobody need say so
            os.environ["ACCELERATE_USE_CPU"] = "true"
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def _wait(pids: list[int], seconds: float) -> list[int] | None:
    codes: dict[int, int] = {}
    deadline = time.monotonic() + seconds
    while len(codes) < len(pids) and time.monotonic() < deadline:
        for pid in set(pids) - set(codes):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes[pid] = os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    return [codes[pid] for pid in pids] if len(codes) == len(pids) else None


if __name__ == "__main__":
    serve()
