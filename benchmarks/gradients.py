"""The gradient of one update over 32 ragged rows, some without a label, cut into 1, 2, 4 and 8 micro-batches.

    python benchmarks/gradients.py [--out FILE.md]

What is right does not depend on the cut: the loss is 0.9 · T² · KL, a mean over the 32 rows, plus 0.1 · cross-entropy,
a mean over the rows with a label. potstill runs its engine with the plugins hinton and accumulate; beside it
transformers' Trainer with the usual custom `compute_loss` (hard and soft term as means of the batch at hand) and
`gradient_accumulation_steps`. Every figure is relative to the same loop with one micro-batch of all rows.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from potstill import testing
from potstill.batch import IGNORED
from potstill.engine import Engine
from potstill.models import Model
from potstill.plugin import Plugin, hookimpl
from potstill.stage import Stage
from potstill.tokenizers import load_tokenizer

ROWS, TEMPERATURE, ALPHA = 32, 4.0, 0.9
CUTS = (1, 2, 4, 8)
LABELS = ["a", "b", "c"]
WORDS = [f"w{number}" for number in range(200)]


def table() -> Dataset:
    """3 to 40 words a row; every third row has no label."""
    draw = random.Random(5)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(3, 40))) for _ in range(ROWS)]
    labels = [None if row % 3 == 1 else draw.choice(LABELS) for row in range(ROWS)]
    return Dataset.from_dict({"text": texts, "label": labels})


def models() -> tuple[Any, Any]:
    """Teacher and student without dropout."""
    torch.manual_seed(1)
    shape = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128, "max_position_embeddings": 64}
    calm = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    sizes = {"vocab_size": len(WORDS) + 5, "num_labels": len(LABELS), **shape, **calm}
    teacher, student = (
        BertForSequenceClassification(BertConfig(num_hidden_layers=layers, initializer_range=0.2, **sizes))
        for layers in (2, 1)
    )
    return teacher.eval(), student


def flat(module: nn.Module) -> Tensor:
    """All gradients of a module as one vector, in float64."""
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in module.parameters()]
    return torch.cat([grad.detach().double().reshape(-1) for grad in grads])


class Keeping(Plugin):
    """Keeps the gradient of the update, as the engine is about to clip it."""

    name = "keeping"

    def __init__(self) -> None:
        super().__init__(None)
        self.gradient = torch.zeros(0)

    @hookimpl
    def setup(self, stage: Stage) -> None:
        def clip(parameters: list[Tensor]) -> Tensor:
            self.gradient = flat(stage.student.module)
            return self.gradient.norm()

        stage.claim("clip", clip)


def stage_of(folder: Path, cut: int, *more: Plugin) -> Stage:
    """One update over all rows in `cut` micro-batches."""
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    words = load_tokenizer("vocab.txt", folder)
    stage = {
        "name": "distil",
        "updates": 1,
        "batch_size": ROWS // cut,
        "plugins": ["hinton", "accumulate"],
        "hinton": {"temperature": TEMPERATURE, "alpha": ALPHA},
        "accumulate": {"batches": cut},
    }
    tables = {"data": {"max_length": 64}, "task": {"labels": LABELS}, "stage": [stage]}
    given = {side: Model(module, words) for side, module in zip(("teacher", "student"), models(), strict=True)}
    return testing.stage_of(tables, folder, folder, beside=more, given=given, tables={"train": table()})


def by_potstill(folder: Path, cut: int) -> Tensor:
    """The engine's gradient."""
    keeping = Keeping()
    stage = stage_of(folder, cut, keeping)
    with stage.exit:
        Engine(stage, folder / f"cut-{cut}").train()
    return keeping.gradient


def by_trainer(folder: Path, cut: int) -> Tensor:
    """The Trainer's gradient at its optimizer step."""
    stage = stage_of(folder, 1)
    rows = stage.examples("train")
    assert rows is not None
    teacher, student = models()
    kept: list[Tensor] = []

    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            kept.append(flat(student))

    class Distiller(Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
            labels = inputs.pop("labels")
            with torch.no_grad():
                known = F.log_softmax(teacher(**inputs).logits / TEMPERATURE, -1)
            output = model(**inputs)
            learnt = F.log_softmax(output.logits / TEMPERATURE, -1)
            soft = F.kl_div(learnt, known, reduction="batchmean", log_target=True) * TEMPERATURE**2
            hard = F.cross_entropy(output.logits, labels, ignore_index=IGNORED)
            loss = ALPHA * soft + (1 - ALPHA) * hard
            return (loss, output) if return_outputs else loss

    one = [rows.batch([row]) for row in range(len(rows))]
    dataset = [{name: value[0] for name, value in row.student.items()} | {"labels": int(row.labels[0])} for row in one]
    arguments = TrainingArguments(
        str(folder / "trainer"),
        max_steps=1,
        per_device_train_batch_size=ROWS // cut,
        gradient_accumulation_steps=cut,
        max_grad_norm=0.0,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    collator = DataCollatorWithPadding(stage.student.tokenizer)
    Distiller(student, arguments, data_collator=collator, train_dataset=dataset, callbacks=[Keep()]).train()  # type: ignore[arg-type]
    stage.exit.close()
    return kept[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    told = parser.parse_args()
    lines = [
        f"{date.today()}",
        "",
        "| loop | micro-batches | norm / norm of 1 | largest difference / largest entry |",
        "|---|---|---|---|",
    ]
    for name, loop in (("potstill", by_potstill), ("Trainer", by_trainer)):
        whole: Tensor | None = None
        for cut in CUTS:
            with tempfile.TemporaryDirectory() as folder:
                gradient = loop(Path(folder), cut)
            whole = gradient if whole is None else whole
            difference = (gradient - whole).abs().max() / whole.abs().max()
            lines.append(f"| {name} | {cut} | {gradient.norm() / whole.norm():.6f} | {difference:.1e} |")
        if name == "potstill":
            reference = whole
        else:
            assert whole is not None
            same = (whole - reference).abs().max() / reference.abs().max()
            lines.append(f"\nWith one micro-batch of all rows the two loops differ by {same:.1e}.")
    text = "\n".join(lines) + "\n"
    told.out.write_text(text, encoding="utf-8") if told.out else print(text)


if __name__ == "__main__":
    main()
