"""What the studies of time share: a stage on made-up rows with a clock in it, and turns in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

LABELS = ["a", "b", "c", "d"]
WORDS = [f"w{number}" for number in range(1000)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@dataclass(frozen=True)
class Cell:
    """One size: rows of a batch, tokens of a row, and the updates to warm up and to count."""

    batch: int
    length: int
    warmup: int
    counted: int

    @property
    def updates(self) -> int:
        return self.warmup + self.counted


class Clock:
    """CPU and wall time between the end of the warm-up and the last update."""

    def __init__(self, warmup: int, counted: int) -> None:
        self._warmup, self._counted = warmup, counted
        self._marks: list[tuple[float, float]] = []

    def tick(self, update: int) -> None:
        """Told of every update, counted from 1."""
        if update in (self._warmup, self._warmup + self._counted):
            _synchronize()
            self._marks.append((process_time(), perf_counter()))

    def result(self) -> dict[str, float]:
        """Milliseconds an update."""
        (cpu, wall), (cpu_end, wall_end) = self._marks
        return {
            "cpu_ms": 1000 * (cpu_end - cpu) / self._counted,
            "wall_ms": 1000 * (wall_end - wall) / self._counted,
        }


def _synchronize() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def words_in(folder: Path, words: Sequence[str] = WORDS) -> Any:
    """A tokenizer of whole words."""
    from potstill.tokenizers import load_tokenizer

    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *words]))
    return load_tokenizer("vocab.txt", folder)


def calm_bert(words: int, layers: int, width: int, heads: int = 4, length: int = 64) -> Any:
    """The config of a BERT without dropout."""
    from transformers import BertConfig

    return BertConfig(
        vocab_size=words,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=length,
        num_labels=len(LABELS),
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


def made_up(cell: Cell, words: Sequence[str] = WORDS, stride: int = 13, between: str = " ") -> Any:
    """Rows for one epoch, so that evaluations come after it; all of one length with two special tokens."""
    from datasets import Dataset

    rows = range(cell.batch * cell.updates)
    texts = [between.join(words[(7 * row + stride * at) % len(words)] for at in range(cell.length - 2)) for row in rows]
    return Dataset.from_dict({"text": texts, "label": [LABELS[row % len(LABELS)] for row in rows]})


def clocked(recipe: Mapping[str, Any], data: Path, folder: Path, tick: Callable[[int], None], **more: Any) -> Any:
    """`stage_of` with a plugin that tells `tick` of every update; there is no checkpoint before the last."""
    from potstill.plugin import Plugin, hookimpl
    from potstill.testing import stage_of

    class Ticking(Plugin):
        name = "clock"

        @hookimpl
        def on_update(self, update: Any) -> None:
            tick(update.number)

    stages = [{**stage, "checkpoint_every": 10**6} for stage in recipe["stage"]]
    return stage_of({**recipe, "stage": stages}, data, folder, beside=[Ticking(None)], **more)


def in_a_process(script: str, *words: str, threads: int, **environment: str) -> dict[str, Any]:
    """What a script prints last, as JSON, when it is called with these words.

    Raises: CalledProcessError where it fails; its standard error is told.
    """
    own = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false", **environment}
    done = subprocess.run([sys.executable, script, *words], env=own, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
    done.check_returncode()
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
