"""DIITO: the plugin `diito` against frankaging's Causal-Distill and Causal-Distill-XXS, through the core's patches."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from potstill_diito import losses
from potstill_diito.config import DiitoConfig
from potstill_diito.interchange import augmented, interchanged, swaps_of
from potstill_diito.mapping import Read, Shape, Site, Variable
from potstill_diito.mapping_files import variable_named
from potstill_diito.positions import Swaps, count_of, fitted, paired
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

from potstill.batch import Batch
from potstill.data.examples import padded
from potstill.data.table import TokenTable, record
from potstill.features import LOGITS, Hidden
from potstill.observe import Observer, Outputs
from potstill.patches import Patch
from tests.goldens.case import Case
from tests.goldens.registry import check

SIDES = ("teacher", "student")
READS: dict[str, Read] = {"ref": "released", "aligned": "aligned"}


class Model:
    """One side of a case, looked into as in a stage.

    Args:
        sites: of which source activations are read.
    """

    def __init__(self, side: str, module: nn.Module, sites: Sequence[Site]) -> None:
        self.side, self.module, self.sites = side, module.double().eval(), sites
        self._observer = Observer(module, [LOGITS, Hidden(-1), *(Hidden(site.read) for site in sites)], side)

    def run(self, inputs: dict[str, Tensor], patches: Sequence[Patch] = (), until: int | None = None) -> Outputs:
        with torch.set_grad_enabled(self.side == "student"):
            raw, outputs = self._observer(inputs, patches, until)
        return outputs if raw is None else outputs.with_logits(raw.logits)

    def counterfactual(self, base: Batch, source: Batch, swaps: Swaps) -> Outputs:
        read = self.run(source.student, until=max(site.read for site in self.sites))
        return self.run(base.student, interchanged(read, self.sites, swaps))


def batch(case: Case, which: str, *more: str) -> Batch:
    inputs = {name: case[f"{which}_{name}"].long() for name in ("input_ids", "attention_mask", *more)}
    labels = case["lm_labels"] if "lm_labels" in case.tensors else torch.zeros(len(inputs["input_ids"]))
    return Batch(inputs, inputs, labels, torch.arange(len(labels)))


def swaps_in(case: Case) -> Swaps:
    return paired(*(case[f"{which}_interchange_mask"].bool() for which in ("base", "source")))


def language_model(case: Case, side: str) -> BertForMaskedLM:
    config = json.loads((case.folder / f"dd_diito_{side}_config.json").read_text(encoding="utf-8"))
    model = BertForMaskedLM(BertConfig(**config))
    model.load_state_dict(load_file(case.folder / f"dd_diito_{side}.safetensors"), strict=False)
    return model


def sites_of(variable: Variable, side: str, module: nn.Module, read: Read) -> tuple[Site, ...]:
    config: Any = module.config
    return Shape(side, config.num_hidden_layers, config.hidden_size, config.num_attention_heads).sites(variable, read)


@check("diito_interchange")
def diito_interchange(case: Case) -> Iterator[tuple[str, Tensor]]:
    (entry,) = case.params["neuron_mapping"]["interchange_variable_mappings"]
    base, source, swaps = batch(case, "base"), batch(case, "source"), swaps_in(case)
    for prefix, read in READS.items():
        models = []
        for side in SIDES:
            module = language_model(case, side)
            variable = variable_named(entry[f"{side}_variable_names"][0])
            models.append(Model(side, module, sites_of(variable, side, module, read)))
        teacher, student = (model.counterfactual(base, source, swaps) for model in models)
        yield from results(case, prefix, models, base, teacher, student)


@check("diito_embedding_augment")
def diito_embedding_augment(case: Case) -> Iterator[tuple[str, Tensor]]:
    base = batch(case, "base")
    mixed = augmented(base, batch(case, "source"), swaps_in(case))
    models = [Model(side, language_model(case, side), ()) for side in SIDES]
    teacher, student = (model.run(mixed.student) for model in models)
    yield from results(case, "ref", models, base, teacher, student)


def results(
    case: Case, prefix: str, models: list[Model], base: Batch, teacher: Outputs, student: Outputs
) -> Iterator[tuple[str, Tensor]]:
    """All outputs of a case of language models; `teacher` and `student` are the counterfactual runs."""
    tokens, temperature = base.student["attention_mask"].bool(), float(case.params["temperature"])
    known, learnt = (model.run(base.student) for model in models)

    def both(left: Outputs, right: Outputs) -> tuple[Tensor, Tensor]:
        return (
            losses.causal_ce(right.logits[tokens], left.logits[tokens], temperature),
            losses.causal_cos(right[Hidden(-1)], left[Hidden(-1)], tokens),
        )

    names = ("ce", "mlm", "cos", "causal_ce", "causal_cos")
    (ce, cos), (causal_ce, causal_cos) = both(known, learnt), both(teacher, student)
    mlm = F.cross_entropy(learnt.logits.flatten(0, 1), base.labels.flatten())
    values = dict(zip(names, (ce, mlm, cos, causal_ce, causal_cos), strict=True))
    total = torch.stack([float(case.params[f"alpha_{name}"]) * value for name, value in values.items()]).sum()
    total.backward()
    yield from {"loss_ce": ce, "loss_mlm": mlm, "loss_cos": cos}.items()
    yield from {"teacher_base_logits": known.logits, "student_base_logits": learnt.logits}.items()
    for model, outputs in zip(models, (teacher, student), strict=True):
        yield f"{prefix}.{model.side}_cf_logits", outputs.logits
        yield f"{prefix}.{model.side}_cf_hidden_last", outputs[Hidden(-1)]
    yield f"{prefix}.causal_loss_ce", causal_ce
    yield f"{prefix}.causal_loss_cos", causal_cos
    yield f"{prefix}.loss_total", total
    for name, parameter in models[1].module.named_parameters():
        if parameter.grad is not None:
            yield f"{prefix}.grad.{name}", parameter.grad


@check("diito_dual_collate")
def diito_dual_collate(case: Case) -> Iterator[tuple[str, Tensor]]:
    ends = case["seq_offsets"].tolist()
    rows = [case["seq_flat"][start:end].tolist() for start, end in pairwise(ends)]
    table = TokenTable(pa.Table.from_batches([record(("input_ids",), {"input_ids": rows})]))
    pad = int(case.params["special_token_ids"]["pad_token"])
    chosen = case["batch_indices"]
    base = padded(table, chosen.numpy(), pad)
    source = fitted(padded(table, case["dual_index"][chosen].numpy(), pad), base["input_ids"].shape[1], pad)
    for name, inputs in (("base", base), ("source", source)):
        yield f"{name}_ids", inputs["input_ids"]
        yield f"{name}_lengths", inputs["attention_mask"].sum(1)


class Replay:
    """The draws of the authors' run, one call of Python's `random` after the other, as ours would have come."""

    def __init__(self, seed: int, counts: list[int], lengths: list[list[int]], *, run: bool) -> None:
        draw = random.Random(seed)
        calls: tuple[list[Any], list[Any]] = ([], [])
        for row, count in enumerate(counts):
            for call, length in zip(calls, lengths, strict=True):
                free = length[row] - count
                call.append([(draw.randint(0, free) + 0.5) / (free + 1)] if run else draw.sample(range(14), count))
        self._left, self._run = list(calls), run

    def uniform(self, width: int) -> Tensor:
        call = self._left.pop(0)
        if self._run:
            return torch.tensor(call)
        return torch.stack([torch.ones(width).index_fill(0, torch.tensor(row).long(), 0.0) for row in call])


class Many:
    """Draws of NumPy's, for frequencies."""

    def __init__(self, rows: int) -> None:
        self._rows, self._draw = rows, np.random.default_rng(0)

    def uniform(self, width: int) -> Tensor:
        return torch.from_numpy(self._draw.random((self._rows, width), dtype=np.float32))


