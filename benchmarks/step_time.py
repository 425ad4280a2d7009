"""What an algorithm that changes the training costs: CPU time a step, against the same training without it.

    python benchmarks/step_time.py [--rounds 5] [--threads 1] [--cells bert bilstm] [--variants …] [--out FILE.md]

Two cells: "bert" (4 × 256 with a vocabulary of 21,128, batch 32 × 32) and "bilstm" (128 units a direction, 5,001
characters, batch 64 × 24), on made-up rows with labels. "fgm" and "pgd" (K = 3) are measured against "plain" in both
forms; "theseus" (4 layers → 2) against "plain", which is its predecessor's own fine-tuning; "bf16" against "plain", and
"taught, bf16" (a teacher of 12 × 256 in bfloat16 too) against "taught" (hinton). A variant whose plugin is not
installed is left out. Each turn is a process of its own, the variants take turns, and CPU time is counted between two
updates, so that neither the start nor the last checkpoint is in it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from turns import LABELS, Cell, Clock, calm_bert, clocked, in_a_process, made_up, words_in

LAYERS, WIDTH = 4, 256
CELLS = {"bert": Cell(32, 32, 3, 12), "bilstm": Cell(64, 24, 5, 20)}
WORDS = {"bert": 21128, "bilstm": 5001}
Turns = dict[str, list[dict[str, float]]]


@dataclass(frozen=True)
class Variant:
    """A way to train.

    Attributes:
        base: the variant whose time it is measured against.
        plugins: their options by name.
        cells: where it can be.
        stage: other keys of the stage.
    """

    base: str
    plugins: Mapping[str, Any] = field(default_factory=dict)
    cells: Sequence[str] = ("bert", "bilstm")
    stage: Mapping[str, Any] = field(default_factory=dict)


BF16 = {"amp": {"dtype": "bfloat16"}}
TAUGHT = {"hinton": {"alpha": 0.9}}
VARIANTS = {
    "plain": Variant("plain"),
    "fgm": Variant("plain", {"fgm": {"attack": "table"}}),
    "fgm, rows": Variant("plain", {"fgm": {"attack": "output"}}),
    "pgd": Variant("plain", {"pgd": {"attack": "table", "steps": 3}}),
    "pgd, rows": Variant("plain", {"pgd": {"attack": "output", "steps": 3}}),
    "theseus": Variant("plain", {"theseus": {"layers": LAYERS // 2}}, ("bert",)),
    "bf16": Variant("plain", BF16),
    "taught": Variant("taught", TAUGHT, stage={"teacher_once": False}),
    "taught, bf16": Variant("taught", {**TAUGHT, **BF16}, stage={"teacher_once": False}),
}


def bert(layers: int, words: int) -> Any:
    """A BERT with random weights and no dropout."""
    from transformers import BertForSequenceClassification

    return BertForSequenceClassification(calm_bert(words, layers, WIDTH))


def bilstm() -> Any:
    """A BiLSTM with random weights."""
    from potstill_bilstm.modeling import BiLSTMConfig, BiLSTMForSequenceClassification

    sizes = {"vocab_size": WORDS["bilstm"], "embedding_size": 128, "hidden_size": 128}
    return BiLSTMForSequenceClassification(BiLSTMConfig(**sizes, num_labels=len(LABELS)))


def words_of(cell: str, folder: Path) -> tuple[Any, list[str]]:
    """A tokenizer, and the words, or characters, of a text."""
    from potstill_bilstm.tokenizer import PAD, UNKNOWN, character_tokenizer

    if cell == "bilstm":
        characters = [chr(0x4E00 + number) for number in range(WORDS[cell] - 2)]
        return character_tokenizer([PAD, UNKNOWN, *characters]), characters
    words = [f"w{number}" for number in range(WORDS[cell] - 5)]
    return words_in(folder, words), words


def models(cell: str, replacing: bool, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The models that a stage is given, and the words that they read. Where layers are replaced, theseus makes the
    student of the teacher."""
    import torch

    from potstill.models import Model

    torch.manual_seed(0)
    tokenizer, words = words_of(cell, folder)
    if replacing:
        return {"teacher": Model(bert(LAYERS, len(tokenizer)), tokenizer)}, words
    student = bert(LAYERS, len(tokenizer)) if cell == "bert" else bilstm()
    return {"teacher": Model(bert(12, len(tokenizer)), tokenizer), "student": Model(student, tokenizer)}, words


