"""Time of a step in float32, with the student in half precision, with the teacher in it, and with both.

    python benchmarks/precision.py [--rounds 5] [--updates 8] [--threads 1] [--dtypes bfloat16 float16] [--out FILE.md]

A BERT of 12 × 384 teaches one of 4 × 384 by hinton, on made-up rows of one length, through the engine and the plugin
`amp`. Every turn is a process of its own; the variants take turns, and float32 is run in every round. CPU time is
counted from the end of the warm-up to the last update; on a GPU look at the wall time. The variant "auto" says what
`dtype = "auto"` took.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from turns import LABELS, Cell, Clock, calm_bert, clocked, in_a_process, made_up, words_in

WARMUP = 2


def variants(dtypes: list[str]) -> dict[str, dict[str, str]]:
    """The options of `amp` by the name of the variant."""
    found = {"float32": {"dtype": "float32"}}
    for dtype in dtypes:
        found[f"student {dtype}"] = {"dtype": dtype, "teacher_dtype": "float32"}
        found[f"teacher {dtype}"] = {"dtype": "float32", "teacher_dtype": dtype}
        found[f"both {dtype}"] = {"dtype": dtype, "teacher_dtype": dtype}
    return {**found, "auto": {"dtype": "auto"}}


def model(layers: int, width: int, length: int, words: Any) -> Any:
    """A BERT with random weights and no dropout."""
    from transformers import BertForSequenceClassification

    from potstill.models import Model

    return Model(BertForSequenceClassification(calm_bert(len(words), layers, width, heads=12, length=length)), words)


def stage_of(options: dict[str, str], told: argparse.Namespace, folder: Path, clock: Clock) -> Any:
    """A stage on made-up rows; the clock is told of every update."""
    import torch

    size = Cell(told.batch, told.length, WARMUP, told.updates)
    words = words_in(folder)
    stage = {
        "name": "distil",
        "updates": size.updates,
        "batch_size": size.batch,
        "learning_rate": 1e-4,
        "plugins": ["hinton", "amp"],
        "amp": {**options, "teacher_tolerance": 1.0},
        "teacher_once": False,
    }
    recipe = {"data": {"max_length": size.length}, "task": {"labels": LABELS}, "stage": [stage]}
    torch.manual_seed(0)
    given = {side: model(layers, told.width, told.length, words) for side, layers in (("teacher", 12), ("student", 4))}
    return clocked(recipe, folder, folder, clock.tick, given=given, tables={"train": made_up(size)})


def measure(options: dict[str, str], told: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Milliseconds a step, and the dtype of the student."""
    from potstill.engine import Engine

    clock = Clock(WARMUP, told.updates)
    stage = stage_of(options, told, folder, clock)
    with stage.exit:
        Engine(stage, folder).train()
    return {**clock.result(), "dtype": stage.explained["amp"]["dtype"]}


def turn(name: str, told: argparse.Namespace) -> dict[str, Any]:
    """One turn in a process of its own."""
    sizes = [f"--{key}={getattr(told, key)}" for key in ("updates", "batch", "length", "width")]
    return in_a_process(__file__, "--turn", name, *sizes, "--dtypes", *told.dtypes, threads=told.threads)


def machine() -> str:
    """The GPU, or the processor and its instructions."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.processor() or platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def report(results: dict[str, list[dict[str, Any]]], told: argparse.Namespace) -> str:
    """Markdown: medians, and the ratio to float32 in the same round."""
    import torch

    from potstill.report.table import markdown

    rows = []
    for name, turns in results.items():
        ratios = {
            kind: median(base[kind] / one[kind] for one, base in zip(turns, results["float32"], strict=True))
            for kind in ("cpu_ms", "wall_ms")
        }
        rows.append(
            {
                "variant": name,
                "student in": ", ".join(sorted({one["dtype"] for one in turns})),
                "CPU ms a step": f"{median(one['cpu_ms'] for one in turns):.1f}",
                "times as fast, CPU": f"{ratios['cpu_ms']:.2f}",
                "wall ms a step": f"{median(one['wall_ms'] for one in turns):.1f}",
                "times as fast, wall": f"{ratios['wall_ms']:.2f}",
            }
        )
    facts = (
        f"{date.today()}: 12 × {told.width} teaches 4 × {told.width}, batch {told.batch} × {told.length}, "
        f"{told.updates} updates a turn, {told.rounds} rounds, {told.threads} thread(s); "
        f"{machine()}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f} at the end."
    )
    return f"{facts}\n\n{markdown(rows)}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=8, help=f"counted, after a warm-up of {WARMUP}")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtypes", nargs="+", choices=["bfloat16", "float16"], default=["bfloat16"])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--turn", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.turn:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(variants(told.dtypes)[told.turn], told, Path(folder))))
        return
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in variants(told.dtypes)}
    for _ in range(told.rounds):
        for name, turns in results.items():
            turns.append(turn(name, told))
            print(name, turns[-1], file=sys.stderr, flush=True)
    text = report(results, told)
    told.out.write_text(text, encoding="utf-8") if told.out else print(text)


if __name__ == "__main__":
    main()
