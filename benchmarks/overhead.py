"""What the engine costs: CPU time a step above a bare loop with the same maths, and beside transformers' Trainer.

    python benchmarks/overhead.py [--rounds 7] [--threads 1] [--out FILE.md]

Two cells: "trivial" (an embedding, a mean, a linear layer; batch 8 × 16), where nearly all of a step is the loop
itself, and "small" (a BERT of 12 × 256 teaches one of 4 × 256, batch 16 × 32). Every variant does the same: collate a
batch, teacher and student forward, 0.9 · T² · KL + 0.1 · cross-entropy, backward, clip at 1.0, AdamW (fused), linear
schedule. potstill runs three plugins: hinton, accumulate with one micro-batch, and a clock in `on_update`. Each turn is
a process of its own, the variants take turns, and CPU time is counted between two updates, so that neither the start
nor the last checkpoint is in it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from turns import LABELS, SPECIAL, WORDS, Cell, Clock, calm_bert, clocked, in_a_process, made_up, words_in

VARIANTS = ("bare", "potstill", "trainer")
TEMPERATURE, ALPHA, RATE = 4.0, 0.9, 1e-4


CELLS = {"trivial": Cell(8, 16, 100, 1000), "small": Cell(16, 32, 5, 20)}


def clock_of(cell: str) -> Clock:
    return Clock(CELLS[cell].warmup, CELLS[cell].counted)


def models(cell: str) -> tuple[Any, Any]:
    """Teacher and student."""
    import torch
    from torch import nn
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

    class Bag(PreTrainedModel):
        """The mean of the tokens' vectors and a linear head."""

        config_class = BertConfig

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.table = nn.Embedding(config.vocab_size, config.hidden_size)
            self.head = nn.Linear(config.hidden_size, config.num_labels)

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> Any:
            mask = attention_mask[..., None].float()
            return {"logits": self.head((self.table(input_ids) * mask).sum(1) / mask.sum(1))}

    def made(layers: int, hidden: int, kind: Any) -> Any:
        return kind(calm_bert(len(WORDS) + len(SPECIAL), layers, hidden))

    torch.manual_seed(0)
    if cell == "trivial":
        return made(1, 16, Bag), made(1, 16, Bag)
    return made(12, 256, BertForSequenceClassification), made(4, 256, BertForSequenceClassification)


def stage_of(cell: str, folder: Path, extra: Callable[[int], None]) -> Any:
    """A potstill stage on made-up rows; `extra` is told of every update."""
    from potstill.models import Model

    size = CELLS[cell]
    words = words_in(folder)
    stage = {
        "name": "distil",
        "updates": size.updates,
        "batch_size": size.batch,
        "learning_rate": RATE,
        "plugins": ["hinton", "accumulate"],
        "hinton": {"temperature": TEMPERATURE, "alpha": ALPHA},
        "accumulate": {"batches": 1},
        "teacher_once": False,
    }
    recipe = {"data": {"max_length": size.length}, "task": {"labels": LABELS}, "stage": [stage]}
    given = {side: Model(module, words) for side, module in zip(("teacher", "student"), models(cell), strict=True)}
    return clocked(recipe, folder, folder, extra, given=given, tables={"train": made_up(size)})


def potstill(cell: str, folder: Path) -> dict[str, float]:
    """The engine."""
    from potstill.engine import Engine

    clock = clock_of(cell)
    stage = stage_of(cell, folder, clock.tick)
    with stage.exit:
        Engine(stage, folder).train()
    return clock.result()


def loss_of(student: Any, teacher: Any, labels: Any) -> Any:
    """The maths that all variants share, on logits."""
    import torch.nn.functional as F

    known, learnt = F.log_softmax(teacher / TEMPERATURE, -1), F.log_softmax(student / TEMPERATURE, -1)
    soft = TEMPERATURE**2 * (known.exp() * (known - learnt)).sum(-1).mean()
    return ALPHA * soft + (1 - ALPHA) * F.cross_entropy(student, labels)