def stage_of(cell: str, variant: Variant, folder: Path, clock: Clock) -> Any:
    """A stage on made-up rows; the clock is told of every update."""
    size, replacing = CELLS[cell], "theseus" in variant.plugins
    given, words = models(cell, replacing, folder)
    stage = {
        "name": "student",
        "updates": size.updates,
        "batch_size": size.batch,
        "learning_rate": 1e-4,
        "plugins": list(variant.plugins),
        **variant.plugins,
        **variant.stage,
    }
    student = {"student": {"plugin": "theseus"}} if replacing else {}
    recipe = {"data": {"max_length": size.length}, "task": {"labels": LABELS}, "stage": [stage], **student}
    rows = made_up(size, words, stride=131, between="" if cell == "bilstm" else " ")
    return clocked(recipe, folder, folder, clock.tick, given=given, tables={"train": rows})


def measured(cell: str, variant: str) -> dict[str, float]:
    """One turn, here and now."""
    from potstill.engine import Engine

    clock = Clock(CELLS[cell].warmup, CELLS[cell].counted)
    with tempfile.TemporaryDirectory() as name:
        os.environ["POTSTILL_CACHE"] = name
        stage = stage_of(cell, VARIANTS[variant], Path(name), clock)
        with stage.exit:
            Engine(stage, Path(name)).train()
    return clock.result()


def turn(cell: str, variant: str, threads: int) -> dict[str, float] | None:
    """One turn in a process of its own; None where this machine cannot do it (an LSTM in bfloat16 on some CPUs)."""
    try:
        return in_a_process(__file__, "--turn", cell, variant, threads=threads)
    except subprocess.CalledProcessError:
        print(f"{cell} {variant}: left out.", file=sys.stderr)
        return None


def chosen(cell: str, asked: Sequence[str]) -> list[str]:
    """The variants of a cell that can be measured, with those that they are measured against."""
    from potstill.discovery import PLUGINS, installed

    known = {found.name for found in installed(PLUGINS)}
    told = []
    for name in asked:
        missing = sorted(set(VARIANTS[name].plugins) - known)
        if missing:
            print(f"{name}: left out, the plugin '{missing[0]}' is not installed.", file=sys.stderr)
        elif cell in VARIANTS[name].cells:
            told += [VARIANTS[name].base, name]
    return list(dict.fromkeys(told))


def report(results: Mapping[str, Turns], rounds: int, threads: int) -> str:
    """Markdown: medians of the rounds, and of the ratios within a round."""
    lines = [
        f"{date.today()}, {platform.machine()}, {rounds} rounds, {threads} thread(s), "
        f"load {os.getloadavg()[0]:.1f} at the end.",
        "",
        "| cell | variant | CPU ms a step | against | ratio | lowest | highest | wall ms a step |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cell, variants in results.items():
        for name, turns in variants.items():
            base = VARIANTS[name].base
            cpu = [one["cpu_ms"] for one in turns]
            ratios = [one / other["cpu_ms"] for one, other in zip(cpu, variants[base], strict=True)]
            wall = median(one["wall_ms"] for one in turns)
            spread = f"{median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f}"
            lines.append(f"| {cell} | {name} | {median(cpu):.1f} | {base} | {spread} | {wall:.1f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--turn", nargs=2, metavar=("CELL", "VARIANT"), help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.turn:
        print(json.dumps(measured(*told.turn)))
        return
    results: dict[str, Turns] = {cell: {name: [] for name in chosen(cell, told.variants)} for cell in told.cells}
    for _ in range(told.rounds):
        for cell, variants in results.items():
            for name in list(variants):
                found = turn(cell, name, told.threads)
                if found is None:
                    del variants[name]
                    continue
                variants[name].append(found)
                print(cell, name, found, file=sys.stderr, flush=True)
    text = report(results, told.rounds, told.threads)
    told.out.write_text(text, encoding="utf-8") if told.out else print(text)


if __name__ == "__main__":
    main()
