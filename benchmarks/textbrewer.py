"""Matching inner layers: potstill's `layers` beside TextBrewer and transformers' Trainer with a custom loss.

    pip install --no-deps --target SOMEWHERE textbrewer==0.2.1.post1 (and tensorboard, which it imports)
    PYTHONPATH=SOMEWHERE python benchmarks/textbrewer.py DATA_ROOT [--rounds 3] [--threads 1] [--out FILE.md]

A BERT of 12 × 384 teaches one of 4 × 384 (random weights, dropout 0.1) on sentences of SST-2 (DATA_ROOT holds
sst2/train.parquet), 32 a batch: soft cross-entropy at T = 8, five hidden_mse (layers 0, 3, 6, 9, 12 on 0 to 4) and four
attention_mse of scores (layers 3, 6, 9, 12 on 1 to 4). On one padded batch without dropout all must give the same loss
first. The variants take turns, each in a process of its own; time is counted between updates, after two to warm up.

padded      TextBrewer as its README has it: every row padded to 64
bucketed    TextBrewer on the very batches that potstill makes
trainer     transformers' Trainer, lengths grouped, with a custom `compute_loss`
potstill    `layers`
half        `layers` and `amp`, the teacher in bfloat16, the student in float32

TextBrewer and the Trainer take scores from an attention function that returns them instead of probabilities, since
transformers gives them out nowhere; what it computes is what eager attention does.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from turns import Clock, clocked, in_a_process

VARIANTS = ("padded", "bucketed", "trainer", "potstill", "half")
PAIRS = ((3, 1), (6, 2), (9, 3), (12, 4))
BATCH, LENGTH, WARMUP, RATE, TEMPERATURE = 32, 64, 2, 1e-4, 8.0


def models(dropout: float, words: Any) -> dict[str, Any]:
    """Teacher and student, the same in every process."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    return {
        side: BertForSequenceClassification(
            BertConfig(
                vocab_size=len(words),
                hidden_size=384,
                num_hidden_layers=layers,
                num_attention_heads=12,
                intermediate_size=1536,
                max_position_embeddings=128,
                hidden_dropout_prob=dropout,
                attention_probs_dropout_prob=dropout,
                num_labels=2,
            )
        )
        for side, layers in (("teacher", 12), ("student", 4))
    }


def stage_of(
    data: Path, folder: Path, updates: int, dropout: float, told: Callable[[int], None], **plugins: Any
) -> Any:
    """A potstill stage; `told` hears of every update. `plugins` stand beside `layers`, with their options."""
    from potstill.models import Model
    from potstill.tokenizers import load_tokenizer

    matches = [{"teacher": 0, "student": 0, "loss": "hidden_mse"}]
    for teacher, student in PAIRS:
        matches += [{"teacher": teacher, "student": student, "loss": loss} for loss in ("hidden_mse", "attention_mse")]
    stage = {
        "name": "distil",
        "updates": updates,
        "batch_size": BATCH,
        "learning_rate": RATE,
        "schedule": "constant",
        "warmup": 0,
        "plugins": ["layers", *plugins],
        "layers": {"matches": matches, "temperature": TEMPERATURE, "t_squared": False},
        **plugins,
    }
    rows = {"train": "sst2/train.parquet", "text": "sentence", "max_length": LENGTH, "train_rows": BATCH * updates}
    recipe = {"data": rows, "task": {"labels": ["negative", "positive"]}, "stage": [stage]}
    words = load_tokenizer("vocab/bert-base-uncased-vocab.txt", data)
    given = {side: Model(module, words) for side, module in models(dropout, words).items()}
    return clocked(recipe, data, folder, told, given=given)


def give_scores(*modules: Any) -> None:
    """Makes models give attention scores where they would give probabilities."""
    import torch
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    def scores(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **more: Any) -> Any:
        weights = torch.matmul(query, key.transpose(2, 3)) * query.shape[-1] ** -0.5
        if attention_mask is not None:
            weights = weights + attention_mask
        probabilities = torch.nn.functional.dropout(
            weights.softmax(-1), p=more.get("dropout", 0.0), training=module.training
        )
        return torch.matmul(probabilities, value).transpose(1, 2).contiguous(), weights

    AttentionInterface.register("scores", scores)
    AttentionMaskInterface.register("scores", eager_mask)
    for module in modules:
        module.set_attn_implementation("scores")


