"""The plugin `onnx`: what it writes answers as torch does, and says so; what does not is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnxruntime.quantization import quantize_dynamic
from potstill_onnx.convert import convert
from potstill_onnx.parity import agreement
from potstill_onnx.plugin import Onnx
from potstill_onnx.quantize import quantize
from potstill_onnx.session import Session
from torch import nn
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from potstill.batch import IGNORED, Batch
from potstill.errors import ModelError, PotstillError
from potstill.export import Artifact, ExportJob
from potstill.models import Model
from potstill.progress import Progress
from potstill.recipe import TaskConfig
from potstill.tasks.classification import TextClassification
from potstill.tasks.regression import Regression

VOCABULARY, LONGEST, CLASSES = 90, 24, 3
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(VOCABULARY - 5))]
NAMES = ["input_ids", "attention_mask", "token_type_ids"]


def bert(layers: int = 2, vocabulary: int = VOCABULARY, labels: int = CLASSES, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=LONGEST,
        num_labels=labels,
        initializer_range=0.3,  # logits far apart, so that a wrong mask shows
    )
    return BertForSequenceClassification(config)


class Bag(nn.Module):
    """The mean of the tokens' vectors, and a head: the smallest model that must mind its mask."""

    def __init__(self, labels: int = CLASSES) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(VOCABULARY, 32)
        self.inner, self.dropout, self.head = nn.Linear(32, 64), nn.Dropout(0.5), nn.Linear(64, labels)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        mask = attention_mask[..., None].float()
        mean = (self.table(input_ids) * mask).sum(1) / mask.sum(1)
        return {"logits": self.head(self.dropout(self.inner(mean).relu()))}


