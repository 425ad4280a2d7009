"""The plugin `theseus` against JetRunner's code: replacement_scheduler.py, modeling_bert_of_theseus.py, run_glue.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from potstill_theseus.hybrid import replaceable, successor
from potstill_theseus.modules import Replaceable, move_unsampled
from potstill_theseus.replacing import constant_rate, linear_rate
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import BertConfig, BertForSequenceClassification, BertModel

from potstill.models import Model
from potstill.optimizer import clip_norm
from potstill.recipe import TaskConfig
from potstill.schedule import multiplier
from potstill.tasks import load_task
from tests.goldens.case import Case
from tests.goldens.registry import check

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@check("theseus_schedule")
def schedule(case: Case) -> Iterator[tuple[str, Tensor]]:
    """The authors' scheduler first looks at the steps when one is over, so that their S = 0 is S = 1."""
    for kind, number, given in (
        (kind, *numbered) for kind, told in case.params.items() for numbered in enumerate(told)
    ):
        steps = range(given["n_optimizer_steps"] + 1)
        if kind == "linear":
            rates = [linear_rate(step, given["b"], given["k"]) for step in steps]
        else:
            until = None if given["replacing_steps"] is None else max(1, given["replacing_steps"])
            rates = [constant_rate(step, given["replacing_rate"], until) for step in steps]
        yield f"out.{kind}.{number}.rate_in_forward", torch.tensor(rates[:-1], dtype=torch.float64)
        yield f"out.{kind}.{number}.returned_by_step", torch.tensor(rates[1:], dtype=torch.float64)


def hybrid(case: Case, kind: Any) -> tuple[Any, tuple[Replaceable, ...]]:
    """The hybrid as the plugin makes it, in float64 and without dropout, with the case's weights."""
    calm = {"hidden_act": "gelu", "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "pad_token_id": 0}
    config = BertConfig(**{**case.params["config"], **calm})
    predecessor = kind(config).double().eval()
    load(predecessor, case, "predecessor.")
    task = load_task(TaskConfig(labels=[str(label) for label in range(config.num_labels)]), None)
    made = successor(Model(predecessor, None), case.params["successor_layers"], "bottom", task)  # type: ignore[arg-type]
    student = made.module.double().eval()
    load(student, case, "successor.")
    return student, replaceable(student, predecessor)


def load(module: nn.Module, case: Case, side: str) -> None:
    weights = {name.removeprefix(side): value for name, value in case.tensors.items() if name.startswith(side)}
    missing, unknown = module.load_state_dict(weights, strict=False)
    assert not unknown, unknown
    assert side == "successor." or not [name for name in missing if "position_ids" not in name], missing


def choose(modules: Sequence[Replaceable], pattern: Tensor) -> None:
    for module, replaced in zip(modules, pattern.tolist(), strict=True):
        module.replaced = bool(replaced)
    modules[0].anchored = not pattern.any()


@check("theseus_forward")
def forward(case: Case) -> Iterator[tuple[str, Tensor]]:
    student, modules = hybrid(case, BertModel)
    inputs = {name: case[name] for name in INPUTS}
    evaluated = student(**inputs, output_hidden_states=True)
    yield "out.eval_last_hidden_state", evaluated.last_hidden_state
    yield "out.eval_hidden_states", torch.stack(evaluated.hidden_states)
    student.train()
    outputs = []
    for pattern in case["patterns"]:
        choose(modules, pattern)
        outputs.append(student(**inputs, output_hidden_states=True))
    yield "out.last_hidden_state", torch.stack([output.last_hidden_state for output in outputs])
    yield "out.pooler_output", torch.stack([output.pooler_output for output in outputs])
    yield "out.n_hidden_states", torch.tensor([len(output.hidden_states) for output in outputs])


class OldAdamW(Optimizer):
    """AdamW as in transformers 2.4: epsilon before the bias correction, and decay after the step, of its result."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group["lr"], group["weight_decay"])

    def _move(self, parameter: Tensor, gradient: Tensor, rate: float, decay: float) -> None:
        state = self.state[parameter]
        if not state:
            state.update(step=0, mean=torch.zeros_like(parameter), square=torch.zeros_like(parameter))
        state["step"] += 1
        mean = state["mean"].mul_(0.9).add_(gradient, alpha=0.1)
        square = state["square"].mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        corrected = rate * (1 - 0.999 ** state["step"]) ** 0.5 / (1 - 0.9 ** state["step"])
        parameter.addcdiv_(mean, square.sqrt().add_(1e-8), value=-corrected)
        parameter.mul_(1 - rate * decay)


@check("theseus_train_loop")
def train_loop(case: Case) -> Iterator[tuple[str, Tensor]]:
    """Twice: what is not sampled stays (torch 2), or moves on (gradients filled with zeros)."""
    replacement, every = case.params["replacement"], case.params["gradient_accumulation_steps"]
    steps = [step for step in range(case.params["optimizer_steps"]) for _ in range(every)]
    rates = [linear_rate(step, replacement["b"], replacement["k"]) for step in steps]
    yield "out.rate", torch.tensor(rates, dtype=torch.float64)
    for ending, moves in (("", False), ("_zero_filled", True)):
        losses, norms, own_norms, final = trained(case, moves=moves)
        yield f"out.loss_unscaled{ending}", torch.stack(losses)
        yield f"out.total_grad_norm_all_parameters{ending}", torch.stack(norms)
        yield f"out.grad_norm_successor_only{ending}", torch.stack(own_norms)
        yield from ((f"out.successor_final{ending}.{name}", value) for name, value in final.items())


def trained(case: Case, *, moves: bool) -> tuple[list[Tensor], list[Tensor], list[Tensor], dict[str, Tensor]]:
    """Losses, norms of all gradients and of the successor's before clipping, and the successor's weights at the end."""
    params = case.params
    student, modules = hybrid(case, BertForSequenceClassification)
    student.train()
    everything = list(student.parameters())
    learns = [value for module in modules for value in module.successor.parameters()]
    optimizer = OldAdamW(groups(modules, params["weight_decay"]))
    clip, only_measure = clip_norm(params["max_grad_norm"]), clip_norm(None)
    losses, norms, own_norms, sampled = [], [], [], set[int]()
    every = params["gradient_accumulation_steps"]
    for update in range(params["optimizer_steps"]):
        for micro in range(update * every, (update + 1) * every):
            choose(modules, case["patterns"][micro])
            logits = student(**{name: case[name][micro] for name in INPUTS}).logits
            losses.append(F.cross_entropy(logits, case["labels"][micro]))
            (losses[-1] / every).backward()
            if moves:
                move_unsampled(modules, sampled)
        own_norms.append(only_measure(learns).clone())
        norms.append(clip(everything))
        for group in optimizer.param_groups:
            group["lr"] = params["learning_rate"] * multiplier("linear", update, params["optimizer_steps"], 0)
        optimizer.step()
        student.zero_grad(set_to_none=True)
    names = {f"bert.encoder.layer.{i}.": module.successor for i, module in enumerate(modules)}
    final = {head + name: value for head, layer in names.items() for name, value in layer.named_parameters()}
    return [loss.detach() for loss in losses], norms, own_norms, final


def groups(modules: Sequence[Replaceable], decay: float) -> list[dict[str, Any]]:
    named = [pair for module in modules for pair in module.successor.named_parameters()]
    plain = [value for name, value in named if name.endswith("bias") or "LayerNorm.weight" in name]
    decayed = [value for name, value in named if not (name.endswith("bias") or "LayerNorm.weight" in name)]
    return [{"params": decayed, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]