def distiller(teacher: Any, student: Any, folder: Path) -> Any:
    """TextBrewer's."""
    import numpy as np

    for name in ("int", "bool", "float"):  # which NumPy took away and TextBrewer may use
        if not hasattr(np, name):
            setattr(np, name, {"int": int, "bool": bool, "float": float}[name])
    here = str(Path(__file__).resolve().parent)
    sys.path[:] = [place for place in sys.path if place != here]  # where this file is called textbrewer too
    from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig

    def adaptor(batch: Any, outputs: Any) -> dict[str, Any]:
        return {
            "logits": outputs.logits,
            "hidden": outputs.hidden_states,
            "attention": outputs.attentions,
            "inputs_mask": batch["attention_mask"],
        }

    hidden = [{"layer_T": t, "layer_S": s, "feature": "hidden", "loss": "hidden_mse", "weight": 1} for t, s in
              ((0, 0), *PAIRS)]  # fmt: skip
    attention = [{"layer_T": t - 1, "layer_S": s - 1, "feature": "attention", "loss": "attention_mse", "weight": 1}
                 for t, s in PAIRS]  # fmt: skip
    training = TrainingConfig(device="cpu", output_dir=str(folder), ckpt_frequency=1)
    distillation = DistillationConfig(temperature=TEMPERATURE, intermediate_matches=hidden + attention)
    return GeneralDistiller(training, distillation, teacher, student, adaptor, adaptor)


ARGUMENTS = {"output_hidden_states": True, "output_attentions": True}


def padded(data: Path, folder: Path, updates: int) -> dict[str, float]:
    """TextBrewer, every row padded to 64."""
    return _textbrewer(data, folder, updates, pad=True)


def bucketed(data: Path, folder: Path, updates: int) -> dict[str, float]:
    """TextBrewer, on potstill's batches."""
    return _textbrewer(data, folder, updates, pad=False)


def _textbrewer(data: Path, folder: Path, updates: int, *, pad: bool) -> dict[str, float]:
    import torch
    from torch.nn.functional import pad as padding

    clock = Clock(WARMUP, updates - WARMUP)
    stage = stage_of(data, folder, updates, 0.1, lambda update: None)
    rows = stage.examples("train")
    teacher, student = stage.teacher.module, stage.student.module
    give_scores(teacher, student)

    class Batches:
        """The stage's batches; the clock is told between them."""

        def __len__(self) -> int:
            return updates

        def __iter__(self) -> Iterator[dict[str, Any]]:
            for number, [group] in enumerate(stage.batches(rows, 0)):
                clock.tick(number)
                batch = rows.batch(group).student
                width = batch["input_ids"].shape[1]
                yield {name: padding(x, (0, LENGTH - width)) for name, x in batch.items()} if pad else batch
            clock.tick(updates)

    optimizer = torch.optim.AdamW(student.parameters(), lr=RATE, fused=True)
    trained = distiller(teacher, student, folder)
    with trained:
        trained.train(optimizer, Batches(), num_epochs=1, max_grad_norm=1.0, **ARGUMENTS)
    return clock.result()


def loss_of(outputs: Any, known: Any, mask: Any) -> Any:
    """The maths that the Trainer's user would write."""
    import torch.nn.functional as F

    soft = F.softmax(known.logits / TEMPERATURE, -1)
    loss = -(soft * F.log_softmax(outputs.logits / TEMPERATURE, -1)).sum(-1).mean()
    wide = mask[..., None].float()
    for teacher, student in ((0, 0), *PAIRS):
        distance = (outputs.hidden_states[student] - known.hidden_states[teacher]).square() * wide
        loss = loss + distance.sum() / (mask.sum() * distance.shape[-1])
    both = mask[:, None, :, None] * mask[:, None, None, :]
    for teacher, student in PAIRS:
        distance = (outputs.attentions[student - 1] - known.attentions[teacher - 1]).square() * both
        loss = loss + distance.sum() / (distance.shape[1] * mask.sum(1).square().sum())
    return loss


