"""Why the plugin does what it does: what the libraries beneath it do otherwise, seen failing."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx
import pytest
import torch
from onnxruntime.quantization import quantize_dynamic
from onnxruntime.transformers.optimizer import optimize_model
from potstill_onnx.parity import torch_logits
from potstill_onnx.quantize import quantize
from potstill_onnx.session import Session

from plugins.onnx.tests.jobs import NAMES, bert, inputs, task_of
from potstill.export import Artifact, ExportJob


@pytest.fixture(scope="module")
def sdpa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What torch writes of the tests' BERT if nobody minds its attention, and all that it notes down."""
    path = tmp_path_factory.mktemp("sdpa") / "model.onnx"
    module = bert().eval()
    assert module.config._attn_implementation == "sdpa"
    made = inputs(3, 7)
    axes = {0: "batch", 1: "sequence"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            kwargs=made,
            dynamo=True,
            dynamic_shapes=dict.fromkeys(NAMES, axes),
            opset_version=20,
            verbose=False,
        )
    assert program is not None
    program.save(path)
    return path


def fused_by_onnx_runtime(path: Path) -> int:
    """How many attentions ONNX Runtime's optimizer for BERT makes one node of."""
    found = optimize_model(str(path), model_type="bert", num_heads=2, hidden_size=32).get_fused_operator_statistics()
    return int(found["Attention"] + found["MultiHeadAttention"])


def test_onnx_runtimes_optimizer_for_bert_fuses_no_attention_of_an_sdpa_export(
    sdpa: Path, exported: tuple[ExportJob, Artifact], fused: tuple[ExportJob, Artifact]
) -> None:
    """Nor of the plain graph; so the node is written by the exporter itself."""
    assert fused_by_onnx_runtime(sdpa) == 0
    assert fused_by_onnx_runtime(exported[0].folder / "model.onnx") == 0
    assert fused_by_onnx_runtime(fused[0].folder / "model.onnx") == 2


def test_the_plain_graph_has_fewer_nodes_than_sdpas(sdpa: Path, exported: tuple[ExportJob, Artifact]) -> None:
    plain = exported[0].folder / "model.onnx"
    assert len(onnx.load(plain).graph.node) < len(onnx.load(sdpa).graph.node) - 20


def test_quantizing_what_the_exporter_wrote_fails_until_its_noted_shapes_are_dropped(
    sdpa: Path, tmp_path: Path
) -> None:
    assert onnx.load(sdpa).graph.value_info
    with pytest.raises(Exception, match="Inferred shape and existing shape differ"):
        quantize_dynamic(sdpa, tmp_path / "a.onnx")
    quantize(sdpa, tmp_path / "b.onnx")
    made, module = inputs(4, 5), bert().eval()
    expected = torch_logits(module, task_of(), made)
    assert abs(Session(tmp_path / "b.onnx").logits(made) - expected).max() < 0.2 * expected.std()