@check("diito_interchange_masks")
def diito_interchange_masks(case: Case) -> Iterator[tuple[str, Tensor]]:
    width, many = int(case.params["seq_len"]), 4000
    lengths = [case["lengths"], case["source_lengths"]]
    for name, given in case.params["modes"].items():
        run = given.get("interchange_consecutive_only", False)
        config = DiitoConfig(
            positions="consecutive" if run else "random",
            interchange_prop=given.get("interchange_prop", 0.3),
            max_tokens=given.get("interchange_max_token"),
            padding="reference",
        )
        count = count_of(*lengths, config.interchange_prop, config.max_tokens)
        yield f"{name}.count", count
        replay = Replay(given["python_random_seed"], count.tolist(), [n.tolist() for n in lengths], run=run)
        masks = swapped(lengths, config, replay, width)
        yield from {f"{name}.base_mask": masks[0], f"{name}.source_mask": masks[1]}.items()
        masks = swapped([n.repeat(many) for n in lengths], config, Many(many * len(count)), width)
        for which, mask in zip(("base", "source"), masks, strict=True):
            yield f"{name}.{which}_frequency", mask.double().view(many, len(count), width).mean(0)


def swapped(lengths: list[Tensor], config: DiitoConfig, rng: Any, width: int) -> tuple[Tensor, Tensor]:
    """[rows, width], 1 where a position of the base and of the source is swapped."""
    batches = []
    for length in lengths:
        mask = (torch.arange(width) < length[:, None]).long()
        inputs = {"input_ids": mask, "attention_mask": mask}
        batches.append(Batch(inputs, inputs, length, torch.arange(len(length))))
    swaps = swaps_of(batches[0], batches[1], config, rng)
    masks = torch.zeros(2, len(lengths[0]), width)
    masks[0, swaps.rows, swaps.base] = masks[1, swaps.rows, swaps.source] = 1
    return masks[0], masks[1]


