"""The plugin's terms in real stages: their values, their schedules, their shares, and that a run resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from plugins.layers.tests.stages import stage_of, step_of, tables_of
from potstill.runner import run
from potstill.stage import Stage
from potstill.testing import assert_resumes_exactly, weights
from potstill.testing.tiny import bert

EVERYTHING = {
    "hidden": {"hidden_mse": 1.0, "cos": 1.0, "pkd": 1.0, "fsp": 1.0, "nst": 1.0},
    "attention": {"attention_mse_sum": 1.0, "attention_ce_mean": 0.5},
    "hard_weight": 0.5,
}


def inside(stage: Stage, side: str, inputs: dict[str, Tensor]) -> Any:
    """All that a model hands out by itself, with attention as transformers computes it."""
    module = (stage.teacher if side == "teacher" else stage.student).module
    module.set_attn_implementation("eager")
    return module(**inputs, output_hidden_states=True, output_attentions=True)


def test_the_terms_are_the_losses_of_what_the_models_hand_out_themselves(data: Path, tmp_path: Path) -> None:
    matches = [
        {"loss": "attention_mse_sum", "teacher": 3, "student": 2, "feature": "attention"},
        {"loss": "hidden_mse", "teacher": 0, "student": 0},
        {"loss": "hidden_mse", "teacher": 4, "student": 1},
    ]
    stage = stage_of(tables_of({"kd": "none", "matches": matches}), data, tmp_path)
    with stage.exit:
        step = step_of(stage)
        terms = {name: term.value for name, term in step.terms().items()}
    mask = step.batch.student["attention_mask"].bool()
    student, teacher = (inside(stage, side, step.batch.student) for side in ("student", "teacher"))
    for ours, theirs in ((0, 0), (1, 4)):
        name = f"layers.hidden_mse_t{theirs}_s{ours}"
        projected = stage.modules[name](student.hidden_states[ours])
        torch.testing.assert_close(terms[name], F.mse_loss(projected[mask], teacher.hidden_states[theirs][mask]))
    pairs = mask[:, :, None] & mask[:, None, :]
    apart = student.attentions[1].sum(1) - teacher.attentions[2].sum(1)
    want = apart[pairs].square().mean()
    torch.testing.assert_close(terms["layers.attention_mse_sum_attention_t3_s2"], want, rtol=1e-4, atol=1e-7)


def test_padding_counts_where_it_is_asked_for(data: Path, tmp_path: Path) -> None:
    options = {"kd": "none", "map": "last", "embeddings": False, "hidden": {"hidden_mse": 1, "nst": 1}}
    stage = stage_of(tables_of({**options, "padding": True}), data, tmp_path)
    with stage.exit:
        step = step_of(stage)
        assert not step.batch.student["attention_mask"].all()
        terms = step.terms()
    student, teacher = (inside(stage, side, step.batch.student) for side in ("student", "teacher"))
    projected = stage.modules["layers.hidden_mse_t4_s2"](student.hidden_states[2])
    term = terms["layers.hidden_mse_t4_s2"]
    torch.testing.assert_close(term.value, F.mse_loss(projected, teacher.hidden_states[4]))
    assert (term.per.name, terms["layers.nst_t4_s2"].per.name) == ("position", "position_pair")


def test_weights_fall_and_grow_over_the_stage_and_are_never_zero(
    teachers: dict[str, str], data: Path, tmp_path: Path
) -> None:
    options = {
        "matches": [],
        "kd_weight": 0.8,
        "hard_weight": 0.4,
        "kd_weight_schedule": "linear_decay",
        "hard_weight_schedule": "linear_growth",
    }
    stage = stage_of(tables_of(options, teachers["wide"]), data, tmp_path)
    with stage.exit:
        found = [[term.weight for term in step_of(stage, update).terms().values()] for update in (0, 3, 7)]
        want = [[0.8 * (1 - x), 0.4 * x] for x in (0.5 / 8, 3.5 / 8, 7.5 / 8)]
        assert found == [pytest.approx(pair) for pair in want]
    stage = stage_of(tables_of({**options, "reference": "textbrewer"}, teachers["wide"]), data, tmp_path)
    with stage.exit:
        found = [[term.weight for term in step_of(stage, update).terms().values()] for update in (0, 3, 7)]
        assert found == [[0.8, 0.4], [5 / 8, 3 / 8], [1 / 8, 7 / 8]]


def test_accumulating_uneven_micro_batches_trains_the_weights_of_the_large_batch(
    teachers: dict[str, str], data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("potstill_accumulate")
    tables = tables_of(EVERYTHING, teachers["wide"])

    def trained(name: str, size: int, group: int) -> dict[str, Tensor]:
        stage = {
            **tables["stage"][0],
            "plugins": ["layers", "accumulate"],
            "accumulate": {"batches": group},
            "batch_size": size,
            "updates": 1,
            "warmup": 0,
            "schedule": "constant",
            "epsilon": 1e-3,
        }
        run({**tables, "stage": [stage]}, folder=tmp_path / name, data_root=data)
        return weights(tmp_path / name, "distil")

    whole, parts = trained("whole", 96, 1), trained("parts", 16, 6)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-5, atol=1e-8)


def test_projections_and_schedules_resume_exactly(teachers: dict[str, str], data: Path, tmp_path: Path) -> None:
    options = {
        **EVERYTHING,
        "projection": "tanh",
        "temperature_schedule": "flsw",
        "kd_weight_schedule": "linear_decay",
        "hard_weight_schedule": "linear_growth",
        "probability_shift": True,
    }
    tables = tables_of(options, teachers["wide"], bert(2))
    tables["stage"][0].update(checkpoint_every=2, updates=6, log_every=1)
    assert_resumes_exactly(tables, data=data, folder=tmp_path, stage="distil", after=5)