def trainer(data: Path, folder: Path, updates: int) -> dict[str, float]:
    """transformers' Trainer."""
    import torch
    from transformers import DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments

    clock = Clock(WARMUP, updates - WARMUP)
    stage = stage_of(data, folder, updates, 0.1, lambda update: None)
    rows = stage.examples("train")
    teacher, student = stage.teacher.module, stage.student.module
    give_scores(teacher, student)

    class Ticking(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            clock.tick(state.global_step)

    class Distiller(Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
            inputs.pop("labels")
            with torch.no_grad():
                known = teacher(**inputs, **ARGUMENTS)
            outputs = model(**inputs, **ARGUMENTS)
            loss = loss_of(outputs, known, inputs["attention_mask"])
            return (loss, outputs) if return_outputs else loss

    one = [rows.batch([row]) for row in range(len(rows))]
    dataset = [
        {name: value[0].tolist() for name, value in batch.student.items()} | {"labels": int(batch.labels[0])}
        for batch in one
    ]
    arguments = TrainingArguments(
        str(folder / "trainer"),
        max_steps=updates,
        per_device_train_batch_size=BATCH,
        train_sampling_strategy="group_by_length",
        learning_rate=RATE,
        lr_scheduler_type="constant",
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
    collator = DataCollatorWithPadding(stage.student.tokenizer)
    Distiller(student, arguments, data_collator=collator, train_dataset=dataset, callbacks=[Ticking()]).train()  # type: ignore[arg-type]
    return clock.result()


def potstill(data: Path, folder: Path, updates: int) -> dict[str, float]:
    """The engine with `layers`."""
    return _engine(data, folder, updates)


def half(data: Path, folder: Path, updates: int) -> dict[str, float]:
    """The same with a teacher in bfloat16."""
    return _engine(data, folder, updates, amp={"dtype": "float32", "teacher_dtype": "bfloat16"})


def _engine(data: Path, folder: Path, updates: int, **plugins: Any) -> dict[str, float]:
    from potstill.engine import Engine

    clock = Clock(WARMUP, updates - WARMUP)
    stage = stage_of(data, folder, updates, 0.1, clock.tick, **plugins)
    with stage.exit:
        Engine(stage, folder).train()
    return clock.result()


def same_loss(data: Path, folder: Path, updates: int) -> dict[str, float]:
    """The loss of one padded batch without dropout, by all three."""
    import torch

    from potstill.shares import shares
    from potstill.step import Step

    stage = stage_of(data, folder, updates, 0.0, lambda update: None)
    rows = stage.examples("train")
    stage.count_updates(rows)
    batch = rows.batch(range(BATCH))
    with stage.exit:
        terms = Step(stage, batch, shares([batch], stage.units), 0, 0).terms()
        found = {"potstill": float(sum(term.value * term.weight for term in terms.values()))}
    teacher, student = stage.teacher.module, stage.student.module
    give_scores(teacher, student)
    with torch.no_grad():
        known, outputs = (module(**batch.student, **ARGUMENTS) for module in (teacher, student))
        found["trainer"] = float(loss_of(outputs, known, batch.student["attention_mask"]))
        trained = distiller(teacher, student, folder)
        with trained:
            found["textbrewer"] = float(trained.train_on_batch(batch.student, ARGUMENTS)[0])
    return found


def turn(what: str, told: argparse.Namespace) -> dict[str, float]:
    """One process's figures."""
    words = (str(told.data_root), "--one", what, "--updates", str(told.updates))
    with tempfile.TemporaryDirectory() as folder:
        return in_a_process(__file__, *words, threads=told.threads, POTSTILL_CACHE=f"{folder}/cache")


def table(found: dict[str, list[dict[str, float]]]) -> str:
    """Medians over rounds, and the median and range of the ratios to potstill's turn of the same round."""
    lines = ["| variant | CPU ms an update | wall ms | CPU, as a multiple of potstill's (range) |", "|---|---|---|---|"]
    ours = [one["cpu_ms"] for one in found["potstill"]]
    for variant, turns in found.items():
        cpu, wall = (median(one[key] for one in turns) for key in ("cpu_ms", "wall_ms"))
        ratios = [one["cpu_ms"] / mine for one, mine in zip(turns, ours, strict=True)]
        told = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        lines.append(f"| {variant} | {cpu:.0f} | {wall:.0f} | {told} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_root", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--updates", type=int, default=14, help="with two to warm up")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--out", type=Path, help="a Markdown file; standard output where left out")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.one:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(globals()[told.one](told.data_root.resolve(), Path(folder), told.updates)))
        return
    losses = turn("same_loss", told)
    print(losses, file=sys.stderr, flush=True)
    if max(losses.values()) - min(losses.values()) > 1e-4 * max(losses.values()):
        sys.exit(f"The losses differ: {losses}")
    found: dict[str, list[dict[str, float]]] = {variant: [] for variant in told.variants}
    for _ in range(told.rounds):
        for variant in told.variants:
            found[variant].append(turn(variant, told))
            print(variant, found[variant][-1], file=sys.stderr, flush=True)
    text = f"Loss of one batch: {losses}\n\n{table(found)}"
    told.out.write_text(text, encoding="utf-8") if told.out else print(text)


if __name__ == "__main__":
    main()
