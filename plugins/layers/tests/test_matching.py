"""What is matched with what: maps, projections, teachers, and what cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from plugins.layers.tests.stages import matches_of, stage_of, step_of, tables_of
from potstill.errors import PotstillError
from potstill.testing.tiny import bert


def told(options: dict[str, Any], data: Path, folder: Path, **more: Any) -> list[str]:
    """The matches that a stage explains."""
    stage = stage_of(tables_of({"kd": "none", **options}, **more), data, folder)
    with stage.exit:
        return matches_of(stage)


def test_without_options_evenly_spaced_hidden_states_are_matched_and_projected_where_widths_differ(
    teachers: dict[str, str], data: Path, tmp_path: Path
) -> None:
    stage = stage_of(tables_of({}, teachers["wide"]), data, tmp_path)
    with stage.exit:
        assert matches_of(stage) == [
            "teacher 0, student 0, loss hidden_mse, feature hidden, weight 1.0, projection linear 32 -> 48",
            "teacher 2, student 1, loss hidden_mse, feature hidden, weight 1.0, projection linear 32 -> 48",
            "teacher 4, student 2, loss hidden_mse, feature hidden, weight 1.0, projection linear 32 -> 48",
        ]
        assert stage.explained["layers"]["logits"] == "ce at temperature 4 (constant), times T², weight 1 (constant)"
        assert set(step_of(stage).terms()) == {
            "layers.hidden_mse_t0_s0", "layers.hidden_mse_t2_s1", "layers.hidden_mse_t4_s2", "layers.kd",
        }  # fmt: skip


def test_equal_widths_need_no_projection_and_get_one_where_it_is_asked_for(
    teachers: dict[str, str], data: Path, tmp_path: Path
) -> None:
    options = {"map": "last", "embeddings": False}
    bare = told({**options, "hidden": "cos"}, data, tmp_path, teacher=teachers["slim"])
    assert bare == [f"teacher {n + 1}, student {n}, loss cos, feature hidden, weight 1.0" for n in (1, 2)]
    asked = told({**options, "hidden": "cos", "projection": "tanh"}, data, tmp_path, teacher=teachers["slim"])
    assert asked == [f"{line}, projection tanh 32 -> 32" for line in bare]


@pytest.mark.parametrize(
    ("options", "pairs"),
    [
        ({"map": "uniform"}, ["teacher 0, student 0", "teacher 2, student 1", "teacher 4, student 2"]),
        ({"map": "first"}, ["teacher 0, student 0", "teacher 1, student 1", "teacher 2, student 2"]),
        ({"map": "last"}, ["teacher 0, student 0", "teacher 3, student 1", "teacher 4, student 2"]),
        ({"map": "skip", "embeddings": False}, ["teacher 2, student 1"]),
        ({"map": [-1, 1], "embeddings": False}, ["teacher 4, student 1", "teacher 1, student 2"]),
    ],
)
def test_a_map_is_a_strategy_or_the_teacher_s_layers(
    options: dict[str, Any], pairs: list[str], data: Path, tmp_path: Path
) -> None:
    lines = told({**options, "hidden": {"nst": 2}}, data, tmp_path)
    assert lines == [f"{pair}, loss nst, feature hidden, weight 2.0" for pair in pairs]


def test_the_embeddings_first_position_is_the_same_for_every_row_and_pkd_leaves_it_out(
    data: Path, tmp_path: Path
) -> None:
    lines = told({"hidden": {"pkd": 1, "nst": 1}, "attention": "attention_mse_sum"}, data, tmp_path)
    assert [line.split(", loss")[0] for line in lines if "pkd" in line] == [
        "teacher 2, student 1",
        "teacher 4, student 2",
    ]
    assert sum("nst" in line for line in lines) == 3
    assert sum("feature scores" in line for line in lines) == 2


def test_matches_one_by_one_name_any_layers_features_and_losses(data: Path, tmp_path: Path) -> None:
    matches = [
        {"teacher": -1, "student": 1, "loss": "hidden_mse", "weight": 0.5, "projection": "relu"},
        {"teacher": [1, 4], "student": [0, 2], "loss": "nst"},
        {"teacher": [0, 3], "student": [0, 2], "loss": "fsp"},
        {"teacher": 3, "student": 2, "loss": "attention_ce_mean"},
        {"teacher": 3, "student": 2, "loss": "attention_mse_sum", "feature": "attention"},
        {"loss": "cos", "feature": "pooled"},
    ]
    stage = stage_of(tables_of({"kd": "none", "matches": matches}), data, tmp_path)
    with stage.exit:
        assert matches_of(stage) == [
            "teacher 4, student 1, loss hidden_mse, feature hidden, weight 0.5, projection relu 32 -> 48",
            "teacher 1-4, student 0-2, loss nst, feature hidden, weight 1.0",
            "teacher 0-3, student 0-2, loss fsp, feature hidden, weight 1.0, projection linear 32 -> 48",
            "teacher 3, student 2, loss attention_ce_mean, feature scores, weight 1.0",
            "teacher 3, student 2, loss attention_mse_sum, feature attention, weight 1.0",
            "loss cos, feature pooled, weight 1.0, projection linear 32 -> 48",
        ]
        terms = step_of(stage).terms()
        assert {name: (term.weight, term.per.name) for name, term in terms.items()} == {
            "layers.hidden_mse_t4_s1": (0.5, "token"),
            "layers.nst_t1-4_s0-2": (1, "pair"),
            "layers.fsp_t0-3_s0-2": (1, "example"),
            "layers.attention_ce_mean_t3_s2": (1, "token"),
            "layers.attention_mse_sum_attention_t3_s2": (1, "pair"),
            "layers.cos_pooled": (1, "example"),
        }
        assert stage.explained["layers"]["logits"] == "not compared"


def test_projections_start_small_and_are_optimized_clipped_and_checkpointed(data: Path, tmp_path: Path) -> None:
    stage = stage_of(tables_of({"kd": "none"}), data, tmp_path)
    with stage.exit:
        names = [f"layers.hidden_mse_t{2 * layer}_s{layer}" for layer in (0, 1, 2)]
        assert list(stage.modules) == names
        linear = stage.modules[names[1]].linear
        assert isinstance(linear, nn.Linear)
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert not linear.bias.any()
        optimized = {id(p) for group in stage.make_optimizer().param_groups for p in group["params"]}
        assert {id(p) for p in linear.parameters()} <= optimized & {id(p) for p in stage.parameters}
        assert set(stage.state_dict()["modules"]) == set(names)
        step_of(stage).gradients()
        assert linear.weight.grad is not None
        assert linear.weight.grad.any()


def test_named_teachers_are_matched_each_and_their_mean_logits_are_learnt(
    teachers: dict[str, str], data: Path, tmp_path: Path
) -> None:
    matches = [
        {"teacher": 4, "student": 2, "loss": "hidden_mse", "of": "wide"},
        {"teacher": 3, "student": 2, "loss": "hidden_mse", "of": "slim"},
    ]
    options = {"matches": matches, "hidden": "cos", "map": "last", "of": "slim", "embeddings": False, "kd": "mse"}
    stage = stage_of(tables_of(options, teachers), data, tmp_path)
    with stage.exit:
        assert matches_of(stage) == [
            "of wide, teacher 4, student 2, loss hidden_mse, feature hidden, weight 1.0, projection linear 32 -> 48",
            "of slim, teacher 3, student 2, loss hidden_mse, feature hidden, weight 1.0",
            "of slim, teacher 2, student 1, loss cos, feature hidden, weight 1.0",
            "of slim, teacher 3, student 2, loss cos, feature hidden, weight 1.0",
        ]
        step = step_of(stage)
        terms = step.terms()
        assert "layers.hidden_mse_t4_s2_of_wide" in terms
        with torch.no_grad():
            logits = [model.module(**step.batch.teacher).logits for model in stage.teachers.values()]
        want = ((step.student().logits - (logits[0] + logits[1]) / 2) / 4).square().mean()
        torch.testing.assert_close(terms["layers.kd"].value, want)


def refused(tables: dict[str, Any], data: Path, folder: Path) -> str:
    """The sentence that a stage is refused with."""
    with pytest.raises(PotstillError) as caught:
        stage_of(tables, data, folder)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"matches": [{"teacher": 9, "student": 1, "loss": "nst"}]}, "write [9, 9] for the layer with itself"),
        ({"matches": [{"teacher": 9, "student": 1, "loss": "cos"}]}, "Layer 9 of the teacher is asked for, but it has"),
        ({"matches": [{"teacher": 1, "student": 0, "loss": "attention_mse_sum"}]}, "it has layers 1 to 2"),
        ({"matches": [{"teacher": [1, 2], "student": 1, "loss": "cos"}]}, "teacher = [1, 2] is two layers"),
        ({"matches": [{"teacher": 1, "loss": "cos"}]}, "'student' is missing: the layer whose hidden is compared"),
        ({"matches": [{"teacher": 1, "student": 1}]}, "'loss'"),
        ({"matches": [{"teacher": 1, "student": 1, "loss": "coss"}]}, "Did you mean 'cos'?"),
        (
            {"matches": [{"teacher": 1, "student": 1, "loss": "attention_ce_mean", "feature": "attention"}]},
            "feature = 'attention' is probabilities already",
        ),
        ({"matches": [{"teacher": 1, "student": 1, "loss": "cos", "feature": "scores"}]}, "compares hidden or pooled"),
        (
            {"matches": [{"teacher": 1, "student": 1, "loss": "attention_mse_sum", "projection": "relu"}]},
            "projection = 'relu' is for hidden states",
        ),
        ({"matches": [{"teacher": 1, "student": 1, "loss": "cos"}] * 2}, "'cos_t1_s1' is matched twice"),
        ({"matches": [{"teacher": 1, "loss": "cos", "feature": "pooled"}]}, "'pooled' is of the whole model"),
        ({"attention": "attention_mse"}, "the student has 2 heads and the teacher 4; take 'attention_mse_sum'"),
        ({"attention": "attention_ce"}, "take 'attention_ce_mean'"),
        ({"hidden": "pkd", "projection": "none"}, "the student is 32 wide and the teacher 48"),
        (
            {"hidden": "attention_mse"},
            "'hidden' = 'attention_mse' should be 'hidden_mse', 'cos', 'pkd', 'fsp' or 'nst'",
        ),
        ({"hidden": {"nst": 0}}, "nst = 0 is its weight on the map, which must be above 0"),
        ({"map": [1, 2, 3]}, "map = [1, 2, 3] names 3 layers of the teacher, and the student has 2"),
        ({"map": "evenly"}, "'map' = 'evenly'"),
        ({"of": "big"}, "of = 'big' is no teacher of the stage 'distil'; its teachers: none with a name"),
        ({"matches": []}, "nothing is matched, kd = 'none' and hard_weight = 0, so there is no loss at all"),
        ({"kd": "ce"}, "The teacher's logits are looked at in the stage 'distil', but no checkpoint gave its"),
    ],
)
def test_what_cannot_be_matched_is_one_sentence(
    options: dict[str, Any], sentence: str, data: Path, tmp_path: Path
) -> None:
    assert sentence in refused(tables_of({"kd": "none", **options}), data, tmp_path)


def test_a_map_needs_a_layer_for_every_layer(data: Path, tmp_path: Path) -> None:
    skipped = tables_of({"kd": "none", "map": "skip"}, student=bert(1))
    assert "map = 'skip' leaves the student's only layer out" in refused(skipped, data, tmp_path)


def test_several_teachers_without_a_name_are_refused_for_layers(
    teachers: dict[str, str], data: Path, tmp_path: Path
) -> None:
    assert "has the teachers wide, slim" in refused(tables_of({}, teachers), data, tmp_path)


def test_only_what_compares_position_by_position_needs_one_tokenizer(
    teachers: dict[str, str], data: Path, tmp_path: Path
) -> None:
    words = (data / "vocab.txt").read_text().splitlines()
    (tmp_path / "other.txt").write_text("\n".join([*words[:5], *sorted(words[5:])]) + "\n")
    matches = [{"loss": "pkd", "teacher": 4, "student": 2}, {"loss": "cos", "feature": "pooled"}]
    tables = tables_of({"matches": matches}, teachers["wide"])
    tables["student"]["tokenizer"] = str(tmp_path / "other.txt")
    stage = stage_of(tables, data, tmp_path)
    with stage.exit:
        assert set(step_of(stage).terms()) == {"layers.pkd_t4_s2", "layers.cos_pooled", "layers.kd"}
    tables["stage"][0]["layers"] = {"matches": [*matches, {"loss": "nst", "teacher": [4, 4], "student": [2, 2]}]}
    assert "'nst_t4_s2' compares position by position" in refused(tables, data, tmp_path)