def inputs(rows: int, length: int, vocabulary: int = VOCABULARY, seed: int = 0) -> dict[str, torch.Tensor]:
    """Ragged rows, the first one full."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, length + 1, (rows,), generator=draw)
    lengths[0] = length
    mask = (torch.arange(length)[None] < lengths[:, None]).long()
    ids = torch.randint(5, vocabulary, (rows, length), generator=draw) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}


class Told(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def task_of(kind: str = "text-classification") -> Any:
    if kind == "regression":
        return Regression(TaskConfig(kind="regression"), None)
    return TextClassification(TaskConfig(), ["arts", "science", "sports"])


def job_for(
    folder: Path, student: nn.Module, teacher: nn.Module | None = None, rows: tuple[int, ...] = (5, 4), **changes: Any
) -> ExportJob:
    """Validation batches of the given sizes; the teacher reads other ids of another length. Row 0 has no label."""
    task = changes.pop("task", None) or task_of()
    made = []
    for number, size in enumerate(rows):
        labels = torch.arange(size) % CLASSES if task.names else torch.arange(size) / 7
        if task.names and number == 0:
            labels[0] = IGNORED
        own, theirs = inputs(size, 9 + number, seed=number), inputs(size, 14, vocabulary=40, seed=number)
        made.append(Batch(own, theirs, labels, torch.arange(size)))

    def batches(size: int) -> Iterator[Batch]:
        yield from made

    vocabulary = {word: number for number, word in enumerate(WORDS)}
    folder.mkdir(parents=True, exist_ok=True)
    return ExportJob(
        student=Model(student, BertTokenizer(vocab=vocabulary)),
        teacher=Model(teacher, BertTokenizer(vocab=vocabulary)) if teacher else None,
        task=task,
        folder=folder,
        batches=batches,
        max_length=LONGEST,
        progress=Told(),
        **changes,
    )


def export(job: ExportJob, **options: Any) -> Artifact:
    return Onnx(Onnx.Config(**{"rounds": 2, **options})).export(job)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[ExportJob, Artifact]:
    """One whole export, timed: a student partly in train mode, INT8, a teacher of another vocabulary."""
    student = bert().train()
    student.bert.encoder.layer[1].eval()
    job = job_for(tmp_path_factory.mktemp("export"), student, bert(layers=1, vocabulary=40, seed=1))
    return job, export(job)


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> tuple[ExportJob, Artifact]:
    """The same student with fused attention."""
    job = job_for(tmp_path_factory.mktemp("fused"), bert())
    return job, export(job, attention="fused", time=False)


def test_a_row_for_teacher_student_and_int8_with_scores_sizes_and_latency(exported: tuple[ExportJob, Artifact]) -> None:
    job, artifact = exported
    rows = {row["model"]: row for row in artifact.rows}
    assert list(rows) == ["teacher (onnx)", "student (onnx)", "student (onnx int8)"]
    assert rows["teacher (onnx)"]["speedup"] == 1
    for row in rows.values():
        assert 0 < row["p50_ms"] <= row["p95_ms"]
        assert row["speedup"] == rows["teacher (onnx)"]["p50_ms"] / row["p50_ms"]
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
    module = job.teacher.module.eval()
    with torch.no_grad():
        logits = torch.cat([module(**batch.teacher).logits for batch in job.batches(64)])
    labels = torch.cat([batch.labels for batch in job.batches(64)])
    expected = job.task.score(logits.numpy(), labels.numpy())
    assert artifact.rows[0]["accuracy"] == pytest.approx(expected["accuracy"])


def test_facts_hold_parity_of_every_row_and_of_the_grid(exported: tuple[ExportJob, Artifact]) -> None:
    _, artifact = exported
    facts = json.loads(json.dumps(artifact.facts))
    parity = facts["parity"]["student (onnx)"]
    assert parity["rows"] == 9
    assert parity["max_difference"] < 2e-6
    assert parity["equal_predictions"] == 1
    assert parity["torch"] == pytest.approx(parity["onnx"])
    shapes = {(case["batch"], case["length"]) for case in parity["grid"]}
    assert {(1, 1), (2, LONGEST)} <= shapes
    assert all(case["max_difference"] < 2e-6 for case in parity["grid"])
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


@pytest.mark.parametrize("kind", ["exported", "fused"])
def test_int8_of_either_attention_is_near_fp32_and_smaller(kind: str, request: pytest.FixtureRequest) -> None:
    job, artifact = request.getfixturevalue(kind)
    made = inputs(20, 12)
    exact, int8 = (Session(job.folder / name).logits(made) for name in ("model.onnx", "model.int8.onnx"))
    assert 0 < np.abs(int8 - exact).max() < 0.2 * exact.std()
    operators = {node.op_type for node in onnx.load(job.folder / "model.int8.onnx").graph.node}
    assert operators & {"MatMulInteger", "DynamicQuantizeMatMul"}
    assert artifact.facts["parity"]["student (onnx int8)"]["rows"] == 9


def test_quantizing_does_not_trip_over_the_shapes_that_a_file_states(
    exported: tuple[ExportJob, Artifact], tmp_path: Path
) -> None:
    """The trap: what an exporter wrote down about inner values contradicts what quantization infers."""
    model = onnx.load(exported[0].folder / "model.onnx")
    output = next(node.output[0] for node in model.graph.node if node.op_type == "MatMul")
    del model.graph.value_info[:]
    model.graph.value_info.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, [7, 7, 7, 7]))
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(Exception, match=r"(?i)infer|shape|rank"):
        quantize_dynamic(tmp_path / "a.onnx", tmp_path / "b.onnx")
    quantize(tmp_path / "a.onnx", tmp_path / "c.onnx")
    made = inputs(4, 5)
    found, expected = Session(tmp_path / "c.onnx"), Session(exported[0].folder / "model.int8.onnx")
    np.testing.assert_array_equal(found.logits(made), expected.logits(made))


def test_weights_that_the_graph_puts_together_are_quantized_too(tmp_path: Path) -> None:
    """As those of an LSTM, whose gates ONNX has in another order than torch."""

    class Shuffled(Bag):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
            first, second = self.inner.weight.chunk(2)
            weight = torch.cat((second, first))
            return {"logits": self.head((self.table(input_ids) @ weight.T).amax(1))}

    convert(Shuffled(), task_of(), inputs(2, 4), tmp_path / "a.onnx", max_length=LONGEST)
    assert {node.op_type for node in onnx.load(tmp_path / "a.onnx").graph.node} & {"Split", "Concat"}
    quantize(tmp_path / "a.onnx", tmp_path / "b.onnx")
    operators = [node.op_type for node in onnx.load(tmp_path / "b.onnx").graph.node]
    assert operators.count("MatMulInteger") == 2
    assert not {"MatMul", "Split", "Concat"} & set(operators)


def test_a_scale_for_each_channel_is_nearer_to_fp32_than_one_a_matrix(tmp_path: Path) -> None:
    module = Bag().eval()
    with torch.no_grad():  # one channel much larger than the others
        module.inner.weight[3] *= 30
    convert(module, task_of(), inputs(2, 4), tmp_path / "a.onnx", max_length=LONGEST)
    made = inputs(40, 12)
    exact = Session(tmp_path / "a.onnx").logits(made)
    error = {}
    for per_channel in (False, True):
        quantize(tmp_path / "a.onnx", tmp_path / "b.onnx", per_channel=per_channel)
        error[per_channel] = np.abs(Session(tmp_path / "b.onnx").logits(made) - exact).mean()
    assert error[True] < 0.9 * error[False]


def test_fused_attention_is_one_node_a_layer_and_answers_the_same(fused: tuple[ExportJob, Artifact]) -> None:
    job, artifact = fused
    operators = [node.op_type for node in onnx.load(job.folder / "model.onnx").graph.node]
    assert operators.count("MultiHeadAttention") == 2
    assert "Softmax" not in operators
    assert artifact.facts["parity"]["student (onnx)"]["max_difference"] < 2e-6
    assert artifact.facts["attention"] == "fused"


def test_a_model_without_attention_is_exported_plain_and_refused_fused(tmp_path: Path) -> None:
    artifact = export(job_for(tmp_path / "plain", Bag()), time=False)
    assert artifact.facts["parity"]["student (onnx)"]["max_difference"] < 1e-6
    assert Session(tmp_path / "plain" / "model.onnx").inputs == NAMES[:2]
    with pytest.raises(ModelError, match="A Bag has no attention that can be fused"):
        export(job_for(tmp_path / "fused", Bag()), attention="fused", time=False)


def test_other_families_of_encoders_are_exported_too(tmp_path: Path) -> None:
    small = {"vocab_size": VOCABULARY, "num_labels": CLASSES, "initializer_range": 0.3}
    distilbert = DistilBertForSequenceClassification(
        DistilBertConfig(dim=32, n_layers=1, n_heads=2, hidden_dim=64, max_position_embeddings=LONGEST, **small)
    )
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    roberta = RobertaForSequenceClassification(
        RobertaConfig(max_position_embeddings=LONGEST + 2, type_vocab_size=1, pad_token_id=1, **shape, **small)
    )
    for kind, module in (("plain", distilbert), ("fused", roberta)):
        job = job_for(tmp_path / kind, module)
        parity = export(job, attention=kind, time=False, quantize=False).facts["parity"]["student (onnx)"]
        assert parity["max_difference"] < 5e-6
        assert max(case["max_difference"] for case in parity["grid"]) < 5e-6


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
        f"import test_onnx_export as t; job = t.job_for(pathlib.Path({str(tmp_path)!r}), t.Bag())\n"
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
    found = agreement(one, two)
    assert found.max_difference == 2
    assert found.rows == 3
    assert found.equal_predictions == pytest.approx(2 / 3)
