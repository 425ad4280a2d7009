"""Peak memory and time of MiniLM's relation loss, forward and backward, against the formula written in plain PyTorch.

    python benchmarks/relations.py [--rounds 3] [--threads 1] [--cells 16x128x48x384,16x512x48x384] [--out FILE.md]

A cell is rows x tokens x relation heads x width, of one relation (Q-Q) of random float32 projections without padding.
Every measurement is a process of its own; the variants take turns. Memory is the growth of the process's resident
set from the moment the inputs are there; time is CPU time of the best of a few passes. Gradients are compared first.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

CELLS = "64x32x48x384,32x128x48x384,16x256x48x384,16x512x48x384"
VARIANTS = ("plain", "potstill")


def loss_of(variant: str) -> Any:
    """The loss of [batch, heads, seq, head_dim] projections of teacher and student."""
    import torch
    import torch.nn.functional as F
    from potstill_minilm.losses import pair_loss

    from potstill.features import Projections

    def ours(teacher: Any, student: Any, mask: Any, heads: int) -> Any:
        return pair_loss(Projections(*[teacher] * 3), Projections(*[student] * 3), "qq", mask, heads)

    def plain(teacher: Any, student: Any, mask: Any, heads: int) -> Any:
        def relation(x: Any) -> Any:
            batch, _, length, _ = x.shape
            x = x.transpose(1, 2).reshape(batch, length, heads, -1).transpose(1, 2)
            scores = x @ x.transpose(-1, -2) / x.shape[-1] ** 0.5
            return scores + (1 - mask[:, None, None, :]) * torch.finfo(scores.dtype).min

        known, learnt = relation(teacher).softmax(-1), F.log_softmax(relation(student), -1)
        rows = F.kl_div(learnt, known, reduction="none").sum(-1) * mask[:, None]
        return (rows.sum((1, 2)) / (heads * mask.sum(1))).mean()

    return plain if variant == "plain" else ours


def inputs(cell: list[int]) -> Any:
    import torch

    batch, length, _, width = cell
    torch.manual_seed(0)
    teacher, student = (torch.randn(batch, 12, length, width // 12) for _ in range(2))
    return teacher, student.requires_grad_(), torch.ones(batch, length)


def resident(field: str) -> float:
    """A line of /proc/self/status in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1000


def measure(variant: str, cell: list[int], threads: int, passes: int) -> dict[str, float]:
    """One process's figures."""
    import torch

    torch.set_num_threads(threads)
    loss, (teacher, student, mask) = loss_of(variant), inputs(cell)
    small = inputs([2, 8, cell[2], cell[3]])
    loss(*small, cell[2]).backward()  # what is loaded on first use is not the loss's
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = resident("VmRSS")
    cpu, wall = [], []
    for _ in range(passes):
        student.grad = None
        started, begun = time.process_time(), time.perf_counter()
        loss(teacher, student, mask, cell[2]).backward()
        cpu.append(time.process_time() - started)
        wall.append(time.perf_counter() - begun)
    return {"cpu": min(cpu), "wall": min(wall), "mb": resident("VmHWM") - before}


def agree(cell: list[int]) -> float:
    """The largest difference between the two gradients, relative to the largest gradient."""
    import torch

    found = []
    for variant in VARIANTS:
        teacher, student, mask = inputs(cell)
        found.append(torch.autograd.grad(loss_of(variant)(teacher, student, mask, cell[2]), student)[0])
    return float((found[0] - found[1]).abs().max() / found[0].abs().max())


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| " + " | ".join(rows[0]) + " |", "|---" * len(rows[0]) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row.values())) + " |" for row in rows)]) + "\n"


def summary(cell: str, found: dict[str, list[dict[str, float]]], difference: float) -> dict[str, Any]:
    """One row: medians over rounds, and the median of the rounds' ratios."""
    middle = {variant: {key: median(one[key] for one in every) for key in every[0]} for variant, every in found.items()}
    plain, ours = (middle[variant] for variant in VARIANTS)
    ratios = [mine["cpu"] / theirs["cpu"] for theirs, mine in zip(*(found[name] for name in VARIANTS), strict=True)]
    return {
        "rows × tokens × heads × width": cell.replace("x", " × "),
        "plain, MB": f"{plain['mb']:.0f}",
        "potstill, MB": f"{ours['mb']:.0f}",
        "memory": f"1/{plain['mb'] / ours['mb']:.0f}",
        "plain, CPU s": f"{plain['cpu']:.2f}",
        "potstill, CPU s": f"{ours['cpu']:.2f}",
        "time (range over rounds)": f"{median(ratios):.2f}× ({min(ratios):.2f} to {max(ratios):.2f})",
        "gradients apart": f"{difference:.0e}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--passes", type=int, default=3, help="passes a process; the fastest counts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cells", default=CELLS)
    parser.add_argument("--out", type=Path, help="a Markdown file; standard output where left out")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.one:
        variant, cell = told.one.split(":")
        print(json.dumps(measure(variant, [int(n) for n in cell.split("x")], told.threads, told.passes)))
        return
    rows = []
    for cell in told.cells.split(","):
        found: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
        words = [sys.executable, __file__, "--passes", str(told.passes), "--threads", str(told.threads), "--one"]
        for _ in range(told.rounds):
            for variant in VARIANTS:
                done = subprocess.run([*words, f"{variant}:{cell}"], check=True, capture_output=True, text=True)
                found[variant].append(json.loads(done.stdout))
        batch, length, heads, width = (int(n) for n in cell.split("x"))
        rows.append(summary(cell, found, agree([min(batch, 4), length, heads, width])))
        print(rows[-1], file=sys.stderr, flush=True)
    told.out.write_text(table(rows), encoding="utf-8") if told.out else print(table(rows))


if __name__ == "__main__":
    main()
