"""The plugin `onnx`: what it writes answers as torch does, and says so; what does not is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from potstill_onnx.convert import convert
from potstill_onnx.parity import agreement
from potstill_onnx.plugin import Onnx
from potstill_onnx.session import Session
from torch import nn
from transformers import (
    AutoTokenizer,
    BertConfig,
)

from plugins.onnx.tests.jobs import CLASSES, LONGEST, NAMES, Bag, bert, export, inputs, job_for, task_of
from potstill.batch import IGNORED
from potstill.errors import PotstillError
from potstill.export import Artifact, ExportJob
from potstill.timing import Speedup


def test_a_row_for_teacher_student_and_int8_with_scores_sizes_and_latency(exported: tuple[ExportJob, Artifact]) -> None:
    job, artifact = exported
    rows = {row["model"]: row for row in artifact.rows}
    assert list(rows) == ["teacher (onnx)", "student (onnx)", "student (onnx int8)"]
    assert rows["teacher (onnx)"]["speedup"] == 1
    for row, timing in zip(rows.values(), artifact.facts["timing"], strict=True):
        assert 0 < row["p50_ms"] <= row["p95_ms"]
        found = timing["speedup"] and Speedup(**timing["speedup"])
        assert row["speedup"] == (found.shown if found else 1)
        assert found is None or (found.over == "teacher (onnx)" and found.low <= found.ratio <= found.high)
        assert {"accuracy", "macro_f1"} <= set(row)
    student, int8 = rows["student (onnx)"], rows["student (onnx int8)"]
    assert student["parameters"] == sum(weight.numel() for weight in job.student.module.parameters())
    assert student["bytes"] == (job.folder / "model.onnx").stat().st_size
    assert 4 * student["parameters"] < student["bytes"] < 4 * student["parameters"] + 60_000
    assert int8["bytes"] < student["bytes"]
    assert int8["parameters"] == student["parameters"]


def test_scores_are_those_of_onnx_runtime_on_rows_with_a_label(exported: tuple[ExportJob, Artifact]) -> None:
    job, artifact = exported
    session = onnxruntime.InferenceSession(job.folder / "model.onnx")
    right = total = 0
    for batch in job.batches(64):
        answer = session.run(["logits"], {name: batch.student[name].numpy() for name in NAMES})[0].argmax(-1)
        kept = batch.labels.numpy() != IGNORED
        right, total = right + (answer == batch.labels.numpy())[kept].sum(), total + kept.sum()
    assert total == 8
    assert artifact.rows[1]["accuracy"] == pytest.approx(right / total)


def test_the_teacher_is_scored_on_its_own_inputs(exported: tuple[ExportJob, Artifact]) -> None:
    job, artifact = exported
    assert job.teacher is not None
    assert job.teacher_batches is not None
    module = job.teacher.module.eval()
    with torch.no_grad():
        logits = torch.cat([module(**batch.student).logits for batch in job.teacher_batches(64)])
    labels = torch.cat([batch.labels for batch in job.batches(64)])
    expected = job.task.score(logits.numpy(), labels.numpy())
    assert artifact.rows[0]["accuracy"] == pytest.approx(expected["accuracy"])


def test_facts_hold_parity_of_every_row_and_of_the_grid(exported: tuple[ExportJob, Artifact]) -> None:
    _, artifact = exported
    facts = json.loads(json.dumps(artifact.facts))
    parity = facts["parity"]["student (onnx)"]
    assert parity["rows"] == 9
    assert parity["max_difference"] < 5e-6
    assert parity["equal_predictions"] == 1
    assert parity["torch"] == pytest.approx(parity["onnx"])
    shapes = {(case["batch"], case["length"]) for case in parity["grid"]}
    assert {(1, 1), (2, LONGEST)} <= shapes
    assert all(case["max_difference"] < 5e-6 for case in parity["grid"])
    teacher = facts["parity"]["teacher (onnx)"]
    assert (teacher["rows"], teacher["equal_predictions"]) == (9, 1)
    assert teacher["max_difference"] < 5e-6
    assert teacher["torch"] == pytest.approx(teacher["onnx"])
    assert 0 < facts["parity"]["student (onnx int8)"]["max_difference"] < 1
    assert [timing["name"] for timing in facts["timing"]] == [row["model"] for row in artifact.rows]
    assert [timing["path"] for timing in facts["timing"]] == ["teacher.onnx", "model.onnx", "model.int8.onnx"]
    assert all(timing["length"] == LONGEST and timing["threads"] == 1 for timing in facts["timing"])
    assert facts["versions"]["torch"] == torch.__version__


def test_tokenizer_and_label_names_lie_beside_the_model(exported: tuple[ExportJob, Artifact]) -> None:
    job, artifact = exported
    card = json.loads((job.folder / "potstill.json").read_text())
    assert card["labels"] == ["arts", "science", "sports"]
    assert card["inputs"] == NAMES
    assert card["max_length"] == LONGEST
    assert AutoTokenizer.from_pretrained(job.folder)("w3 w4")["input_ids"] == [2, 8, 9, 3]
    assert set(artifact.files) == {path for path in job.folder.rglob("*") if path.is_file()}


def test_an_export_answers_at_batch_sizes_and_lengths_that_it_never_saw(exported: tuple[ExportJob, Artifact]) -> None:
    job, _ = exported
    session = Session(job.folder / "model.onnx")
    module = bert().eval()
    for rows, length in [(1, 1), (1, LONGEST), (7, 2), (2, 1), (13, LONGEST)]:
        made = inputs(rows, length, seed=rows)
        with torch.no_grad():
            expected = module(**made).logits.numpy()
        np.testing.assert_allclose(session.logits(made), expected, atol=3e-6)


def test_without_dynamic_shapes_the_exporter_fixes_the_examples_shape(tmp_path: Path) -> None:
    """Why `convert` names the axes: this is what torch does otherwise."""
    made = dict(list(inputs(3, 7).items())[:2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(Bag().eval(), kwargs=made, dynamo=True, verbose=False)
    assert program is not None
    program.save(tmp_path / "fixed.onnx")
    with pytest.raises(Exception, match="invalid dimensions"):
        Session(tmp_path / "fixed.onnx").logits(inputs(2, 7))
    convert(Bag(), task_of(), made, tmp_path / "free.onnx", max_length=LONGEST)
    assert Session(tmp_path / "free.onnx").logits(inputs(2, 5)).shape == (2, CLASSES)


def test_export_leaves_every_submodule_in_the_mode_and_attention_it_had(
    exported: tuple[ExportJob, Artifact], fused: tuple[ExportJob, Artifact]
) -> None:
    module, untouched = exported[0].student.module, bert()
    inner = set(module.bert.encoder.layer[1].modules())
    assert {part for part in module.modules() if not part.training} == inner
    assert module.config._attn_implementation == "sdpa" == untouched.config._attn_implementation
    assert fused[0].student.module.config._attn_implementation == "sdpa"
    expected = untouched.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in module.state_dict().items())
    assert all(weight.requires_grad for weight in module.parameters())


def test_a_failed_export_leaves_mode_and_attention_too(tmp_path: Path) -> None:
    module = bert().train()
    with pytest.raises(PotstillError, match="could not be exported to ONNX"):
        convert(module, Unreadable(), inputs(2, 4), tmp_path / "a.onnx", max_length=LONGEST)
    assert module.training
    assert module.config._attn_implementation == "sdpa"


class Unreadable:
    """A task whose logits depend on the values of a tensor, which no graph can hold."""

    def logits(self, output: Any) -> torch.Tensor:
        return output.logits * float(np.asarray(output.logits.detach().tolist()).sum())


def test_dropout_is_off_in_the_file_of_a_model_in_train_mode(exported: tuple[ExportJob, Artifact]) -> None:
    job, _ = exported
    assert job.student.module.training
    assert "Dropout" not in {node.op_type for node in onnx.load(job.folder / "model.onnx").graph.node}


def test_logits_beyond_the_tolerance_are_refused_and_the_file_removed(tmp_path: Path) -> None:
    with pytest.raises(PotstillError, match=r"model\.onnx answers otherwise than torch: a logit is off by .*tolerance"):
        export(job_for(tmp_path, Bag()), tolerance=1e-12)
    assert not (tmp_path / "model.onnx").exists()


def test_a_logit_that_is_not_a_number_is_refused(tmp_path: Path) -> None:
    module = Bag()
    with torch.no_grad():
        module.head.bias[0] = float("nan")
    with pytest.raises(PotstillError, match="off by nan"):
        export(job_for(tmp_path, module), time=False)


def test_a_teacher_that_cannot_be_exported_does_not_cost_the_student(tmp_path: Path) -> None:
    class Stubborn(nn.Module):
        config = BertConfig()

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            weight = float(np.asarray(input_ids.tolist()).sum())
            return {"logits": torch.full((len(input_ids), CLASSES), weight)}

    job = job_for(tmp_path, Bag(), Stubborn())
    artifact = export(job, time=False, quantize=False)
    assert [row["model"] for row in artifact.rows] == ["student (onnx)"]
    assert any("The teacher is not compared in ONNX" in note for note in job.progress.notes)


def test_plugins_options_leave_out_what_is_not_wanted(tmp_path: Path) -> None:
    artifact = export(job_for(tmp_path, Bag(), Bag()), time=False, quantize=False, teacher=False)
    assert [row["model"] for row in artifact.rows] == ["student (onnx)"]
    assert "p50_ms" not in artifact.rows[0]
    assert not (tmp_path / "teacher.onnx").exists()
    with pytest.raises(ValueError, match="tolerance"):
        Onnx.Config(tolerance=0)


def test_regression_has_its_own_scores_and_no_share_of_equal_predictions(tmp_path: Path) -> None:
    artifact = export(job_for(tmp_path, Bag(labels=1), task=task_of("regression")), time=False)
    assert {"pearson", "mse"} <= set(artifact.rows[0])
    assert artifact.facts["parity"]["student (onnx)"]["equal_predictions"] is None


def test_a_job_without_rows_is_proved_on_the_grid_alone(tmp_path: Path) -> None:
    artifact = export(job_for(tmp_path, Bag(), rows=()), time=False)
    assert "accuracy" not in artifact.rows[0]
    parity = artifact.facts["parity"]["student (onnx)"]
    assert parity["rows"] == 0
    assert max(case["max_difference"] for case in parity["grid"]) < 5e-6


def test_the_exporter_is_silent_and_leaves_logging_as_it_was(tmp_path: Path) -> None:
    """In a process of its own: much of the noise comes with the first import of the exporter."""
    code = (
        f"import sys, logging, pathlib; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"import jobs as t; job = t.job_for(pathlib.Path({str(tmp_path)!r}), t.Bag())\n"
        "t.export(job, time=False); print(logging.root.manager.disable)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_the_file_names_no_path_of_the_machine_it_was_made_on(exported: tuple[ExportJob, Artifact]) -> None:
    content = (exported[0].folder / "model.onnx").read_bytes()
    assert b"site-packages" not in content
    assert b".py" not in content


def test_the_difference_of_two_models_is_the_largest_of_any_logit() -> None:
    one = [np.array([[1.0, 2.0], [3.0, 1.0]]), np.array([[0.0, 1.0]])]
    two = [np.array([[1.0, 2.5], [1.0, 3.0]]), np.array([[0.0, 1.0]])]
    found = agreement(zip(one, two, strict=True))
    assert found.max_difference == 2
    assert found.rows == 3
    assert found.equal_predictions == pytest.approx(2 / 3)
