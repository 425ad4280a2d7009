"""DistilBERT: losses, the training loop, masking, grouping and a student of the teacher's layers, as the authors'."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from potstill_distilbert.extraction import copied_weights
from potstill_distilbert.grouping import edges, grouped, groups
from potstill_distilbert.losses import cosine, logit_mse, soft_ce
from potstill_distilbert.masking import SmoothedMasking, exact_number, sample, token_weights
from potstill_distilbert.tables import Strategy, chosen_layers
from torch import Tensor
from torch.nn import functional as F

from potstill.batch import IGNORED, Batch
from potstill.data.random import RowRandom
from potstill.schedule import multiplier
from tests.goldens.case import Case
from tests.goldens.registry import check


def losses(case: Case, student: Tensor, hidden: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Every loss that has a weight, by its name in the parameters."""
    params, mask = case.params, case["attention_mask"]
    inputs = {"input_ids": torch.zeros_like(mask), "attention_mask": mask}
    batch = Batch(inputs, inputs, labels, torch.arange(len(mask)))
    chosen = batch.labelled if params.get("restrict_ce_to_mask") else batch.attended
    teacher, known = case["teacher_logits"], case["teacher_hidden_last"]
    found = {
        "ce": soft_ce(student, teacher, chosen, params["temperature"]),
        "mlm": F.cross_entropy(student.flatten(0, 1), labels.flatten()),
        "clm": F.cross_entropy(student[:, :-1].flatten(0, 1), labels[:, 1:].flatten()),
        "mse": logit_mse(student, teacher, chosen),
        "cos": cosine(hidden, known, batch.attended),
    }
    return {name: loss for name, loss in found.items() if params.get(f"alpha_{name}")}


def total(case: Case, found: dict[str, Tensor]) -> Tensor:
    return torch.stack([float(case.params[f"alpha_{name}"]) * loss for name, loss in found.items()]).sum()


@check("distilbert_loss")
def distilbert_loss(case: Case) -> Iterator[tuple[str, Tensor]]:
    student, hidden = (case[f"student_{part}"].clone().requires_grad_() for part in ("logits", "hidden_last"))
    found = losses(case, student, hidden, case["lm_labels"])
    for name, loss in found.items():
        yield f"loss_{name}", loss
    loss = total(case, found)
    loss.backward()
    yield "loss_total", loss
    for name, leaf in (("logits", student), ("hidden_last", hidden)):
        if leaf.grad is not None:
            yield f"grad_student_{name}", leaf.grad


@check("distilbert_train_trajectory")
def distilbert_train_trajectory(case: Case) -> Iterator[tuple[str, Tensor]]:
    """The losses, AdamW, the clipping and the schedule are ours; the loop is the authors', whose left-over gradients
    leak into the next epoch, which the engine's do not."""
    params = case.params
    leaves = [case[f"student_{part}"].clone().requires_grad_() for part in ("logits", "hidden_last")]
    optimizer = torch.optim.AdamW(
        leaves, lr=params["learning_rate"], betas=params["adam_betas"], eps=params["adam_eps"], weight_decay=0.0
    )
    accumulated, per_epoch = params["gradient_accumulation_steps"], params["micro_batches_per_epoch"]
    values, ends, rates, norms = [], [], [], []
    for number, labels in enumerate(case["lm_labels"]):
        loss = total(case, losses(case, leaves[0], leaves[1], labels))
        values.append(loss.detach())
        (loss / accumulated).backward()
        if (number % per_epoch + 1) % accumulated:
            continue
        torch.nn.utils.clip_grad_norm_(leaves, params["max_grad_norm"])
        norms.append(torch.stack([leaf.grad.norm() for leaf in leaves if leaf.grad is not None]).norm())
        updates, warmup = params["total_schedule_steps"], params["warmup_steps"]
        factor = multiplier("linear", len(ends), updates, warmup, start=0.0)
        rates.append(params["learning_rate"] * factor)
        optimizer.param_groups[0]["lr"] = rates[-1]
        optimizer.step()
        optimizer.zero_grad()
        ends.append(number + 1)
    yield "final_student_logits", leaves[0]
    yield "final_student_hidden_last", leaves[1]
    yield "micro_batch_loss", torch.stack(values)
    yield "update_after_micro_batch", torch.tensor(ends)
    yield "update_lr", torch.tensor(rates, dtype=torch.float64)
    yield "update_grad_norm_after_clip", torch.stack(norms)