@check("diito_xxs_classification")
def diito_xxs_classification(case: Case) -> Iterator[tuple[str, Tensor]]:
    base, source = (batch(case, which, "token_type_ids") for which in ("base", "source"))
    temperature, alpha = float(case.params["T"]), float(case.params["alpha"])
    layers = {"teacher": case.params["teacher_layers"], "student": [case.params["student_layer"]]}
    models = []
    for side in SIDES:
        module = classifier(case, side)
        variable = Variable(tuple(layer + 1 for layer in layers[side]))
        models.append(Model(side, module, sites_of(variable, side, module, "aligned")))
    known, learnt = (model.run(base.student).logits for model in models)
    teacher, student = (model.counterfactual(base, source, swaps_in(case)).logits for model in models)
    soft = losses.causal_ce(learnt, known, temperature, reduction="mean")
    hard = F.cross_entropy(learnt, case["base_labels"])
    causal = losses.causal_ce(student, teacher, temperature, reduction="mean")
    mixed = alpha * soft + (1 - alpha) * hard
    total = mixed + float(case.params["gamma"]) * causal
    total.backward()
    yield from {"teacher_base_logits": known, "student_base_logits": learnt}.items()
    yield from {"teacher_cf_logits": teacher, "student_cf_logits": student}.items()
    yield from {"kd_loss": soft, "ce_loss": hard, "loss_dl": mixed, "loss_diito": causal, "loss_total": total}.items()
    student_model = models[1].module
    yield "grad_student_classifier_weight", student_model.classifier.weight.grad
    yield "grad_student_pooler_weight", student_model.bert.pooler.dense.weight.grad


def classifier(case: Case, side: str) -> BertForSequenceClassification:
    own = {
        name.split(".", 1)[1]: value
        for name, value in case.tensors.items()
        if name.startswith((f"{side}_encoder.", f"{side}_classifier."))
    }
    vocabulary, width = case[f"{side}_encoder.bert.embeddings.word_embeddings.weight"].shape
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=len({name.split(".")[3] for name in own if name.startswith("bert.encoder.layer.")}),
        num_attention_heads=case.params["num_heads"],
        intermediate_size=len(case[f"{side}_encoder.bert.encoder.layer.0.intermediate.dense.bias"]),
        max_position_embeddings=len(case[f"{side}_encoder.bert.embeddings.position_embeddings.weight"]),
        num_labels=case.params["num_labels"],
    )
    model = BertForSequenceClassification(config).double()
    model.load_state_dict(own)
    return model