def bare(cell: str, folder: Path) -> dict[str, float]:
    """A loop as one would write it for this one purpose, on batches collated by the same code."""
    import torch

    from potstill.optimizer import parameter_groups
    from potstill.schedule import multiplier

    size, clock = CELLS[cell], clock_of(cell)
    stage = stage_of(cell, folder, lambda update: None)
    rows, total = stage.examples("train"), size.warmup + size.counted
    teacher, student = stage.teacher.module, stage.student.module
    parameters = list(student.parameters())
    optimizer = torch.optim.AdamW(parameter_groups([student], stage.plan, {}), lr=RATE, fused=True)

    for update, group in enumerate(stage.batches(rows, 0), 1):
        batch = rows.batch(group[0])
        with torch.no_grad():
            known = stage.task.logits(teacher(**batch.teacher))
        loss = loss_of(stage.task.logits(student(**batch.student)), known, batch.labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = RATE * multiplier("linear", update - 1, total, 0.1, None)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()  # as the engine reads every term, to see that it is finite
        clock.tick(update)
    return clock.result()


def trainer(cell: str, folder: Path) -> dict[str, float]:
    """transformers' Trainer with the usual custom `compute_loss`."""
    import torch
    from transformers import DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments

    size, clock = CELLS[cell], clock_of(cell)
    stage = stage_of(cell, folder, lambda update: None)
    rows = stage.examples("train")
    teacher, student = stage.teacher.module, stage.student.module

    class Ticking(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            clock.tick(state.global_step)

    class Distiller(Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
            labels = inputs.pop("labels")
            with torch.no_grad():
                known = stage.task.logits(teacher(**inputs))
            output = model(**inputs)
            loss = loss_of(stage.task.logits(output), known, labels)
            return (loss, output) if return_outputs else loss

    one = [rows.batch([row]) for row in range(len(rows))]
    dataset = [
        {name: value[0] for name, value in batch.student.items()} | {"labels": int(batch.labels[0])} for batch in one
    ]
    arguments = TrainingArguments(
        str(folder / "trainer"),
        max_steps=size.warmup + size.counted,
        per_device_train_batch_size=size.batch,
        learning_rate=RATE,
        weight_decay=0.01,
        warmup_steps=(size.warmup + size.counted) // 10,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        logging_steps=50,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    Distiller(
        student,
        arguments,
        data_collator=DataCollatorWithPadding(stage.student.tokenizer),
        train_dataset=dataset,  # type: ignore[arg-type]
        callbacks=[Ticking()],
    ).train()
    return clock.result()


def report(results: dict[str, dict[str, list[dict[str, float]]]], rounds: int, threads: int) -> str:
    """Markdown: medians, and the difference to the bare loop of the same round."""
    lines = [
        f"{date.today()}, {platform.machine()}, {rounds} rounds, {threads} thread(s), "
        f"load {os.getloadavg()[0]:.1f} at the end.",
        "",
        "| cell | variant | CPU ms a step | above bare, µs | ratio to bare | wall ms a step |",
        "|---|---|---|---|---|---|",
    ]
    for cell, variants in results.items():
        for variant, turns in variants.items():
            cpu = [one["cpu_ms"] for one in turns]
            base = [one["cpu_ms"] for one in variants["bare"]]
            above = median(a - b for a, b in zip(cpu, base, strict=True))
            ratio = median(a / b for a, b in zip(cpu, base, strict=True))
            wall = median(one["wall_ms"] for one in turns)
            lines.append(f"| {cell} | {variant} | {median(cpu):.3f} | {1000 * above:.0f} | {ratio:.3f} | {wall:.3f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--turn", nargs=2, metavar=("CELL", "VARIANT"), help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.turn:
        cell, variant = told.turn
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps({"bare": bare, "potstill": potstill, "trainer": trainer}[variant](cell, Path(folder))))
        return
    results: dict[str, dict[str, list[dict[str, float]]]] = {
        cell: {variant: [] for variant in VARIANTS} for cell in told.cells
    }
    for _ in range(told.rounds):
        for cell in told.cells:
            for variant in VARIANTS:
                results[cell][variant].append(in_a_process(__file__, "--turn", cell, variant, threads=told.threads))
                print(cell, variant, results[cell][variant][-1], file=sys.stderr, flush=True)
    text = report(results, told.rounds, told.threads)
    told.out.write_text(text, encoding="utf-8") if told.out else print(text)


if __name__ == "__main__":
    main()