class Words:
    """As much of a tokenizer as masking needs."""

    mask_token_id = 4

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size


@check("mlm_token_probs_and_sampling")
def mlm_token_probs_and_sampling(case: Case) -> Iterator[tuple[str, Tensor]]:
    """The case's one draw is its generator's: of ours, what holds for any draw is checked. Frequencies are of as many
    draws as the reference's."""
    params, ids, lengths = case.params, case["token_ids"], case["lengths"]
    counts, special = case["token_counts"], case["special_token_ids"].tolist()
    yield "token_probs", torch.stack([token_weights(counts, float(s), special) for s in case["smoothing"]])
    mask = torch.arange(ids.shape[1]) < lengths[:, None]
    weights = token_weights(counts, params["batch_uses_smoothing"], special)
    odds = weights[ids] * mask
    yield "batch_position_probs", odds / odds.sum()
    number = exact_number(params["mlm_mask_prop"], int(lengths.sum()))
    yield "n_targets", torch.tensor(number)
    masking = SmoothedMasking(
        Words(params["vocab_size"]), weights, params["mlm_mask_prop"], params["word_keep"], params["word_rand"]
    )
    often, kinds = torch.zeros(ids.shape, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for epoch in range(params["draws"]):
        inputs = {"input_ids": ids.clone(), "attention_mask": mask.long()}
        batch = Batch(inputs, inputs, torch.zeros(len(ids)), torch.arange(len(ids)))
        masking(batch, RowRandom(0, epoch, np.arange(len(ids))))
        chosen = batch.labels != IGNORED
        assert int(chosen.sum()) == number
        assert torch.equal(batch.labels[chosen], ids[chosen])
        assert torch.equal(inputs["input_ids"][~chosen], ids[~chosen])
        often += chosen
        hidden, were = inputs["input_ids"][chosen], ids[chosen]
        masked, kept = int((hidden == Words.mask_token_id).sum()), int((hidden == were).sum())
        kinds += torch.tensor([masked, kept, number - masked - kept])
    yield "inclusion_frequency", often / params["draws"]
    yield "kind_fraction_mask_keep_rand", kinds / kinds.sum()
    drawn = case["example_labels"] != IGNORED  # the reference's own draw: as many, where ours may draw too
    assert int(drawn.sum()) == number
    assert torch.equal(sample(odds * drawn, number, torch.rand(ids.shape)), drawn)
    yield "example_labels", torch.where(drawn, ids, IGNORED)
    yield "example_masked_ids", torch.where(drawn, case["example_masked_ids"], ids)


@check("grouped_batch_sampler")
def grouped_batch_sampler(case: Case) -> Iterator[tuple[str, Tensor]]:
    lengths, longest = case["lengths"].numpy(), case.params["k"]
    found = groups(lengths, longest)
    yield "bin_edges", torch.from_numpy(edges(longest))
    yield "group_ids", torch.from_numpy(found)
    batches = grouped(case["sampler_order"].tolist(), found, case.params["batch_size"])
    yield "batches_flat", torch.from_numpy(np.concatenate(batches))
    yield "batch_offsets", torch.from_numpy(np.cumsum([0, *map(len, batches)]))


@check("student_extraction")
def student_extraction(case: Case) -> Iterator[tuple[str, Tensor]]:
    """The first run's student, and every run's map; 24 to 6 is the list for 12, as the authors' script takes it."""
    teacher = {name.removeprefix("teacher."): case[name] for name in case.tensors if name.startswith("teacher.")}
    for number, (name, told) in enumerate(case.params.items()):
        depth = 1 + max(int(key.split(".")[3]) for key in teacher if ".layer." in key)
        layers = chosen_layers("published", len(told["layer_map"]), depth)
        yield f"map.{name}", torch.tensor(layers) - 1
        copied = copied_weights(
            teacher, layers, vocab_transform="--vocab_transform" in told["argv"], token_types="drop"
        )
        assert len(copied) == told["n_tensors"]
        if number == 0:
            yield from ((f"student.{key}", value) for key, value in copied.items())


@check("layer_selection_tables")
def layer_selection_tables(case: Case) -> Iterator[tuple[str, Tensor]]:
    rules: dict[str, Strategy] = {"pick_layers": "table", "supervise": "supervised", "extract_roberta": "published"}
    for name in case.outputs:
        kind, _, depths = name.rpartition("_")
        teacher, student = map(int, depths.split("to"))
        yield name, torch.tensor(chosen_layers(rules[kind], student, teacher)) - 1
